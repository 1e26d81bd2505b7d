"""`headrace verify`: proves from the output alone that every unit of input is accounted for exactly once.

    the ranges of all shards tile every input file           (law 1)
    read = out + filtered + rejected, for each shard, and what could not be read is listed
    rejects that were run again are out now, or still rejected
    every named file has its size, its digest and, where a footer knows, its rows and the output's columns
    nothing else that looks like a result lies in the output

Memory does not grow with rows; it is some 200 bytes for each output file, whose name is remembered. Blocking.

Not here: what a manifest is made of (`coordinator.manifest`).
"""

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from coordinator.core.facts import OutputFile
from coordinator.core.schema import differences, schema_of
from coordinator.manifest import (
    RETRY,
    Header,
    InputFile,
    ManifestDamaged,
    QuarantinedEntry,
    ShardEntry,
    Totals,
    read_manifest,
)
from coordinator.output import CLAIM, SUCCESS, StoredFile, newest_manifest, stored_manifest
from headrace.dataset import corrupt_fault, corrupt_rows
from headrace.errors import SinkError
from headrace.program import StorageOptions
from headrace.publish import HIDDEN, REJECTED, parse_part_name, stream_digest
from headrace.stores import check_plain, open_store
from headrace.stores.port import OutputStore
from headrace.uris import is_in_store

FINDINGS_MAX = 1000
"""Findings that are listed, and corrupt ranges; more are only counted."""
READERS = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that isn't as the manifest says."""

    kind: str  # NoManifest, Damaged, Gap, Overlap, Quarantined, Unbalanced, Missing, Size, Digest, Rows, Schema, ...
    message: str


