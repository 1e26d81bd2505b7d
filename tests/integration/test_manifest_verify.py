"""`verify` finds each kind of damage, and manifests are read back as they were written."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.core.facts import OutputFile
from coordinator.manifest import (
    Header,
    InputFile,
    ManifestDamaged,
    QuarantinedEntry,
    ShardEntry,
    Totals,
    read_manifest,
    read_totals,
    write_manifest,
)
from coordinator.output import SUCCESS, manifest_name
from coordinator.verify import verify
from headrace.publish import file_digest, part_name

UID = "0123456789abcdef"
INPUTS = [InputFile("a.csv", 9, "1", 0, 30), InputFile("empty.csv", 0, "1", 30, 0), InputFile("b.csv", 9, "1", 30, 70)]
HEADER = Header("numbers", UID, 1, None, "fail", "parquet", "row", 3, 100, (("n", "int64"),))


EXTRA = ("m", "string")


def data(output: Path, shard: int, rows: int, kind: str = "data") -> OutputFile:
    name = part_name(shard, UID, 1, "00000000", ".parquet")
    name = name if kind == "data" else f"_headrace/rejected/{name}"
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": pa.array(range(rows), pa.int64())}), output / name)
    return OutputFile(name, kind, (output / name).stat().st_size, file_digest(output / name), rows)


def shard(output: Path, number: int, begin: int, end: int) -> ShardEntry:
    """All rows but two come out; one is filtered, one rejected."""
    rows = end - begin
    files = (data(output, number, rows - 2), data(output, number, 1, "rejects"))
    return ShardEntry(number, 1, begin, end, rows, 1, rows - 2, 0, 1, files)


def write_at(path: Path, *content: Any) -> Totals:
    with open(path, "xb") as file:
        return write_manifest(file, *content)


def write(output: Path, entries: list[ShardEntry | QuarantinedEntry], header: Header = HEADER) -> Path:
    path = output / "_headrace" / manifest_name(header.number)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    write_at(path, header, INPUTS, entries)
    (output / SUCCESS).write_text(json.dumps({"manifest": f"_headrace/{path.name}"}))
    return path


@pytest.fixture
def entries(tmp_path: Path) -> list[ShardEntry | QuarantinedEntry]:
    made: list[ShardEntry | QuarantinedEntry] = [
        shard(tmp_path, 0, 0, 40),
        shard(tmp_path, 2, 70, 100),
        shard(tmp_path, 1, 40, 70),
    ]
    write(tmp_path, made)
    return made


def found(output: Path) -> set[str]:
    return {finding.kind for finding in verify(output).findings}


def test_a_whole_output_is_proven(tmp_path: Path, entries: list[ShardEntry]) -> None:
    report = verify(tmp_path)
    assert report.findings == []
    assert (report.rows_read, report.rows_out, report.rows_filtered, report.rows_rejected) == (100, 94, 3, 3)
    assert (report.files, report.rows_counted, report.shards, report.units) == (6, 97, 3, 100)
    assert json.loads(json.dumps(report.to_plain()))["proven"] is True


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path, entries: list[ShardEntry]) -> None:
    lost = QuarantinedEntry(3, 0, 0, "boom")
    weird = replace(INPUTS[0], path=os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80.csv"))
    path = tmp_path / "m.jsonl"
    totals = write_at(path, HEADER, [weird], [*entries, lost])
    assert list(read_manifest(path)) == [HEADER, weird, *entries, lost, totals]
    assert read_totals(path) == totals.to_plain()
    assert isinstance(totals, Totals)


def test_an_output_without_a_manifest_is_not_proven(tmp_path: Path) -> None:
    assert found(tmp_path) == {"NoManifest"}


Damage = Callable[[Path, list[ShardEntry]], object]


def _first(output: Path, entries: list[ShardEntry]) -> Path:
    return output / entries[0].files[0].name


DAMAGE: dict[str, tuple[str, Damage]] = {
    "a missing file": ("Missing", lambda o, e: _first(o, e).unlink()),
    "a longer file": ("Size", lambda o, e: _first(o, e).write_bytes(_first(o, e).read_bytes() + b"x")),
    "a changed file": ("Digest", lambda o, e: _first(o, e).write_bytes(b"x" * e[0].files[0].size)),
    "a stray file": ("Stray", lambda o, e: data(o, 9, 1)),
    "a copy": ("Stray", lambda o, e: (o / f"copy{_first(o, e).suffix}").write_bytes(_first(o, e).read_bytes())),
    "a stray reject": ("Stray", lambda o, e: data(o, 9, 1, "rejects")),
    "another's _SUCCESS": ("Damaged", lambda o, e: (o / SUCCESS).write_text('{"manifest": "manifest-000007.jsonl"}')),
    "rows never read": ("Unbalanced", lambda o, e: write(o, [replace(e[0], rows_read=39, rows_filtered=0), *e[1:]])),
    "no _SUCCESS": ("NoSuccess", lambda o, e: (o / SUCCESS).unlink()),
    "a claim": ("Unfinished", lambda o, e: (o / "_headrace/claim.json").write_text("{}")),
    "a gap": ("Gap", lambda o, e: write(o, [replace(e[0], end=39), *e[1:]])),
    "a gap at the start": ("Gap", lambda o, e: write(o, [replace(e[0], begin=1), *e[1:]])),
    "a gap at the end": ("Gap", lambda o, e: write(o, [e[0], replace(e[1], end=99), e[2]])),
    "an overlap": ("Overlap", lambda o, e: write(o, [replace(e[0], end=41), *e[1:]])),
    "units past the end": ("Overlap", lambda o, e: write(o, [e[0], replace(e[1], end=101), e[2]])),
    "a shard twice": ("Doubled", lambda o, e: write(o, [e[0], *e])),
    "rows that vanish": ("Unbalanced", lambda o, e: write(o, [replace(e[0], rows_read=41), *e[1:]])),
    "rows without a file": ("Unbalanced", lambda o, e: write(o, [replace(e[0], files=e[0].files[1:]), *e[1:]])),
    "a wrong number of rows": (
        "Rows",
        lambda o, e: write(o, [replace(e[0], files=(replace(e[0].files[0], rows=37), e[0].files[1])), *e[1:]]),
    ),
    "another type than the manifest's": (
        "Schema",
        lambda o, e: write(o, e, replace(HEADER, columns=(("n", "double"),))),
    ),
    "a column that files lack": ("Schema", lambda o, e: write(o, e, replace(HEADER, columns=(*HEADER.columns, EXTRA)))),
    "a range given up": ("Quarantined", lambda o, e: write(o, [*e[:2], QuarantinedEntry(1, 40, 70, "boom")])),
    "inputs left out": ("Damaged", lambda o, e: write(o, list(e), replace(HEADER, files=4))),
    "a base that is missing": (
        "Damaged",
        lambda o, e: write(o, list(e), replace(HEADER, base=manifest_name(9))),
    ),
    "a base that is itself": ("Damaged", lambda o, e: write(o, list(e), replace(HEADER, base=manifest_name(1)))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(tmp_path: Path, entries: list[ShardEntry], damage: str) -> None:
    kind, do = DAMAGE[damage]
    do(tmp_path, entries)
    assert kind in found(tmp_path)


@pytest.mark.parametrize("cut", [1, 2, 40, 400])
def test_a_manifest_cut_short_is_found(tmp_path: Path, entries: list[ShardEntry], cut: int) -> None:
    path = tmp_path / "_headrace" / manifest_name(1)
    path.write_bytes(path.read_bytes()[:-cut])
    expected = set() if cut == 1 else {"Damaged"}  # the last line's end says nothing
    assert found(tmp_path) == expected


def test_a_changed_letter_of_a_manifest_is_found(tmp_path: Path, entries: list[ShardEntry]) -> None:
    path = tmp_path / "_headrace" / manifest_name(1)
    path.write_bytes(path.read_bytes().replace(b'"filtered":1', b'"filtered":2', 1))
    with pytest.raises(ManifestDamaged):
        list(read_manifest(path))
    assert "Damaged" in found(tmp_path)


def test_all_bases_are_checked(tmp_path: Path, entries: list[ShardEntry]) -> None:
    name = part_name(0, "ffffffff", 1, "00000000", ".parquet")
    pq.write_table(pa.table({"n": pa.array(range(100))}), tmp_path / name)
    file = OutputFile(name, "data", (tmp_path / name).stat().st_size, file_digest(tmp_path / name), 100)
    more = ShardEntry(0, 1, 0, 100, 100, 0, 100, 0, 0, (file,))
    write(tmp_path, [more], replace(HEADER, number=2, base=manifest_name(1)))
    assert verify(tmp_path).findings == []
    assert verify(tmp_path).rows_out == 194
    _first(tmp_path, entries).unlink()
    assert found(tmp_path) == {"Missing"}


def test_a_file_of_another_schema_than_its_manifests_is_named(tmp_path: Path, entries: list[ShardEntry]) -> None:
    odd = part_name(3, UID, 1, "00000000", ".arrow")
    table = pa.table({"n": pa.array([0.5])})
    with pa.OSFile(str(tmp_path / odd), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    file = OutputFile(odd, "data", (tmp_path / odd).stat().st_size, file_digest(tmp_path / odd), 1)
    write(tmp_path, [replace(entries[0], end=39, rows_read=39, rows_filtered=0), *entries[1:], one(file, 39)])
    told = [finding.message for finding in verify(tmp_path).findings if finding.kind == "Schema"]
    assert told == [f"{odd} isn't as its manifest says: column 'n' is double instead of int64."]


def one(file: OutputFile, begin: int) -> ShardEntry:
    return ShardEntry(3, 1, begin, begin + 1, 1, 0, 1, 0, 0, (file,))


def test_a_base_of_other_columns_is_found(tmp_path: Path, entries: list[ShardEntry]) -> None:
    header = replace(HEADER, number=2, base=manifest_name(1), files=0, units=0, columns=(("n", "double"),))
    write_at(tmp_path / "_headrace" / manifest_name(2), header, [], [])
    (tmp_path / SUCCESS).write_text(json.dumps({"manifest": f"_headrace/{manifest_name(2)}"}))
    (finding,) = verify(tmp_path).findings
    assert (finding.kind, manifest_name(1) in finding.message) == ("Schema", True)


def test_an_empty_dataset_has_one_empty_shard(tmp_path: Path) -> None:
    path = tmp_path / "_headrace" / manifest_name(1)
    path.parent.mkdir()
    file = data(tmp_path, 0, 0)
    empty = replace(HEADER, files=0, units=0)
    write_at(path, empty, [], [ShardEntry(0, 1, 0, 0, 0, 0, 0, 0, 0, (file,))])
    (tmp_path / SUCCESS).write_text('{"manifest": "_headrace/manifest-000001.jsonl"}')
    assert verify(tmp_path).findings == []
