"""Listing: the files that the job's URIs name, each once, in a fixed order, with size and version.

Order: as the URIs stand in the job; within a folder or glob by path, code point by code point. Folders and wildcards
pass over names that begin with a dot and, for formats of rows, with an underscore (`_SUCCESS`, `_headrace`).
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.datasets.globs import ANY_FOLDERS, Excludes, is_glob, split_glob, walk
from coordinator.datasets.spec import SourceFormat, SourceSpec
from headrace.errors import BadJob, Fault
from headrace.records import codec_of
from headrace.uris import is_remote

FIELD = "spec.source.uri"
_SUFFIXES: Mapping[SourceFormat, tuple[str, ...]] = {
    "parquet": (".parquet", ".pq", ".parq"),
    "arrow": (".arrow", ".arrows", ".ipc", ".feather"),
    "csv": (".csv", ".tsv", ".txt"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "files": (),
}
"""Names that a folder's files of a format have; where none has, those without any suffix (Hadoop's part-00000)."""
FAULTS_MAX = 20
"""Files named in one answer; a folder of a million unreadable ones needs no more."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the input, as it is now."""

    path: str
    size: int
    version: str  # mtime in ns; ETag or date of a URL


def list_files(source: SourceSpec) -> list[InputFile]:
    """All files of the source. URLs are listed as they stand, with size -1.

    Raises:
        BadJob: something named isn't there, can't be listed or read, or nothing matches.
    """
    excludes = Excludes(source.exclude)
    faults: list[Fault] = []
    listed: dict[str, InputFile] = {}
    for i, uri in enumerate(source.uri):
        field = FIELD if len(source.uri) == 1 else f"{FIELD}[{i}]"
        for file in _list_uri(uri, source.format, excludes, field, faults):
            listed.setdefault(file.path, file)
        if len(faults) >= FAULTS_MAX:
            break
    if faults:
        raise BadJob(faults[:FAULTS_MAX])
    return list(listed.values())


def _list_uri(uri: str, kind: SourceFormat, excludes: Excludes, field: str, faults: list[Fault]) -> list[InputFile]:
    if is_remote(uri):
        if kind != "parquet":
            faults.append(Fault(field, f"{uri}: {kind} over HTTP is not supported yet", "over HTTP: parquet"))
        elif "*" in uri:
            faults.append(Fault(field, f"{uri}: a web server can't be listed", "list the URLs one by one"))
        return [InputFile(uri, -1, "")]
    if "://" in uri and not uri.startswith("file://"):
        scheme = uri.split("://", 1)[0]
        faults.append(
            Fault(field, f"{uri}: {scheme}:// is not supported yet", "a local path, or http(s):// for parquet")
        )
        return []
    path = uri.removeprefix("file://")
    try:
        if os.path.isdir(path):
            return _below(path, (ANY_FOLDERS,), kind, excludes, field=field, faults=faults, by_suffix=True)
        if os.path.lexists(path):
            return _checked([path], field, faults)
        if is_glob(path):
            root, patterns = split_glob(path)
            if os.path.isdir(root):
                return _below(root, patterns, kind, excludes, field=field, faults=faults, by_suffix=False)
            faults.append(Fault(field, f"{path}: there is no folder {root}"))
            return []
    except OSError as error:
        faults.append(Fault(field, f"{error.filename or path}: can't be listed: {error.strerror}"))
        return []
    faults.append(Fault(field, f"{path}: there is no such file or folder", _nearest(path)))
    return []


def _below(
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
    folders: list[str] = []
    entries = walk(root, patterns, excludes, lambda name: name.startswith(hidden), folders)
    paths = sorted(entry.path for entry in entries)
    if folders and not paths:  # dt=2026-*: what is meant is what lies in them
        below = [
            _below(folder, (ANY_FOLDERS,), kind, excludes, field=field, faults=faults, by_suffix=True)
            for folder in sorted(folders)
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
        faults.append(Fault(field, f"{shown}: {what}", "names that begin with . are passed over" * by_suffix))
        return []
    return _checked(paths, field, faults)


def _stem_and_suffix(path: str) -> tuple[str, str]:
    """A file's name without its compression: ("a", ".csv") for a.csv.gz, ("part-0", "") for part-0.gz."""
    name = path.rsplit("/", 1)[-1].lower()
    if codec_of(name):
        name = name.rsplit(".", 1)[0]
    return os.path.splitext(name)


def _checked(paths: Sequence[str], field: str, faults: list[Fault]) -> list[InputFile]:
    """Sizes and versions; a path that can't be read later is a fault now."""
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


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nearest(path: str) -> str:
    """The nearest name in the deepest folder of `path` that exists."""
    from difflib import get_close_matches

    folder, _, name = path.rstrip("/").rpartition("/")
    while folder and not os.path.isdir(folder):
        folder, _, name = folder.rpartition("/")
    try:
        near = get_close_matches(name, os.listdir(folder or "/"), n=1)
    except OSError:
        return ""
    return f"did you mean {folder}/{near[0]}?" if near else ""
