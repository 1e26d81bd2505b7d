"""Rejected rows that are run again: which they are, and what job that makes of the user's.

Their source is the rejects dataset, which is this project's own and was committed with a digest; the files that the
rows came from may have changed since. So only rows that were kept (errors.onReject: keep) can be run again.

    manifest n and its bases ─▶ rejects files that no manifest ran again ─▶ source of the job ─▶ manifest n + 1

Not here: merging what comes out (`coordinator.finish`, mode retry), the reading (`sidecar.reader.rejected`).
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coordinator.core.facts import OutputFile
from coordinator.manifest import (
    RETRY,
    Header,
    InputFile,
    ManifestDamaged,
    QuarantinedEntry,
    ShardEntry,
    read_manifest,
)
from coordinator.output import newest_manifest, stored_manifest
from headrace.errors import BadJob, Fault, SinkError
from headrace.program import Program
from headrace.publish import stream_digest
from headrace.rejects import NAMES, kept_column
from headrace.stores import open_store
from headrace.uris import is_remote

if TYPE_CHECKING:
    from coordinator.datasets import PlannedSource
    from coordinator.datasets.listing import InputFile as PlannedFile
    from coordinator.datasets.remote import Remote
    from coordinator.spec import InferenceJob
    from headrace.stores.port import OutputStore

FIELD = "spec.sink.uri"


@dataclass(frozen=True, slots=True)
class CorruptPart:
    """Units ``[begin, end)`` of one input file that could not be read."""

    path: str
    begin: int
    end: int
    unit: str  # row | byte | file
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The rejects of an output as its newest manifest and that one's bases tell."""

    number: int  # of that manifest
    base: str  # its file name
    files: tuple[OutputFile, ...]  # rejects files, the oldest manifest's first
    quarantined: int  # ranges that were given up
    corrupt: tuple[CorruptPart, ...]

    @property
    def rows(self) -> int:
        """Rows that are rejected."""
        return sum(file.rows for file in self.files)


def find_rejected(store: "OutputStore") -> Rejected | None:
    """What is rejected in an output; None where no job was finished.

    Raises:
        SinkError: its manifests can't be read.
    """
    number, newest = newest_manifest(store)
    if newest is None:
        return None
    files: list[OutputFile] = []
    retried: set[str] = set()
    corrupt: list[CorruptPart] = []
    quarantined = 0
    name: str | None = newest
    try:
        while name is not None:
            header: Header | None = None
            own: list[OutputFile] = []
            inputs: list[InputFile] = []
            for item in read_manifest(stored_manifest(store, name)):
                match item:
                    case Header():
                        header = item
                    case InputFile() if header is not None and header.mode == RETRY:
                        retried.add(item.path)
                    case InputFile():
                        inputs.append(item)
                    case ShardEntry():
                        if item.corrupt and header is not None:
                            corrupt += _corrupt_parts(item, inputs, header.unit)
                        own += [file for file in item.files if file.kind == "rejects" and file.name not in retried]
                    case QuarantinedEntry():
                        quarantined += 1
            assert header is not None, "read_manifest yields a header first"
            files = own + files
            name = header.base
    except (OSError, ManifestDamaged) as error:
        raise SinkError(f"The rejects of {store.place} can't be listed: {error}") from error
    return Rejected(number, newest, tuple(files), quarantined, tuple(corrupt))


def _corrupt_parts(entry: ShardEntry, inputs: Sequence[InputFile], unit: str) -> Iterator[CorruptPart]:
    for found in entry.corrupt:
        i = bisect_right(inputs, found.begin, key=lambda file: file.origin) - 1
        while i < len(inputs) and inputs[i].origin < found.end:
            file = inputs[i]
            begin, end = max(found.begin - file.origin, 0), min(found.end - file.origin, file.units)
            if begin < end:
                yield CorruptPart(file.path, begin, end, unit, found.reason)
            i += 1


