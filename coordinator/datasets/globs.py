"""Globs over folders: ``*``, ``?``, ``[...]`` within a name, ``**`` for any folders, matched while walking.

`walk` goes through a file system's folders; `PathMatcher` judges the paths of a store that lists them all.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import translate

ANY_FOLDERS = "**"
_MAGIC = re.compile(r"[*?\[]")
_ESCAPED = re.compile(r"\[([*?\[])\]")
"""A wildcard that stands for itself, as `glob.escape` writes it."""


def is_glob(uri: str) -> bool:
    """Whether a path holds a wildcard."""
    return _MAGIC.search(uri) is not None


def split_glob(uri: str) -> tuple[str, tuple[str, ...]]:
    """The folder before the first wildcard and the names and patterns below it.

    ``[*]``, ``[?]`` and ``[[]`` stand for a character, and are no wildcards.
    """
    names = uri.split("/")
    first = next((i for i, name in enumerate(names) if is_glob(_ESCAPED.sub("", name))), len(names) - 1)
    folder = "/".join(_ESCAPED.sub(r"\1", name) for name in names[:first])
    return folder or "/", tuple(name for name in names[first:] if name)


def literal_start(pattern: str) -> str:
    """What every name that a pattern matches begins with."""
    found = _MAGIC.search(pattern)
    return pattern[: found.start()] if found else pattern


class Excludes:
    """The job's `exclude`: globs that leave out files, and folders with all that is below them.

    Patterns are matched against the path below the folder that a URI names, at any depth unless they begin with /.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        relative = [pattern for pattern in patterns if not _is_absolute(pattern)]
        absolute = [pattern for pattern in patterns if _is_absolute(pattern)]
        self._relative = re.compile("|".join(f"(?:(?:.*/)?{_regex(pattern)})" for pattern in relative) or r"(?!)")
        self._absolute = re.compile("|".join(f"(?:{_regex(pattern)})" for pattern in absolute) or r"(?!)")
        self._any_absolute = bool(absolute)

    def hits(self, path: str, root_length: int) -> bool:
        """Whether the file or folder `path`, ``path[root_length:]`` below its URI's folder, is left out."""
        if self._relative.fullmatch(path, root_length):
            return True
        return self._any_absolute and self._absolute.fullmatch(path) is not None


def _is_absolute(pattern: str) -> bool:
    return pattern.startswith("/") or "://" in pattern


def _regex(pattern: str) -> str:
    """A glob as a regular expression; one that ends with /** or / also means the folder itself."""
    pattern = pattern.rstrip("/").removesuffix("/**")
    parts = []
    for name in pattern.split("/"):
        parts.append("(?:.*/)?" if name == ANY_FOLDERS else _name_regex(name) + "/")
    return "".join(parts).removesuffix("/")


def _name_regex(name: str) -> str:
    inner = translate(name).removeprefix("(?s:").removesuffix(r")\Z").removesuffix(r")\z")
    # fnmatch's * crosses folders.
    return inner.replace(".*", "[^/]*")


def walk(
    root: str,
    patterns: Sequence[str],
    excludes: Excludes,
    is_hidden: Callable[[str], bool],
    folders: list[str] | None = None,
) -> Iterator[os.DirEntry[str]]:
    """Files below `root` that match the patterns, one pattern per level, in no particular order.

    Links are followed, but not into a folder that is being walked. Names for which `is_hidden` is true are passed over
    unless their pattern names the first character itself. Folders that match are added to `folders`.

    Raises:
        OSError: a folder can't be listed.
    """
    compiled = [None if name == ANY_FOLDERS else re.compile(translate(name)) for name in patterns]
    root_length = len(root.rstrip("/")) + 1
    todo: list[tuple[str, frozenset[int], frozenset[tuple[int, int]]]] = [(root, frozenset({0}), frozenset())]
    while todo:
        folder, states, above = todo.pop()
        found = os.stat(folder)
        if (identity := (found.st_dev, found.st_ino)) in above:
            continue
        inside = above | {identity}
        states = _after_any(states, compiled)
        with os.scandir(folder) as entries:
            for entry in entries:
                following, is_match = _step(entry.name, states, patterns, compiled, is_hidden(entry.name))
                if not (following or is_match) or excludes.hits(entry.path, root_length):
                    continue
                if entry.is_dir():
                    if is_match and folders is not None and ANY_FOLDERS not in patterns:
                        folders.append(entry.path)
                    if following:
                        todo.append((entry.path, following, inside))
                elif is_match and (entry.is_file() or entry.is_symlink()):
                    yield entry


class PathMatcher:
    """The paths below `root` that match the patterns, as `walk` finds them, judged one by one."""

    def __init__(
        self, root: str, patterns: Sequence[str], excludes: Excludes, is_hidden: Callable[[str], bool]
    ) -> None:
        self.folders: set[str] = set()  # that match, of the paths judged
        self._patterns = patterns
        self._compiled = [None if name == ANY_FOLDERS else re.compile(translate(name)) for name in patterns]
        self._excludes = excludes
        self._is_hidden = is_hidden
        self._root_length = len(root) + 1
        self._states = {root: _after_any(frozenset({0}), self._compiled)}

    def hits(self, path: str) -> bool:
        """Whether the file at `path`, which lies below the root, matches."""
        folder, _, name = path.rpartition("/")
        states = self._states_in(folder)
        if not states or self._excludes.hits(path, self._root_length):
            return False
        return _step(name, states, self._patterns, self._compiled, self._is_hidden(name))[1]

    def _states_in(self, folder: str) -> frozenset[int]:
        """The states in which names in `folder` are met; none where nothing below it can match."""
        known = self._states.get(folder)
        if known is not None:
            return known
        above, _, name = folder.rpartition("/")
        states = self._states_in(above)
        if states and not self._excludes.hits(folder, self._root_length):
            states, is_match = _step(name, states, self._patterns, self._compiled, self._is_hidden(name))
            if is_match and ANY_FOLDERS not in self._patterns:
                self.folders.add(folder)
            states = _after_any(states, self._compiled)
        else:
            states = frozenset()
        self._states[folder] = states
        return states


def _after_any(states: frozenset[int], compiled: Sequence[re.Pattern[str] | None]) -> frozenset[int]:
    """The states reached without a name, as ** may stand for no folder at all."""
    reached = set(states)
    for state in sorted(states):
        at = state
        while at < len(compiled) and compiled[at] is None:
            at += 1
            reached.add(at)
    return frozenset(reached)


def _step(
    name: str,
    states: frozenset[int],
    patterns: Sequence[str],
    compiled: Sequence[re.Pattern[str] | None],
    hidden: bool,
) -> tuple[frozenset[int], bool]:
    """The states after a name, and whether a file of that name matches."""
    following: set[int] = set()
    is_match = False
    last = len(patterns)
    for state in states:
        if state == last:
            continue
        pattern = compiled[state]
        if pattern is None:
            if not hidden:
                following.add(state)
                is_match |= state == last - 1  # a trailing ** takes files too
        elif (not hidden or patterns[state].startswith(name[0])) and pattern.match(name):
            following.add(state + 1)
            is_match |= _ends(state + 1, compiled)
    return frozenset(state for state in following if state < last), is_match


def _ends(state: int, compiled: Sequence[re.Pattern[str] | None]) -> bool:
    return state == len(compiled)
