"""The rejects: rows that could not be predicted, where they came from and why."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.publish import staged_name
from sidecar.core.batches import Blame
from sidecar.writer import RejectsWriter
from tests.integration.writer_fixture import ODD, STEM, Folder, rows_of

BLAMES = [Blame("embed", "ValueError", "too long"), Blame("source", "NullValue", "column 'text' is null")]


def test_rejects_keep_their_rows_where_they_came_from_and_why(tmp_path: Path) -> None:
    writer = RejectsWriter(Folder(tmp_path), STEM, keep_rows=True)
    writer.write("in/a.csv", np.array([17]), [Blame("source", "CorruptRow", "2 fields")], None)
    writer.write("in/a.csv", np.array([3, 9]), BLAMES, rows_of(0, 2))
    (staged,) = writer.close()
    assert (staged.name, staged.kind, staged.rows) == (f"_headrace/rejected/{STEM}.parquet", "rejects", 3)
    assert pq.read_table(tmp_path / staged_name(staged.name)).to_pylist() == [
        {"_file": "in/a.csv", "_address": 17, "_stage": "source", "_class": "CorruptRow", "_message": "2 fields",
         "id": None, "score": None, "text": None},
        {"_file": "in/a.csv", "_address": 3, "_stage": "embed", "_class": "ValueError", "_message": "too long",
         "id": 0, "score": 0.0, "text": "row 0"},
        {"_file": "in/a.csv", "_address": 9, "_stage": "source", "_class": "NullValue",
         "_message": "column 'text' is null", "id": 1, "score": 0.125, "text": "row 1"},
    ]  # fmt: skip


def test_rejects_by_address_hold_no_rows(tmp_path: Path) -> None:
    writer = RejectsWriter(Folder(tmp_path), STEM, keep_rows=False)
    writer.write("a", np.array([3, 9]), BLAMES, rows_of(0, 2))
    (staged,) = writer.close()
    names = pq.read_schema(tmp_path / staged_name(staged.name)).names
    assert names == ["_file", "_address", "_stage", "_class", "_message"]


def test_rows_that_could_not_be_read_are_rejects_too(tmp_path: Path) -> None:
    writer = RejectsWriter(Folder(tmp_path), STEM, keep_rows=True)
    writer.write("a", np.array([3, 9]), BLAMES, None)
    (staged,) = writer.close()
    assert pq.read_table(tmp_path / staged_name(staged.name))["_address"].to_pylist() == [3, 9]


def test_a_source_column_may_be_named_like_one_of_the_rejects_own(tmp_path: Path) -> None:
    writer = RejectsWriter(Folder(tmp_path), STEM, keep_rows=True)
    writer.write("a", np.array([3]), BLAMES[:1], pa.record_batch([pa.array([5])], ["_class"]))
    (staged,) = writer.close()
    assert pq.read_table(tmp_path / staged_name(staged.name)).to_pylist()[0]["source._class"] == 5
    assert RejectsWriter(Folder(tmp_path), STEM, keep_rows=True).close() == ()


def test_a_rejected_row_loses_only_columns_that_parquet_does_not_know(tmp_path: Path) -> None:
    writer = RejectsWriter(Folder(tmp_path), STEM, keep_rows=True)
    writer.write("a", np.array([3, 4]), BLAMES, pa.record_batch([ODD["union"], pa.array([5, 6])], ["odd", "id"]))
    (staged,) = writer.close()
    assert pq.read_table(tmp_path / staged_name(staged.name))["id"].to_pylist() == [5, 6]


def test_aborted_rejects_leave_nothing(tmp_path: Path) -> None:
    writer = RejectsWriter(Folder(tmp_path), STEM, keep_rows=True)
    writer.write("a", np.array([3]), BLAMES[:1], rows_of(0, 1))
    writer.abort()
    assert os.listdir(tmp_path) == []
