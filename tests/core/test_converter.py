"""Source columns in the arena: every Arrow type of values, casts, nulls and lengths."""

import datetime
import decimal
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from headrace.errors import BadJob, InferredWrong
from headrace.local.columns import ALIGNMENT
from headrace.program import Cast
from sidecar.converter import Converter, SourceTensor, column_array
from tests.core.converter_fixture import OFFSET, array_of, assert_same, convert, tensor_of, texts_of

SECOND = datetime.datetime(2026, 11, 22, 6, 30, 1)

PLAIN = [
    (pa.array([True, False, True]), np.array([True, False, True])),
    *(
        (pa.array([1, 2, 100], kind), np.array([1, 2, 100], str(kind)))
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
    ),
    (pa.array(np.array([1.5, -2.0], np.float16)), np.array([1.5, -2.0], np.float16)),
    (pa.array([1.5, math.inf], pa.float32()), np.array([1.5, np.inf], np.float32)),
    (pa.array([1.5, math.nan], pa.float64()), np.array([1.5, np.nan])),
    (pa.array([SECOND.date()], pa.date32()), np.array(["2026-11-22"], "datetime64[D]")),
    (pa.array([SECOND.date()], pa.date64()), np.array(["2026-11-22"], "datetime64[ms]")),
    *(
        (pa.array([SECOND], pa.timestamp(unit)), np.array(["2026-11-22T06:30:01"], f"datetime64[{unit}]"))
        for unit in ("s", "ms", "us", "ns")
    ),
    (
        pa.array([SECOND], pa.timestamp("us", "Europe/Berlin")),
        np.array(["2026-11-22T06:30:01"], "datetime64[us]"),
    ),
    (pa.array([61], pa.time32("s")), np.array([61], "timedelta64[s]")),
    (pa.array([61_000], pa.time32("ms")), np.array([61_000], "timedelta64[ms]")),
    (pa.array([61], pa.time64("us")), np.array([61], "timedelta64[us]")),
    (pa.array([61], pa.time64("ns")), np.array([61], "timedelta64[ns]")),
    (pa.array([-5], pa.duration("ms")), np.array([-5], "timedelta64[ms]")),
    (pa.array([7, 8, 7]).dictionary_encode(), np.array([7, 8, 7])),
    (pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array([1.5, 2.5])), np.array([1.5, 1.5, 2.5])),
    (pa.array([1, 0], pa.bool8()), np.array([1, 0], np.int8)),
    (pa.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]])),
    (pa.array([[1, 2], [3, 4]], pa.large_list(pa.int8())), np.array([[1, 2], [3, 4]], np.int8)),
    (pa.array([[1, 2], [3, 4]], pa.list_view(pa.int8())), np.array([[1, 2], [3, 4]], np.int8)),
    (pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)), np.array([[1, 2], [3, 4]], np.float32)),
    (
        pa.array([[[1], [2]], [[3], [4]]], pa.list_(pa.list_(pa.int16(), 1))),
        np.array([[[1], [2]], [[3], [4]]], np.int16),
    ),
    (pa.array([[True, False], [False, True]]), np.array([[True, False], [False, True]])),
    (pa.array([["a", "a"], ["b", "a"]]).cast(pa.list_(pa.dictionary(pa.int8(), pa.string()))), None),
    (pa.array([], pa.float32()), np.zeros(0, np.float32)),
    (pa.array([], pa.list_(pa.float32(), 3)), np.zeros((0, 3), np.float32)),
]


@pytest.mark.parametrize(("values", "expected"), PLAIN, ids=lambda value: str(getattr(value, "type", "")))
@pytest.mark.parametrize("sliced", [False, True], ids=["whole", "sliced"])
def test_every_type_of_values_has_its_dtype(values: pa.Array, expected: npt.NDArray[Any] | None, sliced: bool) -> None:
    if expected is None:
        with pytest.raises(BadJob, match="can't become a tensor"):
            array_of(values)
        return
    if sliced:
        values, expected = values[1:], expected[1:]
    assert_same(array_of(values), expected)


def test_a_slice_that_begins_within_a_byte_of_booleans_keeps_its_values() -> None:
    values = [number % 3 == 0 for number in range(40)]
    assert_same(array_of(pa.array(values)[13:29]), np.array(values[13:29]))


def test_nested_lists_of_a_slice_are_its_own() -> None:
    values = [[[row, 1], [2, 3]] for row in range(10)]
    assert_same(array_of(pa.array(values)[4:7]), np.array(values[4:7]))


def test_a_fixed_shape_tensor_keeps_its_shape() -> None:
    numbers = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert_same(array_of(pa.FixedShapeTensorArray.from_numpy_ndarray(numbers)), numbers)


