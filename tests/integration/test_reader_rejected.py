"""Rejects files as a source: rows come with the file and address that they had in the input."""

import base64
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.dataset import Dataset
from headrace.program import SourceProgram
from headrace.publish import staged_name
from headrace.rejects import kept_column, kept_name
from sidecar.core.batches import Blame
from sidecar.reader import Block, Cursor, open_source
from sidecar.writer import RejectsWriter
from tests.integration.writer_fixture import Folder

KEPT = pa.schema([("_file", pa.string()), ("x", pa.int64()), ("view", pa.string_view())])
"""Columns of the source; one has a name that the rejects dataset needs itself, one a type that Arrow can't filter."""


def rows(*xs: int) -> pa.RecordBatch:
    views = pa.array([f"seen {x}" for x in xs], pa.string_view())
    return pa.record_batch(
        {"_file": [f"own {x}" for x in xs], "x": pa.array(xs, pa.int64()), "view": views}, schema=KEPT
    )


def written(folder: Path) -> list[Path]:
    """One file with rows of two input files, of which two could not be read; and one of unread rows only."""
    mixed = RejectsWriter(Folder(folder), "part-1", keep_rows=True)
    mixed.write("a.csv", np.array([7]), [Blame("source", "BadRecord", "2 fields")], None)
    mixed.write("a.csv", np.array([9, 11]), [Blame("s", "ValueError", "no")] * 2, rows(1, 2))
    mixed.write("b.csv", np.array([3]), [Blame("source", "NullValue", "x is null")], rows(3))
    mixed.write("b.csv", np.array([5]), [Blame("source", "BadRecord", "0 fields")], None)
    unread = RejectsWriter(Folder(folder), "part-2", keep_rows=True)
    unread.write("c.csv", np.array([1]), [Blame("source", "FileTooLarge", "3 GiB")], None)
    return [folder / staged_name(staged.name) for writer in (mixed, unread) for staged in writer.close()]


def read(paths: list[Path], begin: int, end: int) -> list[Block]:
    units = np.array([0, 5, 6], np.int64)
    sizes = np.array([path.stat().st_size for path in paths], np.int64)
    versions = tuple(str(path.stat().st_mtime_ns) for path in paths)
    dataset = Dataset("row", tuple(map(str, paths)), sizes, versions, units, units[1:], True, 0, 6)
    schema = base64.b64encode(KEPT.serialize().to_pybytes()).decode()
    program = SourceProgram("parquet", tuple(KEPT.names), schema, rejected=True, units=6)
    cursor = Cursor(begin, end)
    blocks = list(open_source(program).read(list(dataset.slices(begin, end)), cursor))
    assert cursor.position == end
    assert [block.begin for block in blocks[1:]] == [block.end for block in blocks[:-1]]
    return blocks


def test_kept_rows_have_their_places_and_unread_ones_their_reasons(tmp_path: Path) -> None:
    (block,) = read(written(tmp_path), 0, 6)
    assert block.rows.schema == KEPT
    assert block.rows.to_pylist() == rows(1, 2, 3).to_pylist()
    assert [(block.path_of(row), int(block.address[row])) for row in range(3)] == [
        ("a.csv", 9),
        ("a.csv", 11),
        ("b.csv", 3),
    ]
    assert [(bad.path, bad.address, bad.kind, bad.message) for bad in block.bad] == [
        ("a.csv", 7, "BadRecord", "2 fields"),
        ("b.csv", 5, "BadRecord", "0 fields"),
        ("c.csv", 1, "FileTooLarge", "3 GiB"),
    ]
    assert (block.rows_read, block.rows_filtered) == (6, 0)


def test_a_lease_has_the_rows_of_its_range(tmp_path: Path) -> None:
    paths = written(tmp_path)
    for begin, end in ((0, 2), (2, 5), (5, 6)):
        (block,) = read(paths, begin, end)
        assert block.rows.num_rows + len(block.bad) == block.rows_read == end - begin
    assert [bad.kind for bad in read(paths, 5, 6)[0].bad] == ["FileTooLarge"]


def test_names_of_kept_columns_lead_back() -> None:
    for name in ("x", "_file", "_class", "source.x", "source"):
        assert kept_column(kept_name(name)) == name
