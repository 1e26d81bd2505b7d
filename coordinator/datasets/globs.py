"""Globs over folders: ``*``, ``?``, ``[...]`` within a name, ``**`` for any folders, matched while walking."""

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


class Excludes:
    """The job's `exclude`: globs that leave out files, and folders with all that is below them.

    Patterns are matched against the path below the folder that a URI names, at any depth unless they begin with /.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        relative = [pattern for pattern in patterns if not pattern.startswith("/")]
        absolute = [pattern for pattern in patterns if pattern.startswith("/")]
        self._relative = re.compile("|".join(f"(?:(?:.*/)?{_regex(pattern)})" for pattern in relative) or r"(?!)")
        self._absolute = re.compile("|".join(f"(?:{_regex(pattern)})" for pattern in absolute) or r"(?!)")
        self._any_absolute = bool(absolute)

    def hits(self, path: str, root_length: int) -> bool:
        """Whether the file or folder `path`, ``path[root_length:]`` below its URI's folder, is left out."""
        if self._relative.fullmatch(path, root_length):
            return True
        return self._any_absolute and self._absolute.fullmatch(path) is not None


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