def test_a_permuted_fixed_shape_tensor_comes_in_logical_order() -> None:
    kind = pa.fixed_shape_tensor(pa.int32(), [2, 3], permutation=[1, 0])
    storage = pa.array([[1, 2, 3, 4, 5, 6], [7, None, 9, 10, 11, 12]], pa.list_(pa.int32(), 6))
    values = pa.ExtensionArray.from_storage(kind, storage)
    expected = np.array([[[1, 4], [2, 5], [3, 6]], [[7, 10], [0, 11], [9, 12]]], np.int32)
    assert_same(array_of(values, tensor_of("a", cast=Cast(fill=0))), expected)


def test_columns_are_stacked_to_rows() -> None:
    rows = pa.record_batch([pa.array([1.0, 2.0], pa.float32()), pa.array([3.0, 4.0], pa.float32())], ["a", "b"])
    converted, arena = convert(rows, tensor_of("a", "b"))
    assert converted.columns["x"].offset == OFFSET
    assert_same(column_array(converted.columns["x"], arena), np.array([[1, 3], [2, 4]], np.float32))


def test_a_list_of_one_column_is_a_matrix_of_one_column() -> None:
    assert_same(array_of(pa.array([1, 2]), tensor_of("a", stacked=True)), np.array([[1], [2]]))


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        (("int8", "uint8"), "int16"),
        (("int32", "float"), "float64"),
        (("int8", "float"), "float32"),
        (("bool", "uint8"), "uint8"),
        (("uint32", "int8"), "int64"),
    ],
)
def test_different_columns_are_stacked_to_what_holds_both(kinds: tuple[str, str], dtype: str) -> None:
    rows = pa.record_batch([pa.array([1]).cast(kind) for kind in kinds], ["a", "b"])
    converted, arena = convert(rows, tensor_of("a", "b"))
    assert_same(column_array(converted.columns["x"], arena), np.array([[1, 1]], dtype))


def test_more_rows_than_a_block_are_all_transposed() -> None:
    columns = [np.arange(70_001, dtype=np.float32) * factor for factor in (1, 2, 3)]
    converted, arena = convert(pa.record_batch(columns, ["a", "b", "c"]), tensor_of("a", "b", "c"))
    assert_same(column_array(converted.columns["x"], arena), np.stack(columns, axis=1))


def test_batches_of_a_block_are_its_rows() -> None:
    columns = [pa.array(np.arange(100, dtype=np.int32)), pa.array([f"row {row}" for row in range(100)])]
    rows = pa.record_batch([*columns, pa.array([row % 10 or None for row in range(100)])], ["a", "b", "c"])
    tensors = [
        SourceTensor("x", ("a",)), SourceTensor("t", ("b",)), SourceTensor("c", ("c",)),
        SourceTensor("i", ("b", "a"), names=("text", "number"), ipc=True),
    ]  # fmt: skip
    block = Converter(rows.schema, tensors).read(rows)
    arena = memoryview(bytearray(block.measure(35, 45)))
    converted = block.write(35, 45, arena, 0)
    assert set(converted.bad) == {5}
    assert_same(column_array(converted.columns["x"], arena), np.arange(35, 45, dtype=np.int32))
    assert texts_of(converted.columns["t"], arena) == [f"row {row}".encode() for row in range(35, 45)]
    numbers = column_array(converted.columns["c"], arena)
    assert numbers.tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    stream = converted.columns["i"]
    table = pa.ipc.open_stream(arena[stream.offset : stream.offset + stream.nbytes]).read_all()
    assert table.column_names == ["text", "number"]
    assert table["number"].to_pylist() == list(range(35, 45))


# ------------------------------------------------------------------ casts


@pytest.mark.parametrize(
    ("values", "cast", "expected"),
    [
        (pa.array([1.7, -1.7, 0.0]), "int8", np.array([1, -1, 0], np.int8)),
        (pa.array([0, 255]), "uint8", np.array([0, 255], np.uint8)),
        (pa.array([0.1]), "float32", np.array([0.1], np.float32)),
        (pa.array([2**60 + 1]), "float64", np.array([2.0**60])),
        (pa.array([0, 2]), "bool", np.array([False, True])),
        (pa.array([math.inf, math.nan]), "float16", np.array([np.inf, np.nan], np.float16)),
        (pa.array([1500], pa.timestamp("ms")), "datetime64[s]", np.array([1], "datetime64[s]")),
        (pa.array([1], pa.timestamp("s")), "datetime64[ns]", np.array([10**9], "datetime64[ns]")),
        (pa.array([1], pa.timestamp("s")), "int64", np.array([1])),
        (pa.array([1], pa.int32()), "datetime64[s]", np.array([1], "datetime64[s]")),
        (pa.array([decimal.Decimal("1.75")]), "float32", np.array([1.75], np.float32)),
        (pa.array([decimal.Decimal("-1.75")]), "int16", np.array([-1], np.int16)),
    ],
)
def test_a_cast_that_the_job_asks_for_may_round(values: pa.Array, cast: str, expected: npt.NDArray[Any]) -> None:
    assert_same(array_of(values, tensor_of("a", cast=Cast(dtype=cast))), expected)


