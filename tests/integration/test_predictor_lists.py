"""Outputs that are rows of any length, Arrow arrays or nothing but nulls: through the arena, to Arrow and to stages."""

import datetime
import decimal
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.local.columns import IPC, NULL, Column
from predictor.arrow_inputs import rows_of
from predictor.mapping import ArenaMap
from predictor.outputs import BadOutput, Region, WrongRows, checked, nbytes_needed, specs_of
from sidecar.arena import Arena
from sidecar.converter import column_to_arrow, nan_rows

SIZE = 1 << 20


class Pair:
    """Both ends of one arena."""

    def __init__(self) -> None:
        self.arena = Arena.create(SIZE, 0)
        self.map = ArenaMap(os.dup(self.arena.fd), SIZE)

    def write(self, value: Any, rows: int) -> Column:
        outputs = checked({"y": value}, rows)
        region = Region(self.map, 4096, nbytes_needed(outputs))
        return region.write("y", outputs["y"])

    def to_arrow(self, value: Any, rows: int) -> pa.Array:
        return column_to_arrow(self.write(value, rows), self.arena.view)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.arena.close()


RAGGED = np.empty(3, object)
for _i, _row in enumerate([np.zeros((2, 3), np.uint8), np.ones((1, 1), np.uint8), np.zeros((0, 5), np.uint8)]):
    RAGGED[_i] = _row


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([[1, 2], [], None, [3]], pa.list_(pa.int64())),
        ([["a", "b"], ["ä", None]], pa.list_(pa.string())),
        ([[[1.5], []], [[2.0, 3.0]]], pa.list_(pa.list_(pa.float64()))),
        ([[1, 2], [3, 4]], pa.list_(pa.int64())),
        ((np.float32([1, 2]), np.float32([3])), pa.list_(pa.float32())),
        ([np.float32([1, 2]), np.zeros(0), None], pa.list_(pa.float32())),
        ([np.array(["a"]), np.array(["b", "c"])], pa.list_(pa.string())),
        (RAGGED, pa.list_(pa.list_(pa.uint8()))),
        (pa.array([[1, None], None, []], pa.list_(pa.int16())), pa.list_(pa.int16())),
        (pa.chunked_array([[[1]], [[2, 3]]]), pa.list_(pa.int64())),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), pa.list_(pa.int8(), 2)),
        (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), pa.list_(pa.int8(), 2)),
        (pa.array([{"a": 1}, None]), pa.struct({"a": pa.int64()})),
        (pa.array([decimal.Decimal("1.50"), None]), pa.decimal128(3, 2)),
        (pa.array([1, None], pa.int8()), pa.int8()),
        (pa.array([1, 2, None], pa.int8())[1:], pa.int8()),
        (pa.array([True, None, False])[1:], pa.bool_()),
        (pa.array([datetime.date(2026, 11, 22), None]), pa.date32()),
        (pa.array([0, None], pa.timestamp("us")), pa.timestamp("us")),
        (pa.array([0, None], pa.timestamp("us", "UTC")), pa.timestamp("us", "UTC")),
        (pa.array(["a", "bc", None])[1:], pa.string()),
        (pa.array([None, None], pa.string()), pa.string()),
        (pa.array([b"a", None], pa.large_binary()), pa.binary()),
        (pa.array(["b", "a", "b"]).dictionary_encode(), pa.string()),
        (pa.array([None, 2.5], pa.float16()), pa.float16()),
        (pa.array([1, 2], pa.int32()), pa.int32()),
        ([None, None], pa.null()),
        (np.array([None, None], object), pa.null()),
        (pa.nulls(3), pa.null()),
    ],
)
def test_an_output_comes_out_with_its_values_and_the_type_it_was_returned_with(
    pair: Pair, value: Any, kind: pa.DataType
) -> None:
    rows = len(value)
    expected = value.to_pylist() if hasattr(value, "to_pylist") else pa.array(_plain(value), kind).to_pylist()
    found = pair.to_arrow(value, rows)
    assert found.type == kind
    assert found.to_pylist() == expected
    halves = [pair.write(value, rows).rows_slice(begin, end) for begin, end in ((0, 1), (1, rows))]
    assert [v for half in halves for v in column_to_arrow(half, pair.arena.view).to_pylist()] == expected


def _plain(value: Any) -> Any:
    return [item.tolist() if isinstance(item, np.ndarray) else item for item in value]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([np.zeros(2), np.zeros((1, 1))], "output y: rows of rank 1 and of rank 2"),
        ([[1], ["a"]], "output y: rows that are no lists of one type: "),
        ([[1], 2], "output y: rows that are no lists of one type: "),
        ([{"a": 1}, {}], "output y: no column holds objects of dict"),
        (pa.ListArray.from_buffers(
            pa.list_(pa.int8()), 2, [None, pa.py_buffer(np.int32([0, 9, 1]))], children=[pa.array([1], pa.int8())]
        ), "output y: a damaged Arrow array: "),
    ],
)  # fmt: skip
def test_rows_that_no_column_of_lists_holds_are_refused_by_name(pair: Pair, value: Any, found: str) -> None:
    with pytest.raises(BadOutput) as error:
        pair.write(value, 2)
    assert str(error.value).startswith(found)


def test_a_list_output_of_the_wrong_length_is_wrong_rows() -> None:
    for value in ([[1], [2]], [None, None], pa.array([[1], [2]])):
        with pytest.raises(WrongRows):
            checked({"y": value}, 3)


def test_a_spec_of_lists_has_open_axes_and_one_of_nulls_knows_nothing() -> None:
    found = specs_of(checked({"a": [[1], [2, 3]], "b": [None, None], "c": [["x"], []]}, 2))
    assert {name: (spec.dtype, spec.shape) for name, spec in found.items()} == {
        "a": ("int64", (None, None)),
        "b": (None, None),
        "c": (None, None),
    }


def test_rows_with_nan_in_a_list_are_found(pair: Pair) -> None:
    nan = float("nan")
    column = pair.write([[1.0], [nan, nan], [], None, [[2.0, nan]][0]], 5)
    assert nan_rows(column, pair.arena.view).tolist() == [1, 4]
    assert nan_rows(pair.write([["a"]], 1), pair.arena.view).tolist() == []


def test_a_later_stage_gets_rows_of_one_shape_as_a_tensor_and_others_as_arrays(pair: Pair) -> None:
    column = pair.write([[1, 2], [3, 4], [5]], 3)
    assert column.kind == IPC
    same = rows_of(pair.map, column.rows_slice(0, 2))
    assert (same.dtype, same.tolist()) == (np.int64, [[1, 2], [3, 4]])
    ragged = rows_of(pair.map, column)
    assert ragged.dtype == object
    assert [row.tolist() for row in ragged] == [[1, 2], [3, 4], [5]]
    assert rows_of(pair.map, pair.write([["a"], None], 2)).tolist()[1] is None
    assert pair.write([None], 1).kind == NULL
