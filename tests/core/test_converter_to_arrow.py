"""Outputs of stages as Arrow: copies of equal values, with types that every reader knows."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.local.columns import BINARY, DTYPES, TENSOR, UTF8, Column
from sidecar.converter import column_to_arrow, nan_rows

VALIDITY = 64 * 1024


def tensor(values: npt.NDArray[Any], valid: list[bool] | None = None) -> tuple[Column, memoryview]:
    """A tensor somewhere in an arena."""
    values = np.ascontiguousarray(values)
    arena = bytearray(2 * VALIDITY)
    arena[128 : 128 + values.nbytes] = values.tobytes()
    column = Column(
        kind=TENSOR, rows=len(values), offset=128, nbytes=values.nbytes,
        dtype=DTYPES.index(values.dtype.name), shape=values.shape,
        validity_offset=VALIDITY if valid is not None else -1,
    )  # fmt: skip
    arena[VALIDITY : VALIDITY + len(values)] = bytes(valid or [True] * len(values))
    return column, memoryview(arena)


def text(values: list[bytes], kind: int, valid: list[bool] | None = None) -> tuple[Column, memoryview]:
    """A text column somewhere in an arena, whose offsets don't begin at 0."""
    arena = bytearray(2 * VALIDITY)
    ends = np.cumsum([3, *(len(value) for value in values)])
    arena[64 : 64 + ends.nbytes] = ends.astype(np.int64).tobytes()
    data = b"???" + b"".join(values)
    arena[4096 : 4096 + len(data)] = data
    arena[VALIDITY : VALIDITY + len(values)] = bytes(valid or [True] * len(values))
    column = Column(
        kind=kind, rows=len(values), offset=64, nbytes=ends.nbytes, data_offset=4096, data_nbytes=len(data),
        validity_offset=VALIDITY if valid is not None else -1,
    )  # fmt: skip
    return column, memoryview(arena)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_as_it_was(dtype: str) -> None:
    values = np.array([0, 1, 1, 0, 1]).astype(dtype)
    array = column_to_arrow(*tensor(values))
    array.validate(full=True)
    assert array.null_count == 0
    expected = values.view(np.int64) if values.dtype.kind in "mM" else values
    if dtype == "datetime64[D]":
        assert array.type == pa.date32()
        array = array.cast(pa.int32())
    elif values.dtype.kind in "mM":
        array = array.cast(pa.int64())
    assert array.to_pylist() == expected.tolist()


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3), (4, 1, 2, 2), (0, 3), (0, 2, 2)])
def test_higher_ranks_are_nested_fixed_size_lists(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    array = column_to_arrow(*tensor(values))
    array.validate(full=True)
    kind = array.type
    for length in shape[1:]:
        assert kind.list_size == length
        kind = kind.value_type
    assert array.to_pylist() == values.tolist()


def test_an_axis_of_length_zero_is_a_plain_list() -> None:
    array = column_to_arrow(*tensor(np.zeros((2, 0), np.float32)))
    assert (array.type, array.to_pylist()) == (pa.list_(pa.float32()), [[], []])


def test_free_axes_are_plain_lists() -> None:
    values = np.arange(12, dtype=np.int64).reshape(2, 3, 2)
    array = column_to_arrow(*tensor(values), free_axes={1})
    array.validate(full=True)
    assert array.type == pa.list_(pa.list_(pa.int64(), 2))
    assert array.to_pylist() == values.tolist()


def test_rows_without_a_value_are_null() -> None:
    assert column_to_arrow(*tensor(np.array([1, 2, 3]), [True, False, True])).to_pylist() == [1, None, 3]
    assert column_to_arrow(*tensor(np.array([True, True]), [False, True])).to_pylist() == [None, True]
    days = np.array([0, 1], "datetime64[D]")
    assert column_to_arrow(*tensor(days, [False, True])).is_valid().to_pylist() == [False, True]
    vectors = column_to_arrow(*tensor(np.ones((2, 2)), [False, True]))
    assert vectors.to_pylist() == [None, [1.0, 1.0]]
    messages = column_to_arrow(*text([b"", b"too old"], UTF8, [False, True]))
    assert messages.to_pylist() == [None, "too old"]


def test_text_and_bytes_come_back_as_they_were() -> None:
    strings = ["", "ünïcode", "x" * 100]
    array = column_to_arrow(*text([value.encode() for value in strings], UTF8))
    assert (array.type, array.to_pylist()) == (pa.string(), strings)
    array = column_to_arrow(*text([b"\xff\x00", b""], BINARY))
    assert (array.type, array.to_pylist()) == (pa.binary(), [b"\xff\x00", b""])
    assert column_to_arrow(*text([], UTF8)).to_pylist() == []


def test_what_is_returned_outlives_the_arena_s_content() -> None:
    for column, arena in (tensor(np.arange(6).reshape(3, 2)), text([b"a", b"b"], UTF8), tensor(np.array([True]))):
        array = column_to_arrow(column, arena)
        before = array.to_pylist()
        arena[:] = bytes(len(arena))
        assert array.to_pylist() == before


def test_a_run_of_rows_is_the_same_as_a_slice() -> None:
    column, arena = tensor(np.arange(20).reshape(10, 2), [row % 2 == 0 for row in range(10)])
    assert column_to_arrow(column.rows_slice(3, 7), arena).equals(column_to_arrow(column, arena)[3:7])
    column, arena = text([b"a", b"bb", b"", b"cc"], UTF8)
    assert column_to_arrow(column.rows_slice(1, 4), arena).to_pylist() == ["bb", "", "cc"]


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1.5, float("nan"), float("inf"), -float("inf")]), min_size=3, max_size=3),
        max_size=8,
    )
)
def test_rows_with_nan_are_found(rows: list[list[float]]) -> None:
    values = np.array(rows, np.float32).reshape(len(rows), 3)
    expected = [number for number, row in enumerate(rows) if any(value != value for value in row)]  # noqa: PLR0124
    assert nan_rows(*tensor(values)).tolist() == expected
    assert nan_rows(*tensor(values[:, 0])).tolist() == [n for n, row in enumerate(rows) if row[0] != row[0]]


def test_what_cannot_be_nan_is_never_found() -> None:
    assert nan_rows(*tensor(np.array([1, 2]))).tolist() == []
    assert nan_rows(*text([b"nan"], UTF8)).tolist() == []
    assert nan_rows(*tensor(np.array(["2026-11-22", "NaT"], "datetime64[s]"))).tolist() == [1]