@pytest.mark.parametrize(
    ("values", "cast", "bad"),
    [
        (pa.array([1, 256, None, -1]), "uint8", {1, 2, 3}),
        (pa.array([1.0, math.nan, math.inf, 2.0**63, -(2.0**63)]), "int64", {1, 2, 3}),
        (pa.array([1.0, 1e39, math.inf]), "float32", {1}),
        (pa.array([1, 70_000], pa.int32()), "float16", {1}),
        (pa.array([-1, 2**63 - 1]), "uint64", {0}),
        (pa.array([2**63, 1], pa.uint64()), "int64", {0}),
        (pa.array([10**12, 1], pa.timestamp("s")), "datetime64[ns]", {0}),
        (pa.array([decimal.Decimal("1e25"), decimal.Decimal(1)]), "int64", {0}),
        (pa.array([[1, 2], [3, 400]]), "int8", {1}),
    ],
)
def test_a_value_that_a_cast_cannot_hold_is_bad(values: pa.Array, cast: str, bad: set[int]) -> None:
    converted, arena = convert(pa.record_batch([values], ["a"]), tensor_of("a", cast=Cast(dtype=cast)))
    assert set(converted.bad) == bad
    assert {flaw.column for flaw in converted.bad.values()} == {"a"}
    found = column_array(converted.columns["x"], arena)
    for row in bad:
        assert not found[row].astype(np.int64).any()


def test_a_bad_value_names_its_column_and_says_why() -> None:
    converted, _ = convert(pa.record_batch([pa.array([1, 300])], ["age"]), tensor_of("age", cast=Cast(dtype="uint8")))
    flaw = converted.bad[1]
    assert (flaw.column, flaw.kind, flaw.message) == ("age", "ValueOutOfRange", "column 'age': 300 doesn't fit uint8")


def test_a_model_s_dtype_is_reached_where_no_value_can_change() -> None:
    assert_same(array_of(pa.array([1, 2], pa.int16()), tensor_of("a", dtype="float32")), np.array([1, 2], np.float32))


def test_values_go_through_the_job_s_dtype_to_the_model_s() -> None:
    tensor = tensor_of("a", cast=Cast(dtype="int32"), dtype="float64")
    assert_same(array_of(pa.array([2.7]), tensor), np.array([2.0]))


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        (pa.int64(), tensor_of("a", dtype="float64")),
        (pa.float64(), tensor_of("a", dtype="float32")),
        (pa.float32(), tensor_of("a", dtype="int64")),
        (pa.decimal128(5, 2), tensor_of("a")),
        (pa.decimal128(5, 2), tensor_of("a", dtype="float32")),
        (pa.struct([("b", pa.int8())]), tensor_of("a")),
        (pa.list_(pa.string()), tensor_of("a")),
        (pa.month_day_nano_interval(), tensor_of("a")),
        (pa.string(), tensor_of("a", cast=Cast(dtype="int64"))),
        (pa.string(), tensor_of("a", dtype="float32")),
        (pa.int64(), tensor_of("a", dtype="utf8")),
        (pa.int64(), tensor_of("a", cast=Cast(fill="x"))),
        (pa.int8(), tensor_of("a", cast=Cast(fill=300))),
        (pa.int8(), tensor_of("a", cast=Cast(fill=0.5))),
        (pa.string(), tensor_of("a", cast=Cast(fill=5))),
        (pa.list_(pa.int8(), 3), tensor_of("a", cast=Cast(shape=(2, 2)))),
        (pa.list_(pa.int8(), 3), tensor_of("a", shape=(None, 4))),
        (pa.binary(12), tensor_of("a", cast=Cast(dtype="uint8", shape=(5,)))),
        (pa.list_(pa.int8()), tensor_of("a", "a")),
        (pa.timestamp("s"), tensor_of("a", dtype="int64")),
        (pa.timestamp("s"), tensor_of("a", cast=Cast(dtype="float32"))),
        (pa.int8(), tensor_of("b")),
    ],
    ids=str,
)
def test_types_that_cannot_go_together_are_a_bad_job(kind: pa.DataType, tensor: SourceTensor) -> None:
    with pytest.raises(BadJob):
        Converter(pa.schema([("a", kind)]), [tensor])


def test_all_faults_of_all_tensors_are_named() -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.int64())])
    with pytest.raises(BadJob) as caught:
        Converter(schema, [SourceTensor("x", ("a",), dtype="float32"), SourceTensor("y", ("c",))])
    assert [fault.field for fault in caught.value.faults] == ["column 'a'", "column 'c'"]


