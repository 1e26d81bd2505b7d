"""Whether the output may be written where the job says; looks and touches nothing.

For a job that begins: one that continues finds its own files there and isn't asked.

Not here: claiming the output against other jobs (`coordinator.output`).
"""

import errno
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.planning.store_check import Look, look_into_store
from coordinator.spec import InferenceJob
from coordinator.spec.job import scheme_of
from headrace.errors import Fault
from headrace.publish import HIDDEN, part_name
from headrace.uris import bucket_form, is_in_store

if TYPE_CHECKING:
    from headrace.dataset import Dataset  # with numpy, which the command line has no use for

_FIELD = "spec.sink.uri"
ANY_FOLDERS = "**"


def sink_faults(
    job: InferenceJob, dataset: "Dataset | None", *, is_mode_known: bool = True, is_source_known: bool = True
) -> list[Fault]:
    """The faults that `look_at_sink` finds."""
    return list(look_at_sink(job, dataset, is_mode_known=is_mode_known, is_source_known=is_source_known).faults)


def look_at_sink(
    job: InferenceJob, dataset: "Dataset | None", *, is_mode_known: bool = True, is_source_known: bool = True
) -> Look:
    """What is wrong with a new job's output: it overlaps the source either way, isn't a folder, can't be written, or
    isn't empty in mode `fail`.

    Without a dataset, overlap is judged by the source's patterns alone. Unless the mode is known, an output may hold
    files; unless the source is, nothing is said of overlap.
    """
    uri = job.spec.sink.uri
    unseen = ""
    must_be_empty = is_mode_known and job.spec.sink.mode == "fail"
    if is_in_store(uri):
        bucket, _, path = uri.partition("://")[2].partition("/")
        if scheme_of(uri) == "hdfs":  # whose host may stand in storage.endpoint alone
            if not path.strip("/"):
                return Look((Fault(_FIELD, f"{uri} names no folder", f"{bucket_form(uri)}/PATH"),))
        elif not bucket:
            return Look((Fault(_FIELD, f"{uri} names no bucket", f"{bucket_form(uri)}/PREFIX"),))
        look = look_into_store(job.spec.sink, must_be_empty=must_be_empty)
        faults, unseen = list(look.faults), look.unseen
    else:
        try:
            faults = _folder_faults(Path(uri), must_be_empty=must_be_empty)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                found, expected = f"{Path(uri)}: {error.strerror}", "a folder that can be made and written"
            else:
                found, expected = f"no permission to look into {error.filename}", "a folder that you may write"
            return Look((Fault(_FIELD, found, expected),))
    return Look((*faults, *(_overlap_faults(job, dataset) if is_source_known else ())), unseen)


def _folder_faults(sink: Path, *, must_be_empty: bool) -> list[Fault]:
    existing = next(path for path in (sink, *sink.parents) if path.is_symlink() or _exists(path))
    if not _exists(existing):
        return [Fault(_FIELD, f"{existing} is a link to nothing", "a folder for the output files")]
    if not existing.is_dir():
        return [Fault(_FIELD, f"{existing} is a file", "a folder for the output files")]
    faults = []
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        is_read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
        found = f"{existing} lies on a read-only file system" if is_read_only else f"no permission to write {existing}"
        faults.append(Fault(_FIELD, found, "a folder that you may write"))
    if must_be_empty and existing == sink:
        first = next(_contents(sink), None)
        if first is not None:
            expected = "an empty folder, or mode: append or replace"
            faults.append(Fault(_FIELD, f"{sink} isn't empty: it has {first}", expected))
    return faults


def _exists(path: Path) -> bool:
    """As `Path.exists`, but a folder that may not be looked into is an error, not an absence."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _contents(folder: Path) -> Iterator[str]:
    """Names that make an output not empty: anything a reader sees, `_SUCCESS`, and manifests."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == HIDDEN:
                yield from (f"{HIDDEN}/{found.name}" for found in Path(entry.path).glob("manifest-*.jsonl"))
            elif not entry.name.startswith("."):
                yield entry.name


def _overlap_faults(job: InferenceJob, dataset: "Dataset | None") -> list[Fault]:
    scheme = scheme_of(job.spec.sink.uri)
    sink = job.spec.sink.uri.rstrip("/") or "/"
    real = _real(sink)
    what = "prefix" if scheme else "folder"
    folders: dict[str, str] = {}  # resolved once each: 100,000 files lie in few folders
    for path in dataset.paths if dataset else ():
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = _real(folder) if scheme_of(path) == scheme else ""
        if folders[folder] and _is_within(f"{folders[folder]}/{name}", real):
            return [Fault(_FIELD, f"the source's file {path} lies in the output {what} {sink}", f"a {what} of its own")]
    for uri in job.spec.source.uri:
        if scheme_of(uri) == scheme and _reads(uri, real, job):
            found = f"{sink} lies in the source {uri}: the job would read its own output"
            return [Fault(_FIELD, found, f"a {what} beside it")]
    return []


def _real(place: str) -> str:
    """A folder without links in its path, or a prefix as it stands: an object store has no links."""
    return place.rstrip("/") if scheme_of(place) else os.path.realpath(place)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _reads(uri: str, sink: str, job: InferenceJob) -> bool:
    """Whether a source of `uri` would list a file that the job writes to `sink`."""
    from coordinator.datasets.globs import Excludes, is_glob, split_glob

    is_pattern = is_glob(uri) and (bool(scheme_of(uri)) or not os.path.lexists(uri))
    fixed, patterns = split_glob(uri) if is_pattern else (uri, ("**",))
    base = _real(fixed)
    if not _is_within(sink, base):
        return False
    excludes = Excludes(job.spec.source.exclude)
    begin = len(base.rstrip("/")) + 1
    folders = sink[begin:].split("/") if sink[begin:] else []
    if any(excludes.hits("/".join([sink[: begin - 1], *folders[:n]]), begin) for n in range(1, len(folders) + 1)):
        return False
    return any(
        _matches((*folders, name), patterns) and not excludes.hits(f"{sink.rstrip('/')}/{name}", begin)
        for name in _output_names(job.spec.sink.format)
    )


def _output_names(extension: str) -> Iterator[str]:
    """Names such as the job's output files will have."""
    for compressed in ("", ".gz", ".zst"):
        yield part_name(0, "00000000", 1, "00000000", f".{extension}{compressed}")


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a path below a source's folder matches its pattern, name by name; ``**`` stands for any folders."""
    if not patterns:
        return not names
    if patterns[0] == ANY_FOLDERS:
        if len(patterns) == 1:
            return bool(names)
        return any(_matches(names[i:], patterns[1:]) for i in range(len(names)))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])
