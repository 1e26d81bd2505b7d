"""Listing: the files that the job's URIs name, each once, in a fixed order, with size and version.

Order: as the URIs stand in the job; within a folder or glob by path, code point by code point. Folders and wildcards
pass over names that begin with a dot and, for formats of rows, with an underscore (`_SUCCESS`, `_headrace`). The same
holds for the folders of a file system and for the keys of an object store (`coordinator.datasets.remote`).
"""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from coordinator.datasets.globs import ANY_FOLDERS, Excludes, is_glob, split_glob, walk
from coordinator.datasets.spec import SourceFormat, SourceSpec
from headrace.errors import Fault, SourceRefused
from headrace.records import codec_of
from headrace.uris import bucket_form, is_in_store, is_remote, scheme_of

if TYPE_CHECKING:
    from coordinator.datasets.remote import Remote
    from headrace.httpfile import Found

FIELD = "spec.source.uri"
_SUFFIXES: Mapping[SourceFormat, tuple[str, ...]] = {
    "parquet": (".parquet", ".pq", ".parq"),
    "arrow": (".arrow", ".arrows", ".ipc", ".feather"),
    "csv": (".csv", ".tsv", ".txt"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "files": (),
}
"""Names that a folder's files of a format have; where none has, those without any suffix (Hadoop's part-00000)."""
NAMES_MAX = 5
"""Names of a folder that an answer shows."""
FAULTS_MAX = 20
"""Files named in one answer; a folder of a million unreadable ones needs no more."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the input, as it is now."""

    path: str
    size: int
    version: str  # mtime in ns; of a remote file as `headrace.versions`


class Tree(Protocol):
    """Folders and files of a file system or an object store."""

    def below(
        self, root: str, patterns: Sequence[str], excludes: Excludes, is_hidden: Callable[[str], bool]
    ) -> tuple[list[str], list[str]]:
        """Paths of the files below `root` that match, one pattern per level, sorted; and of the folders that do."""

    def checked(self, paths: Sequence[str], field: str, faults: list[Fault]) -> list[InputFile]:
        """Sizes and versions; a path that can't be read later is a fault now."""

    def there(self, folder: str) -> str:
        """Some names in a folder, for whoever looks for others."""


def list_files(source: SourceSpec, remote: "Remote", faults: list[Fault]) -> list[InputFile]:
    """All files of the source that can be read. Parquet files of web servers are listed as they stand, with size -1.

    What is named and isn't there, can't be listed or read, or matches nothing is added to `faults`.

    Raises:
        SourceUnavailable: a store can't be reached.
    """
    excludes = Excludes(source.exclude)
    found: list[Fault] = []
    listed: dict[str, InputFile] = {}
    try:
        known = remote.stat([uri for uri in source.uri if _is_looked_at(uri, source.format)])
    except SourceRefused as error:
        faults.append(Fault(FIELD, str(error)))
        return []
    for i, uri in enumerate(source.uri):
        field = FIELD if len(source.uri) == 1 else f"{FIELD}[{i}]"
        if is_remote(uri):
            files = _list_remote(uri, source.format, excludes, remote, known, field=field, faults=found)
        else:
            files = _list_local(uri, source.format, excludes, field, found)
        for file in files:
            listed.setdefault(file.path, file)
        if len(found) >= FAULTS_MAX:
            break
    faults += found[:FAULTS_MAX]
    return list(listed.values())


def _is_looked_at(uri: str, kind: SourceFormat) -> bool:
    """Whether a request tells what a remote URI is: a file's size, or that it is a folder."""
    if is_in_store(uri):
        return not (is_glob(uri) or uri.endswith("/") or uri.count("/") == 2)
    return is_remote(uri) and "*" not in uri and kind != "parquet"  # of which the footer's request tells it


def _list_remote(
    uri: str,
    kind: SourceFormat,
    excludes: Excludes,
    remote: "Remote",
    known: "Mapping[str, Found | None]",
    *,
    field: str,
    faults: list[Fault],
) -> list[InputFile]:
    from coordinator.datasets.remote import BucketTree, input_file

    found = known.get(uri)
    if found is not None:
        return [input_file(found, kind)]
    if not is_in_store(uri):
        if "*" in uri:
            faults.append(Fault(field, f"{uri}: a web server can't be listed", "list the URLs one by one"))
            return []
        if uri in known:
            faults.append(Fault(field, f"{uri}: is not there"))
            return []
        return [InputFile(uri, -1, "")]
    tree = BucketTree(remote, kind)
    root, patterns = split_glob(uri) if is_glob(uri) else (uri.rstrip("/"), (ANY_FOLDERS,))
    if root.count("/") < 2 or root.endswith("://"):
        what = "host" if scheme_of(uri) == "hdfs" else "bucket"
        faults.append(Fault(field, f"{uri}: names no {what}", f"{bucket_form(uri)}/PATH"))
        return []
    try:
        return _below(tree, root, patterns, kind, excludes, field=field, faults=faults, by_suffix=not is_glob(uri))
    except SourceRefused as error:
        faults.append(Fault(field, str(error)))
        return []


def _list_local(uri: str, kind: SourceFormat, excludes: Excludes, field: str, faults: list[Fault]) -> list[InputFile]:
    if "://" in uri and not uri.startswith("file://"):
        scheme = uri.split("://", 1)[0]
        expected = "a local path, s3://, gs://, abfss://, hdfs:// or http(s)://"
        faults.append(Fault(field, f"{uri}: {scheme}:// is not supported yet", expected))
        return []
    path = uri.removeprefix("file://")
    try:
        if os.path.isdir(path):
            return _below(_TREE, path, (ANY_FOLDERS,), kind, excludes, field=field, faults=faults, by_suffix=True)
        if os.path.lexists(path):
            return _TREE.checked([path], field, faults)
        if is_glob(path):
            root, patterns = split_glob(path)
            if os.path.isdir(root):
                return _below(_TREE, root, patterns, kind, excludes, field=field, faults=faults, by_suffix=False)
            faults.append(Fault(field, f"{path}: there is no folder {root}", _nearest(root)))
            return []
    except OSError as error:
        faults.append(Fault(field, f"{error.filename or path}: can't be listed: {error.strerror}"))
        return []
    faults.append(Fault(field, f"{path}: there is no such file or folder", _nearest(path)))
    return []


def _below(
    tree: Tree,
    root: str,
    patterns: Sequence[str],
    kind: SourceFormat,
    excludes: Excludes,
    *,
    field: str,
    faults: list[Fault],
    by_suffix: bool,
) -> list[InputFile]:
    hidden = (".",) if kind == "files" else (".", "_")
    paths, folders = tree.below(root, patterns, excludes, lambda name: name.startswith(hidden))
    if folders and not paths:  # dt=2026-*: what is meant is what lies in them
        below = [
            _below(tree, folder, (ANY_FOLDERS,), kind, excludes, field=field, faults=faults, by_suffix=True)
            for folder in folders
        ]
        return [file for files in below for file in files]
    suffixes = _SUFFIXES[kind]
    if by_suffix and suffixes:
        of_format = [path for path in paths if _stem_and_suffix(path)[1] in suffixes]
        of_format = of_format or [path for path in paths if not _stem_and_suffix(path)[1]]
        if paths and not of_format:
            faults.append(
                Fault(
                    field,
                    f"{root}: holds no {kind} file",
                    f"their names end with {', '.join(suffixes)}; or write a glob",
                )
            )
            return []
        paths = of_format
    if not paths:
        what = "the folder holds no file" if by_suffix else "matches no file"
        shown = root if by_suffix else "/".join([root.rstrip("/"), *patterns])
        expected = "names that begin with . are passed over" if by_suffix else tree.there(root)
        faults.append(Fault(field, f"{shown}: {what}", expected))
        return []
    return tree.checked(paths, field, faults)


def _stem_and_suffix(path: str) -> tuple[str, str]:
    """A file's name without its compression: ("a", ".csv") for a.csv.gz, ("part-0", "") for part-0.gz."""
    name = path.rsplit("/", 1)[-1].lower()
    if codec_of(name):
        name = name.rsplit(".", 1)[0]
    return os.path.splitext(name)


class _LocalTree:
    """The file system."""

    def below(
        self, root: str, patterns: Sequence[str], excludes: Excludes, is_hidden: Callable[[str], bool]
    ) -> tuple[list[str], list[str]]:
        """As `Tree`."""
        folders: list[str] = []
        paths = sorted(entry.path for entry in walk(root, patterns, excludes, is_hidden, folders))
        return paths, sorted(folders)

    def checked(self, paths: Sequence[str], field: str, faults: list[Fault]) -> list[InputFile]:
        """As `Tree`."""
        files = []
        for path in paths:
            try:
                found = os.stat(path)
            except OSError as error:
                text = "is a link to nothing" if os.path.islink(path) else f"can't be read: {error.strerror}"
                faults.append(Fault(field, f"{path}: {text}"))
                continue
            if not stat.S_ISREG(found.st_mode):
                faults.append(Fault(field, f"{path}: is no regular file"))
            elif not os.access(path, os.R_OK):
                faults.append(Fault(field, f"{path}: can't be read: permission denied"))
            elif not path.isprintable() and not _is_text(path):
                faults.append(Fault(field, f"{path!r}: its name is not UTF-8", "rename or exclude it"))
            else:
                files.append(InputFile(path, found.st_size, str(found.st_mtime_ns)))
            if len(faults) >= FAULTS_MAX:
                break
        return files

    def there(self, folder: str) -> str:
        """As `Tree`."""
        return names_text(folder, _names(folder))


_TREE = _LocalTree()


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names(folder: str) -> list[str]:
    """The names in a folder that can be shown; none where it can't be listed."""
    try:
        return sorted(filter(_is_text, os.listdir(folder)))
    except OSError:
        return []


def names_text(folder: str, names: Sequence[str]) -> str:
    """Some of the names in a folder, for whoever looks for others; nothing where there are none."""
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return f"{folder} has: {', '.join(names[:NAMES_MAX])}{more}" if names else ""


def _nearest(path: str) -> str:
    """The nearest name in the deepest folder of `path` that exists; what is there if none is near."""
    from difflib import get_close_matches

    folder, _, name = path.rstrip("/").rpartition("/")
    while folder and not os.path.isdir(folder):
        folder, _, name = folder.rpartition("/")
    near = get_close_matches(name, _names(folder or "/"), n=1)
    return f"did you mean {folder}/{near[0]}?" if near else _TREE.there(folder or "/")