def test_equal_conversions_under_two_keys_are_one() -> None:
    rows = pa.record_batch([pa.array([1.0], pa.float32())], ["a"])
    tensors = [SourceTensor("one", ("a",)), SourceTensor("two", ("a",), dtype="float32")]
    converter = Converter(rows.schema, tensors)
    assert converter.measure(rows) == ALIGNMENT
    converted = converter.convert(rows, memoryview(bytearray(ALIGNMENT)), 0)
    assert converted.columns["one"] is converted.columns["two"]


# ------------------------------------------------------------------ nulls and lengths


def test_a_null_is_bad_and_the_other_rows_stay() -> None:
    converted, arena = convert(pa.record_batch([pa.array([1, None, 3])], ["a"]), tensor_of("a"))
    assert {row: flaw.kind for row, flaw in converted.bad.items()} == {1: "NullValue"}
    assert column_array(converted.columns["x"], arena).tolist() == [1, 0, 3]


def test_nulls_are_filled_where_the_job_says_with_what() -> None:
    assert_same(array_of(pa.array([1, None]), tensor_of("a", cast=Cast(fill=-1))), np.array([1, -1]))
    filled = array_of(pa.array([[1, None], None]), tensor_of("a", cast=Cast(fill=9)))
    assert_same(filled, np.array([[1, 9], [9, 9]]))
    stamps = pa.array([None, 1], pa.timestamp("s"))
    assert_same(array_of(stamps, tensor_of("a", cast=Cast(fill="1970-01-02"))), np.array([86400, 1], "datetime64[s]"))
    nothing = array_of(pa.nulls(2), tensor_of("a", cast=Cast(fill=0.5), dtype="float32"))
    assert_same(nothing, np.array([0.5, 0.5], np.float32))


def test_nulls_of_stacked_columns_are_filled_or_bad_by_row() -> None:
    rows = pa.record_batch([pa.array([1.0, None, 3.0]), pa.array([4.0, 5.0, None])], ["a", "b"])
    converted, arena = convert(rows, tensor_of("a", "b", cast=Cast(fill=0)))
    assert column_array(converted.columns["x"], arena).tolist() == [[1, 4], [0, 5], [3, 0]]
    converted, arena = convert(rows, tensor_of("a", "b"))
    assert {row: flaw.column for row, flaw in converted.bad.items()} == {1: "a", 2: "b"}
    assert column_array(converted.columns["x"], arena).tolist() == [[1, 4], [0, 0], [0, 0]]


def test_lists_of_several_lengths_need_a_shape_that_says_which_is_right() -> None:
    rows = pa.record_batch([pa.array([[1, 2], [3], [4, 5], [], [6, 7]])], ["a"])
    with pytest.raises(
        InferredWrong, match=r"column 'a' holds 0 values in some rows and 2 in others.*cast: \{INPUT: \{shape"
    ):
        convert(rows, tensor_of("a"))
    converted, arena = convert(rows, tensor_of("a", cast=Cast(shape=(2,))))
    assert {row: flaw.kind for row, flaw in converted.bad.items()} == {1: "WrongShape", 3: "WrongShape"}
    assert "a list of 1 where this column needs 2" in converted.bad[1].message
    assert column_array(converted.columns["x"], arena).tolist() == [[1, 2], [0, 0], [4, 5], [0, 0], [6, 7]]


def test_lists_must_be_as_long_as_the_model_wants() -> None:
    rows = pa.record_batch([pa.array([[1, 2], [3], [4]])], ["a"])
    converted, arena = convert(rows, tensor_of("a", shape=(None, 2)))
    assert set(converted.bad) == {1, 2}
    assert column_array(converted.columns["x"], arena).shape == (3, 2)


def test_inner_lists_of_another_length_are_bad_rows() -> None:
    values = pa.array([[[1, 2], [3, 4]], [[5], [6, 7]], None, [[8, 9], None], [[1, 1], [1, None]]])
    converted, arena = convert(pa.record_batch([values], ["a"]), tensor_of("a", shape=(None, 2, 2)))
    assert {row: flaw.kind for row, flaw in converted.bad.items()} == {
        1: "WrongShape", 2: "NullValue", 3: "NullValue", 4: "NullValue",
    }  # fmt: skip
    assert column_array(converted.columns["x"], arena)[0].tolist() == [[1, 2], [3, 4]]


def test_a_flat_list_takes_the_shape_of_the_cast() -> None:
    values = pa.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert array_of(values, tensor_of("a", cast=Cast(shape=(2, 2)))).tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


def test_one_number_per_row_fits_a_model_that_takes_a_column() -> None:
    assert array_of(pa.array([1.0, 2.0]), tensor_of("a", shape=(None, 1))).tolist() == [[1.0], [2.0]]
