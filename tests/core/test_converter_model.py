"""Source columns in the arena against naive models that convert row by row."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.program import Cast
from sidecar.converter import Converted, column_array
from tests.core.converter_fixture import convert, tensor_of

EDGES = [
    0, 1, 127, 128, 255, 256, 65519, 65520, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -1, -128, -129, -(2**63),
]  # fmt: skip
INTEGERS = {name: np.iinfo(name) for name in ("int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")}


def naive_cast(value: Any, to: str) -> Any:
    """The value as `to`, or None where it doesn't fit: one Python number at a time."""
    if to in INTEGERS:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        whole = int(value)
        return whole if INTEGERS[to].min <= whole <= INTEGERS[to].max else None
    with np.errstate(over="ignore"):
        result = np.dtype(to).type(value)
    return None if np.isinf(result) and not (isinstance(value, float) and math.isinf(value)) else result


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    source=st.sampled_from([*INTEGERS, "float32", "float64"]),
    to=st.sampled_from([*INTEGERS, "float16", "float32", "float64"]),
    width=st.integers(1, 3),
    fill=st.sampled_from([None, 7]),
)
def test_conversion_agrees_with_a_row_by_row_model(
    data: st.DataObject, source: str, to: str, width: int, fill: int | None
) -> None:
    bits = 32 if source == "float32" else 64
    if source in INTEGERS:
        info = INTEGERS[source]
        near = st.sampled_from([edge for edge in EDGES if info.min <= edge <= info.max])
        values: st.SearchStrategy[Any] = near | st.integers(info.min, info.max)
    else:
        values = st.floats(width=bits) | st.sampled_from([float(np.dtype(source).type(edge)) for edge in EDGES])
    rows: list[list[Any]] = data.draw(
        st.lists(st.lists(st.none() | values, min_size=width, max_size=width), max_size=12)
    )
    columns = [pa.array([row[at] for row in rows], pa.from_numpy_dtype(source)) for at in range(width)]
    names = [f"c{at}" for at in range(width)]

    expected = [[fill if value is None else naive_cast(value, to) for value in row] for row in rows]
    bad = {number for number, row in enumerate(expected) if None in row}

    stacked, arena = convert(
        pa.record_batch(columns, names), tensor_of(*names, cast=Cast(to, None, fill), stacked=True)
    )
    check(column_array(stacked.columns["x"], arena), stacked, expected, bad, to)
    lists = pa.record_batch([pa.array(rows, pa.list_(pa.from_numpy_dtype(source), width))], ["a"])
    nested, arena = convert(lists, tensor_of("a", cast=Cast(to, None, fill)))
    check(column_array(nested.columns["x"], arena), nested, expected, bad, to)


def check(
    found: npt.NDArray[Any], converted: Converted, expected: Sequence[Sequence[Any]], bad: set[int], dtype: str
) -> None:
    assert set(converted.bad) == bad
    assert found.dtype == np.dtype(dtype)
    for number, row in enumerate(expected):
        if number in bad:
            assert not found[number].any()
        else:
            np.testing.assert_array_equal(found[number], np.array(row, dtype))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.none() | st.lists(st.none() | st.lists(st.none() | st.integers(-5, 5), max_size=2), max_size=2)),
    begin=st.integers(0, 3),
    filled=st.booleans(),
)
def test_ragged_lists_agree_with_a_row_by_row_model(rows: list[Any], begin: int, filled: bool) -> None:
    values = pa.array(rows, pa.list_(pa.list_(pa.int64())))[begin:]
    rows = rows[begin:]
    converted, arena = convert(
        pa.record_batch([values], ["a"]), tensor_of("a", cast=Cast(fill=0 if filled else None), shape=(None, 2, 1))
    )
    found = column_array(converted.columns["x"], arena)
    assert found.shape == (len(rows), 2, 1)
    for number, row in enumerate(rows):
        expected = naive_row(row, (2, 1), 0 if filled else None)
        assert (number in converted.bad) == (expected is None)
        assert found[number].tolist() == (expected or [[0], [0]])


def naive_row(value: Any, shape: tuple[int, ...], fill: int | None) -> Any:
    """`value` as nested lists of `shape`, or None where it can't be."""
    if value is None:
        return None if fill is None else np.full(shape, fill).tolist()
    if not shape:
        return value
    if len(value) != shape[0]:
        return None
    parts = [naive_row(part, shape[1:], fill) for part in value]
    return None if any(part is None for part in parts) else parts
