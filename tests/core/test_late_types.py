"""Batches of nothing but nulls take the type of other batches, wherever these are."""

import pyarrow as pa
import pytest

from sidecar.late_types import HELD_BYTES_MAX, LateTypes


def batch(**columns: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def nothing(column: str) -> None:
    """No other file is known."""


IDS = pa.array([1, 2])
NULLS = pa.nulls(2)


@pytest.mark.parametrize(
    ("late", "typed"),
    [
        (NULLS, pa.array([1.5, None])),
        (NULLS, pa.array(["a", "b"])),
        (NULLS, pa.array([[1], []])),
        (NULLS, pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2))),
        (pa.array([[], []]), pa.array([[1], []])),
        (pa.array([[[]], [[], []]]), pa.array([[["a"]], []])),
    ],
)
def test_rows_wait_for_their_type_and_keep_their_order(late: pa.Array, typed: pa.Array) -> None:
    types = LateTypes(nothing)
    assert types.take(batch(id=IDS, y=late)) == []
    assert types.take(batch(id=IDS, y=late)) == []
    first, second, third = types.take(batch(id=IDS, y=typed))
    assert first.schema == second.schema == third.schema
    assert first["y"].to_pylist() == second["y"].to_pylist() == late.to_pylist()
    assert third["y"].equals(typed)
    assert types.rest() == []


@pytest.mark.parametrize("kind", [pa.float64(), pa.string(), pa.list_(pa.int8(), 2)])
def test_lists_of_nothing_stay_what_they_are_beside_a_type_that_they_cannot_take(kind: pa.DataType) -> None:
    lists = pa.array([[], None])
    types = LateTypes({"y": kind}.get)
    (rows,) = types.take(batch(id=IDS, y=lists))
    assert rows["y"].equals(lists)
    types = LateTypes(nothing)
    assert types.take(batch(id=IDS, y=lists)) == []
    first, second = types.take(batch(id=IDS, y=pa.nulls(2, kind)))
    assert first["y"].equals(lists)
    assert second.schema.field("y").type == kind


def test_a_batch_with_a_type_is_not_touched() -> None:
    rows = batch(id=IDS)
    assert LateTypes(nothing).take(rows)[0] is rows


def test_a_type_known_from_other_files_is_taken_at_once() -> None:
    (rows,) = LateTypes({"y": pa.int8()}.get).take(batch(y=NULLS))
    assert rows.schema.field("y").type == pa.int8()


def test_each_column_waits_for_its_own_type() -> None:
    types = LateTypes(nothing)
    assert types.take(batch(a=NULLS, b=NULLS)) == []
    assert types.take(batch(a=IDS, b=NULLS)) == []
    parts = types.take(batch(a=NULLS, b=pa.array(["x", None])))
    assert [part.schema.types for part in parts] == [[pa.int64(), pa.string()]] * 3


def test_what_nobody_knows_stays_null() -> None:
    types = LateTypes(nothing)
    assert types.take(batch(y=NULLS)) == []
    (rows,) = types.rest()
    assert rows.schema.field("y").type == pa.null()


def test_rows_held_back_are_bounded() -> None:
    types = LateTypes(nothing)
    wide = pa.array([b"x" * (HELD_BYTES_MAX // 2)])
    assert types.take(batch(wide=wide, y=pa.nulls(1))) == []
    assert len(types.take(batch(wide=wide, y=pa.nulls(1)))) == 2