@dataclass(slots=True)
class Report:
    """What was checked and what was found. `is_proven` only when nothing was."""

    output: str
    manifests: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    findings_total: int = 0
    shards: int = 0
    files: int = 0
    bytes: int = 0
    rows_read: int = 0
    rows_filtered: int = 0
    rows_out: int = 0
    rows_rejected: int = 0
    rows_counted: int = 0  # rows that footers confirmed
    input_files: int = 0
    units: int = 0
    corrupt: list[str] = field(default_factory=list)  # ranges of the input that the manifests list as unreadable
    corrupt_total: int = 0

    @property
    def is_proven(self) -> bool:
        """Whether the output is complete and whole."""
        return self.findings_total == 0

    def add(self, kind: str, message: str) -> None:
        """Notes one finding."""
        self.findings_total += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(kind, message))

    def to_plain(self) -> dict[str, Any]:
        """The report as JSON types."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__ if name != "findings"}
        plain["proven"] = self.is_proven
        plain["findings"] = [{"kind": item.kind, "message": item.message} for item in self.findings]
        return plain


def verify(output: Path | str, storage: StorageOptions | None = None) -> Report:
    """Checks an output against its newest manifest and that one's bases. Raises nothing about the output.

    Args:
        output: a folder, or the URI of one in a store.
        storage: how that store is reached.

    Raises:
        BadJob: the store can't be used as it is described.
        SinkError: it can't be listed.
    """
    check_plain("the output", str(output))
    output = str(output if is_in_store(str(output)) else Path(output))
    store = open_store(output, storage=storage)
    report = Report(output)
    try:
        _, name = newest_manifest(store)
        if name is None:
            report.add("NoManifest", f"{output} {_why_none(output)}.")
            return report
        if store.size(CLAIM) is not None:
            report.add("Unfinished", f"{output} is claimed by a job that isn't complete.")
        _check_success(store, name, report)
        return _check_chain(store, name, report)
    except OSError as error:
        raise SinkError(f"{output} can't be looked at: {error}") from error


def _why_none(output: str) -> str:
    if is_in_store(output) or os.path.isdir(output):
        return "has no manifest: no job was finished there"
    return "isn't a folder" if os.path.exists(output) else "doesn't exist"


def _check_chain(store: OutputStore, newest: str, report: Report) -> Report:
    name: str | None = newest
    named: set[str] = set()
    retried: dict[str, InputFile] = {}  # rejects files of bases that a later manifest ran again
    mode, schema = "", ""
    while name is not None:
        report.manifests.append(name)
        path = stored_manifest(store, name)
        try:
            header = _check_manifest(store, path, report, named, retried)
            _check_base_schema(schema, header, name, report)
            name, mode, schema = header.base, header.mode, schema_of(header.columns) or schema
        except (OSError, ManifestDamaged) as error:
            report.add("Damaged", str(error))
            return report
        if name in report.manifests:
            report.add("Damaged", f"{path} names a base that leads back to it.")
            return report
    for name in retried:
        report.add("Damaged", f"{name} was run again, and no manifest before names it.")
    # An output that the first job appended to held files before, of which no manifest tells.
    _check_strays(store, report, named, foreign_too=mode != "append")
    return report


def _check_success(store: OutputStore, manifest: str, report: Report) -> None:
    try:
        with store.open(SUCCESS) as file:
            found = json.loads(file.read())
    except FileNotFoundError:
        report.add("NoSuccess", f"{store.place} has no {SUCCESS}: its last job isn't complete.")
        return
    except (OSError, ValueError) as error:
        report.add("Damaged", f"{SUCCESS} can't be read: {error}")
        return
    named = found.get("manifest") if isinstance(found, dict) else None
    if named != f"{HIDDEN}/{manifest}":
        report.add("Damaged", f"{SUCCESS} is of {named}, and the newest manifest is {HIDDEN}/{manifest}.")


def _check_manifest(
    store: OutputStore, path: StoredFile, report: Report, named: set[str], retried: dict[str, InputFile]
) -> Header:
    ranges = array("q")
    inputs: list[InputFile] = []
    header: Header | None = None
    schema = ""
    with ThreadPoolExecutor(READERS) as pool:

        def files_of(entry: ShardEntry) -> None:
            kept = [file for file in entry.files if file.name not in retried]
            for file in entry.files:
                if file.name in retried:
                    _check_retried(file, retried.pop(file.name), report)
            for file in kept:
                if file.name in named:
                    report.add("Doubled", f"{file.name} is named more than once.")
                named.add(file.name)
            for found, rows in pool.map(lambda file: _check_file(store, file, schema), kept):
                report.rows_counted += rows
                for finding in found:
                    report.add(finding.kind, finding.message)

        for item in read_manifest(path):
            match item:
                case Header():
                    header, schema = item, schema_of(item.columns)
                case InputFile():
                    inputs.append(item)
                case ShardEntry():
                    ranges.extend((item.begin, item.end))
                    _check_equation(item, header, report)
                    report.corrupt_total += len(item.corrupt)
                    if item.corrupt and len(report.corrupt) < FINDINGS_MAX:
                        report.corrupt += _corrupt_texts(item, inputs)
                    files_of(item)
                case QuarantinedEntry():
                    ranges.extend((item.begin, item.end))
                    report.add(
                        "Quarantined", f"shard {item.shard}, units [{item.begin}, {item.end}), is missing: {item.error}"
                    )
                case Totals():
                    _add_totals(report, item, is_retry=header is not None and header.mode == RETRY)
    assert header is not None, "read_manifest yields a header first"
    _check_inputs(header, inputs, report)
    _check_tiling(header, inputs, ranges, report)
    if header.mode == RETRY:
        retried.update((file.path, file) for file in inputs)
    else:
        report.input_files += header.files
        report.units += header.units
    return header


def _add_totals(report: Report, totals: Totals, *, is_retry: bool) -> None:
    report.shards += totals.shards
    report.files += totals.files
    report.bytes += totals.bytes
    if is_retry:  # its rows were read, and rejected, before
        report.rows_rejected -= totals.rows_read
    else:
        report.rows_read += totals.rows_read
    report.rows_filtered += totals.rows_filtered
    report.rows_out += totals.rows_out + totals.children
    report.rows_rejected += totals.rows_rejected


def _check_equation(entry: ShardEntry, header: Header | None, report: Report) -> None:
    unit = "byte" if header is None else header.unit
    units = entry.end - entry.begin - corrupt_rows(unit, entry.corrupt)
    if unit != "byte" and entry.rows_read != units:
        report.add("Unbalanced", f"shard {entry.shard} read {entry.rows_read} rows of its {units}.")
    if fault := corrupt_fault(entry.begin, entry.end, entry.corrupt):
        report.add("Unbalanced", f"shard {entry.shard}: {fault}.")
    accounted = entry.rows_out + entry.rows_filtered + entry.rows_rejected
    if entry.rows_read != accounted:
        report.add("Unbalanced", f"shard {entry.shard} read {entry.rows_read} rows and accounts for {accounted}.")
    for kind, expected in (("data", entry.rows_out + entry.children), ("rejects", entry.rows_rejected)):
        listed = sum(file.rows for file in entry.files if file.kind == kind)
        if listed != expected:
            report.add("Unbalanced", f"shard {entry.shard} has {expected} rows of {kind} and files for {listed}.")


def _check_retried(file: OutputFile, again: InputFile, report: Report) -> None:
    """Compares a rejects file that is gone with what a later manifest says that it ran again."""
    report.files -= 1
    report.bytes -= file.size
    if (file.kind, file.size, file.digest, file.rows) != ("rejects", again.size, again.version, again.units):
        report.add("Unbalanced", f"{file.name} had {file.rows} rows of {file.kind}, and {again.units} were run again.")


def _corrupt_texts(entry: ShardEntry, inputs: Sequence[InputFile]) -> Iterator[str]:
    for found in entry.corrupt:
        yield f"{'; '.join(_places(inputs, found.begin, found.end))}: {found.reason}"


def _check_inputs(header: Header, inputs: Sequence[InputFile], report: Report) -> None:
    end = 0
    for file in inputs:
        if file.origin != end:
            report.add("Damaged", f"{file.path} begins at unit {file.origin} where the file before it ends at {end}.")
        end = file.origin + file.units
    if len(inputs) != header.files or end != header.units:
        report.add(
            "Damaged", f"the manifest lists {len(inputs)} input files of {end} units, its header says otherwise."
        )


def _check_tiling(header: Header, inputs: Sequence[InputFile], ranges: "array[int]", report: Report) -> None:
    pairs = np.array(ranges, dtype=np.int64).reshape(-1, 2)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    # Where each range should begin: at the furthest end so far, 0 for the first.
    ends = np.concatenate([[0], np.maximum.accumulate(pairs[:, 1])]) if len(pairs) else np.zeros(1, np.int64)
    begins = np.concatenate([pairs[:, 0], [header.units]])
    for i in np.flatnonzero(begins != ends):
        begin, end = int(ends[i]), int(begins[i])
        if begin < end:
            where = "; ".join(_places(inputs, begin, end))
            report.add("Gap", f"{header.unit}s [{begin}, {end}) of the input are not accounted for: {where}")
        else:
            where = "; ".join(_places(inputs, end, begin))
            report.add("Overlap", f"{header.unit}s [{end}, {begin}) of the input are accounted for twice: {where}")


def _places(inputs: Sequence[InputFile], begin: int, end: int) -> Iterator[str]:
    shown = 0
    for file in inputs:
        first, last = max(begin, file.origin), min(end, file.origin + file.units)
        if first < last:
            if shown == 3:
                yield "..."
                return
            shown += 1
            yield f"{file.path} [{first - file.origin}, {last - file.origin})"


def _check_base_schema(schema: str, base: Header, name: str, report: Report) -> None:
    found = schema_of(base.columns)
    if schema and found and found != schema:
        told = differences(schema, found)
        report.add("Schema", f"{name} states other columns than the manifest that adds to it: {told}.")


def _check_file(store: OutputStore, file: OutputFile, schema: str) -> tuple[list[Finding], int]:
    try:
        with store.open(file.name) as body:
            size = body.seek(0, os.SEEK_END)
            if size != file.size:
                return [Finding("Size", f"{file.name} has {size} bytes, the manifest says {file.size}.")], 0
            body.seek(0)
            if stream_digest(body) != file.digest:
                return [Finding("Digest", f"{file.name} was changed: its digest isn't the manifest's.")], 0
            footer = _footer(file.name, body)
    except FileNotFoundError:
        return [Finding("Missing", f"{file.name} is missing.")], 0
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        return [Finding("Damaged", f"{file.name} can't be read: {error}")], 0
    if footer is None:
        return [], 0
    if footer.rows != file.rows:
        return [Finding("Rows", f"{file.name} has {footer.rows} rows, the manifest says {file.rows}.")], 0
    if schema and file.kind == "data" and footer.schema != schema:
        told = differences(schema, footer.schema)
        return [Finding("Schema", f"{file.name} isn't as its manifest says: {told}.")], footer.rows
    return [], footer.rows


@dataclass(frozen=True, slots=True)
class _Footer:
    """What a file says of itself."""

    rows: int
    schema: str  # `coordinator.core.schema`


def _footer(name: str, body: BinaryIO) -> _Footer | None:
    """Rows and schema as the file's own footer tells, None for formats without one."""
    from headrace.arrow_types import columns_text

    body.seek(0)
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        metadata = pq.read_metadata(body)
        return _Footer(int(metadata.num_rows), columns_text(metadata.schema.to_arrow_schema()))
    if name.endswith((".arrow", ".feather")):
        import pyarrow as pa

        reader = pa.ipc.open_file(body)
        rows = sum(int(reader.get_batch(i).num_rows) for i in range(reader.num_record_batches))
        return _Footer(rows, columns_text(reader.schema))
    return None


def _check_strays(store: OutputStore, report: Report, named: set[str], *, foreign_too: bool) -> None:
    """Finds files that a reader of the output would take for results."""
    suffixes = {Path(name).suffix for name in named if not name.startswith(HIDDEN)} if foreign_too else set()
    for relative in store.names():
        *folders, name = relative.split("/")
        if any(folder.startswith(("_", ".")) for folder in folders):
            continue
        is_hidden = name.startswith(("_", "."))
        is_result = parse_part_name(name) is not None or (not is_hidden and Path(name).suffix in suffixes)
        if relative not in named and is_result:
            report.add("Stray", f"{relative} looks like a result but no manifest names it.")
    for relative in sorted(store.names(f"{REJECTED}/")):
        if relative not in named:
            report.add("Stray", f"{relative} isn't named by a manifest.")