def rejected_job(job: "InferenceJob") -> "tuple[InferenceJob, PlannedSource, Rejected]":
    """The job with the rejects of its output as its source, these as planned, and what they are.

    Raises:
        BadJob: there is nothing that can be run again.
        SinkError: the output can't be read.
    """
    from coordinator.datasets.remote import Remote
    from coordinator.spec.source import SourceSpec

    where = job.spec.sink.storage
    store = open_store(job.spec.sink.uri, storage=where.options)
    rejected = find_rejected(store)
    if rejected is None:
        raise BadJob([Fault(FIELD, f"{store.place} has no complete output", "`headrace run` first")])
    if rejected.quarantined:
        found = f"{store.place} lacks {rejected.quarantined} ranges that were given up"
        raise BadJob([Fault(FIELD, found, "`headrace run JOB --again` first")])
    if not rejected.files:
        raise BadJob([Fault(FIELD, f"no row of {store.place} is rejected", "nothing is to be run again")])
    # Whatever the rows came from, they are read from Parquet, and the filter has let them pass.
    source = SourceSpec(format="parquet", uri=[store.place], storage=where)
    # The columns must be those of the output, as if it were added to.
    sink = job.spec.sink.model_copy(update={"mode": "append"})
    spec = job.spec.model_copy(update={"source": source, "sink": sink})
    return job.model_copy(update={"spec": spec}), _planned(rejected, store, Remote(where)), rejected


def rejected_program(program: Program, job: "InferenceJob", source: "PlannedSource") -> Program:
    """The program of a job and a source that `rejected_job` made.

    Whatever the job needs of them, all kept columns are read: those of a row that is rejected again must not get fewer.
    Its rejects are in the output's budget already, and whatever becomes of it, there are no more of them than before.
    """
    from coordinator.datasets import source_program

    whole = source_program(job.spec.source, source, source.schema.names, None)
    errors = replace(program.errors, max_rejected_rows=None, max_rejected_share=None)
    return replace(program, source=replace(whole, rejected=True), errors=errors)


def _planned(rejected: Rejected, store: "OutputStore", remote: "Remote") -> "PlannedSource":
    import pyarrow as pa

    from coordinator.datasets import PlannedSource
    from coordinator.datasets.footers import measure_parquet

    for file in rejected.files:
        _check_digest(file, store)
    paths = [store.place_of(file.name) for file in rejected.files]
    faults: list[Fault] = []
    measured = measure_parquet(_input_files(paths, remote), remote, None, None, faults, lists_corrupt=False)
    if faults:
        raise BadJob(faults)
    kept = [field.with_name(kept_column(field.name)) for field in measured.schema if field.name not in NAMES]
    if not kept:
        found = f"the {rejected.rows} rejected rows of {store.place} hold none of their columns"
        expected = "rows that could be read, rejected with errors.onReject: keep"
        raise BadJob([Fault("spec.errors.onReject", found, expected)])
    return PlannedSource(dataset=measured.dataset(), schema=pa.schema(kept), partitions=())


def _input_files(paths: Sequence[str], remote: "Remote") -> "list[PlannedFile]":
    from coordinator.datasets.listing import InputFile as PlannedFile

    if is_remote(paths[0]):
        there = remote.stat(paths)
        return [PlannedFile(path, found.size, found.version) for path in paths if (found := there[path]) is not None]
    local = [(path, os.stat(path)) for path in paths]
    return [PlannedFile(path, status.st_size, str(status.st_mtime_ns)) for path, status in local]


def _check_digest(file: OutputFile, store: "OutputStore") -> None:
    try:
        with store.open(file.name) as body:
            digest = stream_digest(body)
    except OSError as error:
        raise SinkError(f"{store.place_of(file.name)} can't be read: {error}") from error
    if digest != file.digest:
        raise SinkError(f"{store.place_of(file.name)} was changed: its digest isn't the manifest's.")
