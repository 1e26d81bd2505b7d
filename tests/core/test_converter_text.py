"""Bytes and text in the arena: raw elements, every Arrow type of text, whole record batches."""

import decimal

import numpy as np
import pyarrow as pa
import pytest

from headrace.local.columns import BINARY, IPC, UTF8
from headrace.program import Cast
from sidecar.converter import SourceTensor, column_array
from tests.core.converter_fixture import array_of, assert_same, convert, tensor_of, texts_of


@pytest.mark.parametrize("fixed", [True, False])
def test_raw_bytes_are_elements_of_the_cast_s_dtype(fixed: bool) -> None:
    numbers = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    values = pa.array([row.tobytes() for row in numbers], pa.binary(24) if fixed else pa.binary())
    tensor = tensor_of("a", cast=Cast(dtype="float32", shape=(2, 3)))
    assert_same(array_of(values, tensor), numbers)
    assert_same(array_of(values[1:], tensor), numbers[1:])


@pytest.mark.parametrize("cast", [Cast(dtype="float32", shape=(3, 2)), Cast(dtype="uint8", shape=(3, 2))])
def test_bytes_of_an_image_are_cast_to_what_the_model_takes(cast: Cast) -> None:
    image = bytes(range(250, 256))
    tensor = tensor_of("a", cast=cast, dtype="float32")
    expected = np.frombuffer(image, np.uint8).reshape(1, 3, 2).astype(np.float32)
    assert_same(array_of(pa.array([image], pa.binary(6)), tensor), expected)


def test_bytes_of_another_length_or_none_are_bad() -> None:
    rows = pa.record_batch([pa.array([b"abcd", b"abc", None, b"efgh"])], ["a"])
    converted, arena = convert(rows, tensor_of("a", cast=Cast(dtype="uint8", shape=(2, 2))))
    assert {row: flaw.kind for row, flaw in converted.bad.items()} == {1: "WrongShape", 2: "NullValue"}
    assert column_array(converted.columns["x"], arena)[3].tobytes() == b"efgh"
    filled, arena = convert(rows, tensor_of("a", cast=Cast(dtype="uint8", shape=(2, 2), fill=7)))
    assert set(filled.bad) == {1}
    assert column_array(filled.columns["x"], arena)[2].tolist() == [[7, 7], [7, 7]]


TEXTS = ["", "plain", "ünïcode 🙂", "tab\t", "a" * 1000]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_every_type_of_text_arrives_as_it_was(kind: pa.DataType) -> None:
    values = pa.array(TEXTS).cast(kind) if not pa.types.is_dictionary(kind) else pa.array(TEXTS).dictionary_encode()
    for part, expected in ((values, TEXTS), (values[1:4], TEXTS[1:4]), (values[5:], [])):
        converted, arena = convert(pa.record_batch([part], ["a"]), tensor_of("a"))
        assert converted.columns["x"].kind == UTF8
        assert texts_of(converted.columns["x"], arena) == [text.encode() for text in expected]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)], ids=str)
def test_every_type_of_bytes_arrives_as_it_was(kind: pa.DataType) -> None:
    values = pa.array([b"abc", b"\x00\xff\n", b"xyz"], kind)
    converted, arena = convert(pa.record_batch([values[1:]], ["a"]), tensor_of("a"))
    assert converted.columns["x"].kind == BINARY
    assert texts_of(converted.columns["x"], arena) == [b"\x00\xff\n", b"xyz"]


def test_null_text_is_bad_and_empty_unless_filled() -> None:
    rows = pa.record_batch([pa.array(["a", None, "c"])], ["a"])
    converted, arena = convert(rows, tensor_of("a"))
    assert set(converted.bad) == {1}
    assert texts_of(converted.columns["x"], arena) == [b"a", b"", b"c"]
    converted, arena = convert(rows, tensor_of("a", cast=Cast(fill="none")))
    assert converted.bad == {}
    assert texts_of(converted.columns["x"], arena) == [b"a", b"none", b"c"]


def test_a_stage_that_takes_arrow_gets_all_types_and_nulls_as_they_are() -> None:
    rows = pa.record_batch(
        [
            pa.array([1, None, 3]),
            pa.array([{"b": [1]}, None, {"b": []}]),
            pa.array(["x", "y", "x"]).dictionary_encode(),
            pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("2.5")]),
        ],
        ["a", "s", "d", "m"],
    )[1:]
    tensor = SourceTensor("x", ("a", "s", "d", "m"), names=("first", "s", "d", "m"), ipc=True)
    converted, arena = convert(rows, tensor)
    column = converted.columns["x"]
    assert (column.kind, column.rows, converted.bad) == (IPC, 2, {})
    with pa.ipc.open_stream(arena[column.offset : column.offset + column.nbytes]) as reader:
        assert reader.read_next_batch().equals(rows.rename_columns(["first", "s", "d", "m"]))
