"""`headrace verify`: proves from the output alone that every unit of input is accounted for exactly once.

    the ranges of all shards tile every input file           (law 1)
    read = out + filtered + rejected, for each shard
    every named file has its size, its digest and, where a footer knows, its rows
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
from typing import Any

import numpy as np

from coordinator.core.facts import OutputFile
from coordinator.manifest import (
    Header,
    InputFile,
    ManifestDamaged,
    QuarantinedEntry,
    ShardEntry,
    Totals,
    read_header,
    read_manifest,
)
from coordinator.output import CLAIM, SUCCESS, newest_manifest
from headrace.publish import HIDDEN, REJECTED, file_digest, parse_part_name

FINDINGS_MAX = 1000
"""Findings that are listed; more are only counted."""
READERS = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that isn't as the manifest says."""

    kind: str  # NoManifest, Damaged, Gap, Overlap, Quarantined, Unbalanced, Missing, Size, Digest, Rows, Stray, ...
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


def verify(output: Path) -> Report:
    """Checks an output folder against its newest manifest and that one's bases. Raises nothing about the output."""
    report = Report(str(output))
    _, name = newest_manifest(output)
    if name is None:
        report.add("NoManifest", f"{output} has no manifest: no job was finished there.")
        return report
    if (output / HIDDEN / CLAIM).exists():
        report.add("Unfinished", f"{output} is claimed by a job that isn't complete.")
    _check_success(output, name, report)
    named: set[str] = set()
    mode = ""
    while name is not None:
        report.manifests.append(name)
        path = output / HIDDEN / name
        try:
            _check_manifest(output, path, report, named)
            header = read_header(path)
            name, mode = header.base, header.mode
        except (OSError, ManifestDamaged) as error:
            report.add("Damaged", str(error))
            return report
        if name in report.manifests:
            report.add("Damaged", f"{path} names a base that leads back to it.")
            return report
    # An output that the first job appended to held files before, of which no manifest tells.
    _check_strays(output, report, named, foreign_too=mode != "append")
    return report


def _check_success(output: Path, manifest: str, report: Report) -> None:
    try:
        found = json.loads((output / SUCCESS).read_bytes())
    except FileNotFoundError:
        report.add("NoSuccess", f"{output} has no {SUCCESS}: its last job isn't complete.")
        return
    except (OSError, ValueError) as error:
        report.add("Damaged", f"{SUCCESS} can't be read: {error}")
        return
    named = found.get("manifest") if isinstance(found, dict) else None
    if named != f"{HIDDEN}/{manifest}":
        report.add("Damaged", f"{SUCCESS} is of {named}, and the newest manifest is {HIDDEN}/{manifest}.")


def _check_manifest(output: Path, path: Path, report: Report, named: set[str]) -> None:
    ranges = array("q")
    inputs: list[InputFile] = []
    header: Header | None = None
    with ThreadPoolExecutor(READERS) as pool:

        def files_of(entry: ShardEntry) -> None:
            for file in entry.files:
                if file.name in named:
                    report.add("Doubled", f"{file.name} is named more than once.")
                named.add(file.name)
            for found, rows in pool.map(lambda file: _check_file(output, file), entry.files):
                report.rows_counted += rows
                for finding in found:
                    report.add(finding.kind, finding.message)

        for item in read_manifest(path):
            match item:
                case Header():
                    header = item
                case InputFile():
                    inputs.append(item)
                case ShardEntry():
                    ranges.extend((item.begin, item.end))
                    _check_equation(item, header, report)
                    files_of(item)
                case QuarantinedEntry():
                    ranges.extend((item.begin, item.end))
                    report.add(
                        "Quarantined", f"shard {item.shard}, units [{item.begin}, {item.end}), is missing: {item.error}"
                    )
                case Totals():
                    _add_totals(report, item)
    assert header is not None, "read_manifest yields a header first"
    _check_inputs(header, inputs, report)
    _check_tiling(header, inputs, ranges, report)
    report.input_files += header.files
    report.units += header.units


def _add_totals(report: Report, totals: Totals) -> None:
    report.shards += totals.shards
    report.files += totals.files
    report.bytes += totals.bytes
    report.rows_read += totals.rows_read
    report.rows_filtered += totals.rows_filtered
    report.rows_out += totals.rows_out + totals.children
    report.rows_rejected += totals.rows_rejected


def _check_equation(entry: ShardEntry, header: Header | None, report: Report) -> None:
    units = entry.end - entry.begin
    if header is not None and header.unit != "byte" and entry.rows_read != units:
        report.add("Unbalanced", f"shard {entry.shard} read {entry.rows_read} rows of its {units}.")
    accounted = entry.rows_out + entry.rows_filtered + entry.rows_rejected
    if entry.rows_read != accounted:
        report.add("Unbalanced", f"shard {entry.shard} read {entry.rows_read} rows and accounts for {accounted}.")
    for kind, expected in (("data", entry.rows_out + entry.children), ("rejects", entry.rows_rejected)):
        listed = sum(file.rows for file in entry.files if file.kind == kind)
        if listed != expected:
            report.add("Unbalanced", f"shard {entry.shard} has {expected} rows of {kind} and files for {listed}.")


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


def _check_file(output: Path, file: OutputFile) -> tuple[list[Finding], int]:
    path = output / file.name
    try:
        size = path.stat().st_size
        if size != file.size:
            return [Finding("Size", f"{file.name} has {size} bytes, the manifest says {file.size}.")], 0
        if file_digest(path) != file.digest:
            return [Finding("Digest", f"{file.name} was changed: its digest isn't the manifest's.")], 0
        rows = _rows_by_footer(path)
    except FileNotFoundError:
        return [Finding("Missing", f"{file.name} is missing.")], 0
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        return [Finding("Damaged", f"{file.name} can't be read: {error}")], 0
    if rows is None:
        return [], 0
    if rows != file.rows:
        return [Finding("Rows", f"{file.name} has {rows} rows, the manifest says {file.rows}.")], 0
    return [], rows


def _rows_by_footer(path: Path) -> int | None:
    """Rows of a file as its own footer tells, None for formats without one."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(path).num_rows)
    if path.suffix in (".arrow", ".feather"):
        import pyarrow as pa

        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            return sum(int(reader.get_batch(i).num_rows) for i in range(reader.num_record_batches))
    return None


def _check_strays(output: Path, report: Report, named: set[str], *, foreign_too: bool) -> None:
    """Finds files that a reader of the output would take for results."""
    suffixes = {Path(name).suffix for name in named if not name.startswith(HIDDEN)} if foreign_too else set()
    for root, folders, files in os.walk(output):
        folders[:] = [folder for folder in folders if not folder.startswith(("_", "."))]
        for name in files:
            relative = os.path.relpath(os.path.join(root, name), output)
            is_hidden = name.startswith(("_", "."))
            is_result = parse_part_name(name) is not None or (not is_hidden and Path(name).suffix in suffixes)
            if relative not in named and is_result:
                report.add("Stray", f"{relative} looks like a result but no manifest names it.")
    rejected = output / REJECTED
    for name in sorted(os.listdir(rejected)) if rejected.exists() else ():
        if f"{REJECTED}/{name}" not in named:
            report.add("Stray", f"{REJECTED}/{name} isn't named by a manifest.")
