"""`verify` on what could not be read and on rejects that were run again: the ranges and the rows must add up."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.core.facts import OutputFile
from coordinator.manifest import RETRY, Header, InputFile, ShardEntry, read_manifest, write_manifest
from coordinator.output import SUCCESS, manifest_name
from coordinator.rejected import CorruptPart, find_rejected
from coordinator.verify import verify
from headrace.dataset import CorruptUnits
from headrace.publish import file_digest, part_name
from headrace.stores import open_store

BASE, AGAIN = "0123456789abcdef", "fedcba9876543210"
INPUTS = [InputFile("a.parquet", 9, "1", 0, 60), InputFile("b.parquet", 9, "1", 60, 40)]
HEADER = Header("numbers", BASE, 1, None, "fail", "parquet", "row", 2, 100, (("n", "int64"),))


def staged(output: Path, uid: str, shard: int, rows: int, kind: str) -> OutputFile:
    name = ("" if kind == "data" else "_headrace/rejected/") + part_name(shard, uid, 1, "00000000", ".parquet")
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": pa.array(range(rows), pa.int64())}), output / name)
    return OutputFile(name, kind, (output / name).stat().st_size, file_digest(output / name), rows)


def entry(output: Path, uid: str, shard: int, begin: int, end: int, rejected: int, corrupt: int = 0) -> ShardEntry:
    """A shard whose last `corrupt` units could not be read."""
    out = end - begin - rejected - corrupt
    files = [staged(output, uid, shard, out, "data")] if out else []
    files += [staged(output, uid, shard, rejected, "rejects")] if rejected else []
    ranges = (CorruptUnits(end - corrupt, end, "torn"),) if corrupt else ()
    return ShardEntry(shard, 1, begin, end, out + rejected, 0, out, 0, rejected, tuple(files), ranges)


def write(output: Path, header: Header, inputs: Sequence[InputFile], entries: Sequence[ShardEntry]) -> None:
    path = output / "_headrace" / manifest_name(header.number)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    with open(path, "xb") as file:
        write_manifest(file, header, inputs, entries)
    (output / SUCCESS).write_text(json.dumps({"manifest": f"_headrace/{path.name}"}))


def findings(output: Path) -> set[str]:
    return {finding.kind for finding in verify(str(output)).findings}


# ---------------------------------------------------------------------- what could not be read


def test_corrupt_ranges_are_part_of_what_is_accounted_for(tmp_path: Path) -> None:
    entries = [entry(tmp_path, BASE, 0, 0, 70, 2, corrupt=15), entry(tmp_path, BASE, 1, 70, 100, 0)]
    write(tmp_path, HEADER, INPUTS, entries)
    report = verify(str(tmp_path))
    assert (report.findings, report.corrupt_total) == ([], 1)
    assert report.corrupt == ["a.parquet [55, 60); b.parquet [0, 10): torn"]
    assert (report.rows_read, report.rows_out, report.rows_rejected) == (85, 83, 2)
    path = tmp_path / "_headrace" / "manifest-000001.jsonl"
    assert [item for item in read_manifest(path) if isinstance(item, ShardEntry)] == entries
    rejected = find_rejected(open_store(str(tmp_path)))
    assert rejected is not None
    assert (rejected.rows, rejected.corrupt) == (
        2,
        (CorruptPart("a.parquet", 55, 60, "row", "torn"), CorruptPart("b.parquet", 0, 10, "row", "torn")),
    )


@pytest.mark.parametrize(
    "corrupt",
    [
        pytest.param((), id="not listed"),
        pytest.param((CorruptUnits(56, 70, "torn"),), id="too short"),
        pytest.param((CorruptUnits(60, 75, "torn"),), id="another shard's"),
        pytest.param((CorruptUnits(55, 63, "torn"), CorruptUnits(62, 69, "torn")), id="twice"),
        pytest.param((CorruptUnits(55, 70, "torn"), CorruptUnits(70, 70, "torn")), id="empty"),
    ],
)
def test_corrupt_ranges_that_do_not_add_up_are_found(tmp_path: Path, corrupt: tuple[CorruptUnits, ...]) -> None:
    first, second = entry(tmp_path, BASE, 0, 0, 70, 2, corrupt=15), entry(tmp_path, BASE, 1, 70, 100, 0)
    write(tmp_path, HEADER, INPUTS, [replace(first, corrupt=corrupt), second])
    assert "Unbalanced" in findings(tmp_path)


# ---------------------------------------------------------------------- rejects that were run again


def retried(output: Path) -> tuple[list[InputFile], list[ShardEntry]]:
    """A base of ten rejects in two files, and what ran them again: three are still rejected. The old files are gone."""
    base = [entry(output, BASE, 0, 0, 50, 4), entry(output, BASE, 1, 50, 100, 6)]
    write(output, HEADER, INPUTS, base)
    old = [file for each in base for file in each.files if file.kind == "rejects"]
    inputs = [InputFile(old[0].name, old[0].size, old[0].digest, 0, 4)]
    inputs += [InputFile(old[1].name, old[1].size, old[1].digest, 4, 6)]
    entries = [entry(output, AGAIN, 0, 0, 7, 3), entry(output, AGAIN, 1, 7, 10, 0)]
    for file in old:
        (output / file.name).unlink()
    return inputs, entries


HEADER_AGAIN = Header(
    "numbers.rejected", AGAIN, 2, "manifest-000001.jsonl", RETRY, "parquet", "row", 2, 10, (("n", "int64"),)
)


def test_rejects_that_were_run_again_are_out_or_still_rejected(tmp_path: Path) -> None:
    inputs, entries = retried(tmp_path)
    write(tmp_path, HEADER_AGAIN, inputs, entries)
    report = verify(str(tmp_path))
    assert report.findings == []
    assert (report.rows_read, report.rows_out, report.rows_rejected) == (100, 97, 3)
    assert (report.input_files, report.units, report.files) == (2, 100, 5)
    assert report.rows_counted == 100
    rejected = find_rejected(open_store(str(tmp_path)))
    assert rejected is not None
    assert (rejected.number, rejected.base, rejected.rows) == (2, "manifest-000002.jsonl", 3)
    assert rejected.files == tuple(file for file in entries[0].files if file.kind == "rejects")


Lie = Callable[[list[InputFile], list[ShardEntry]], tuple[list[InputFile], list[ShardEntry]]]


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        pytest.param(lambda inputs, entries: (inputs, entries[:1]), "Gap", id="rows that nobody ran"),
        pytest.param(
            lambda inputs, entries: ([inputs[0], replace(inputs[1], version="0" * 32)], entries),
            "Unbalanced",
            id="another file's bytes",
        ),
        pytest.param(
            lambda inputs, entries: ([replace(inputs[0], units=3), replace(inputs[1], origin=3, units=7)], entries),
            "Unbalanced",
            id="other rows",
        ),
        pytest.param(
            lambda inputs, entries: ([inputs[0], replace(inputs[1], path="_headrace/rejected/other.parquet")], entries),
            "Missing",
            id="a file that nobody ran is gone",
        ),
        pytest.param(
            lambda inputs, entries: ([inputs[0], replace(inputs[1], path="_headrace/rejected/other.parquet")], entries),
            "Damaged",
            id="a file that no base names",
        ),
    ],
)
def test_a_retry_that_does_not_add_up_is_found(tmp_path: Path, lie: Lie, kind: str) -> None:
    inputs, entries = lie(*retried(tmp_path))
    write(tmp_path, HEADER_AGAIN, inputs, entries)
    assert kind in findings(tmp_path)


def test_a_data_file_is_no_rejects_file_that_was_run_again(tmp_path: Path) -> None:
    inputs, entries = retried(tmp_path)
    base = next(item for item in read_manifest(tmp_path / "_headrace" / "manifest-000001.jsonl") if _is_entry(item))
    assert isinstance(base, ShardEntry)
    data = base.files[0]
    more = InputFile(data.name, data.size, data.digest, 10, data.rows)
    header = replace(HEADER_AGAIN, files=3, units=10 + data.rows)
    write(tmp_path, header, [*inputs, more], [*entries, entry(tmp_path, AGAIN, 2, 10, 10 + data.rows, 0)])
    assert "Unbalanced" in findings(tmp_path)


def _is_entry(item: object) -> bool:
    return isinstance(item, ShardEntry)


def test_an_old_rejects_file_that_is_still_there_is_found(tmp_path: Path) -> None:
    inputs, entries = retried(tmp_path)
    write(tmp_path, HEADER_AGAIN, inputs, entries)
    (tmp_path / inputs[0].path).write_bytes(b"left")
    assert findings(tmp_path) == {"Stray"}
