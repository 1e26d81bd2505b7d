"""Staged files of every format, read back by plain pyarrow, pandas and polars."""

import dataclasses
import datetime
import decimal
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from headrace.errors import BadJob
from headrace.local.columns import DTYPES, TENSOR, Column
from headrace.publish import staged_name
from sidecar.writer import ShardWriter, Staged, column_to_arrow
from tests.integration.writer_fixture import COMPRESSIONS, STEM, Folder, read, rows_of, sink_of, write


@pytest.mark.parametrize(("format_name", "compression", "suffix"), COMPRESSIONS)
def test_what_is_written_is_read_back_equal(tmp_path: Path, format_name: str, compression: str, suffix: str) -> None:
    staged = write(tmp_path, format_name, rows_of(0, 10), rows_of(10, 2500), compression=compression)
    assert read(staged).combine_chunks().equals(pa.Table.from_batches([rows_of(0, 2500)]))
    content = staged.path.read_bytes()
    assert staged.path == tmp_path / staged_name(STEM + suffix)
    assert staged.staged == Staged(
        name=STEM + suffix,
        kind="data",
        size=len(content),
        digest=hashlib.blake2b(content, digest_size=16).hexdigest(),
        rows=2500,
        staged="",
    )
    assert os.listdir(tmp_path) == [STEM + suffix]


@pytest.mark.parametrize(
    ("format_name", "compression"), [("csv", "snappy"), ("jsonl", "lz4"), ("arrow", "gzip"), ("parquet", "brotli")]
)
def test_an_unknown_compression_is_a_bad_job(tmp_path: Path, format_name: str, compression: str) -> None:
    with pytest.raises(BadJob, match=r"spec\.sink\.compression"):
        ShardWriter(sink_of(format_name, compression), Folder(tmp_path), STEM)


# ------------------------------------------------------------------ tensors, by three readers

SHAPES: dict[str, tuple[int, ...]] = {"flag": (), "vector": (3,), "matrix": (2, 3), "cube": (2, 1, 2)}
VALUE_DTYPES = ["float32", "float64", "int64", "uint8", "bool"]


def nested(values: np.ndarray) -> pa.Array:
    array = pa.array(values.reshape(-1))
    for length in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array


def tensors(rows: int, dtype: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    return {name: generator.integers(0, 2, (rows, *shape)).astype(dtype) for name, shape in SHAPES.items()}


def tensor_rows(values: dict[str, np.ndarray]) -> pa.RecordBatch:
    return pa.record_batch([nested(value) for value in values.values()], list(values))


@pytest.mark.parametrize("dtype", VALUE_DTYPES)
@pytest.mark.parametrize("format_name", ["parquet", "arrow"])
def test_tensors_are_read_back_by_pyarrow_pandas_and_polars(tmp_path: Path, format_name: str, dtype: str) -> None:
    values = tensors(20, dtype)
    rows = tensor_rows(values)
    staged = write(tmp_path, format_name, rows.slice(0, 7), rows.slice(7), compression="zstd")
    named = tmp_path / f"named.{format_name}"
    staged.path.rename(named)

    table = read(dataclasses.replace(staged, path=named))
    assert table.schema.equals(rows.schema)
    assert table.combine_chunks().equals(pa.Table.from_batches([rows]))

    frame = pd.read_parquet(named) if format_name == "parquet" else pd.read_feather(named)
    for name, value in values.items():
        assert [plain(item) for item in frame[name]] == value.tolist()
    if format_name == "parquet":
        frames = [pl.read_parquet(named), pl.scan_parquet(named).collect()]
    else:
        frames = [pl.read_ipc(named)]
    for polars_frame in frames:
        for name, value in values.items():
            assert polars_frame[name].to_list() == value.tolist()
            kind: Any = polars_frame.schema[name]
            if value.ndim > 1:
                assert kind.shape == value.shape[1:]


def plain(value: Any) -> Any:
    """pandas' nested arrays of objects as lists."""
    return [plain(part) for part in value] if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("format_name", ["parquet", "arrow"])
def test_a_file_without_rows_keeps_its_columns_for_every_reader(tmp_path: Path, format_name: str) -> None:
    rows = tensor_rows(tensors(3, "float32"))
    staged = write(tmp_path, format_name, rows.slice(0, 0))
    assert staged.staged.rows == 0
    assert read(staged).schema.equals(rows.schema)
    if format_name == "parquet":
        assert list(pd.read_parquet(staged.path).columns) == list(SHAPES)
        assert pl.read_parquet(staged.path).columns == list(SHAPES)
        assert len(pl.read_parquet(staged.path)) == 0
    else:
        assert len(pd.read_feather(staged.path)) == 0
        assert pl.read_ipc(staged.path).columns == list(SHAPES)


@pytest.mark.parametrize("format_name", ["csv", "jsonl"])
def test_text_without_rows_is_a_valid_file(tmp_path: Path, format_name: str) -> None:
    staged = write(tmp_path, format_name, rows_of(0, 0))
    assert staged.path.read_text() == ('"id","score","text"\n' if format_name == "csv" else "")


@pytest.mark.parametrize("format_name", ["parquet", "arrow"])
def test_vectors_of_length_zero_and_half_floats_survive(tmp_path: Path, format_name: str) -> None:
    empty = Column(kind=TENSOR, rows=2, offset=0, nbytes=0, dtype=DTYPES.index("float32"), shape=(2, 0))
    none = column_to_arrow(empty, memoryview(bytes(64)))
    rows = pa.record_batch([none, pa.array(np.array([0.5, 2], np.float16))], ["none", "half"])
    assert read(write(tmp_path, format_name, rows)).to_pydict() == {"none": [[], []], "half": [0.5, 2.0]}


# ------------------------------------------------------------------ all types

STAMP = datetime.datetime(2026, 11, 22, 6, 30, 1, 250_000)
MANY = {
    "bool": pa.array([True, None, False]),
    "int": pa.array([1, None, -(2**63)]),
    "uint": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "float": pa.array([1.0, math.nan, None]),
    "float32": pa.array([0.1, math.inf, 1e30], pa.float32()),
    "text": pa.array(['q"uote, comma\n', "", None]),
    "unicode": pa.array(["ünï\u2028🙂", "back\\slash", "\x01\t"]),
    "large": pa.array(["a", "b", None], pa.large_string()),
    "category": pa.array(["x", "y", "x"]).dictionary_encode(),
    "bytes": pa.array([b"\xff\x00", b"", None]),
    "fixed": pa.array([b"abc", None, b"xyz"], pa.binary(3)),
    "date": pa.array([STAMP.date(), None, None]),
    "stamp": pa.array([STAMP, None, None], pa.timestamp("ms")),
    "zoned": pa.array([STAMP, None, None], pa.timestamp("us", "Europe/Berlin")),
    "time": pa.array([STAMP.time(), None, None]),
    "span": pa.array([250, None, 1], pa.duration("ms")),
    "decimal": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-2.25")]),
    "list": pa.array([[1, None], [], None]),
    "nested": pa.array([[[1.0], [2.5]], None, [[]]]),
    "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": '"'}]),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "null": pa.nulls(3),
}


@pytest.mark.parametrize("format_name", ["parquet", "arrow"])
def test_every_type_is_read_back_equal(tmp_path: Path, format_name: str) -> None:
    rows = pa.record_batch(list(MANY.values()), list(MANY))
    table = read(write(tmp_path, format_name, rows.slice(0, 1), rows.slice(1), compression="zstd"))
    for name, array in MANY.items():
        found = table[name].combine_chunks()
        expected = array.cast(pa.string()) if name == "category" else array
        found = found.cast(expected.type)
        assert str(found.to_pylist()) == str(expected.to_pylist()), name
        assert name == "category" or table.schema.field(name).type == array.type, name


def test_jsonl_holds_what_its_rows_are(tmp_path: Path) -> None:
    rows = pa.record_batch(list(MANY.values()), list(MANY))
    staged = write(tmp_path, "jsonl", rows)
    lines = staged.path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    objects = [json.loads(line) for line in lines]
    assert [list(found) for found in objects] == [list(MANY)] * 3
    assert {name: [found[name] for found in objects] for name in MANY} == {
        "bool": [True, None, False],
        "int": [1, None, -(2**63)],
        "uint": [2**64 - 1, None, 0],
        "float": [1.0, None, None],
        "float32": [0.1, None, 1e30],
        "text": ['q"uote, comma\n', "", None],
        "unicode": ["ünï\u2028🙂", "back\\slash", "\x01\t"],
        "large": ["a", "b", None],
        "category": ["x", "y", "x"],
        "bytes": ["/wA=", "", None],
        "fixed": ["YWJj", None, "eHl6"],
        "date": ["2026-11-22", None, None],
        "stamp": ["2026-11-22T06:30:01.250", None, None],
        "zoned": ["2026-11-22T06:30:01.250000Z", None, None],
        "time": ["06:30:01.250000", None, None],
        "span": [250, None, 1],
        "decimal": [1.5, None, -2.25],
        "list": [[1, None], [], None],
        "nested": [[[1.0], [2.5]], None, [[]]],
        "struct": [{"a": 1, "b": "x"}, None, {"a": None, "b": '"'}],
        "map": [[["k", 1]], None, []],
        "null": [None, None, None],
    }
    assert isinstance(objects[0]["float"], float), "a whole number in a float column stays a float"


def test_csv_holds_what_its_rows_are(tmp_path: Path) -> None:
    rows = pa.record_batch(list(MANY.values()), list(MANY))
    staged = write(tmp_path, "csv", rows)
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(MANY, pa.string()), strings_can_be_null=True, quoted_strings_can_be_null=False,
        null_values=[""],
    )  # fmt: skip
    table = pyarrow.csv.read_csv(
        staged.path, convert_options=options, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
    )
    assert table.to_pydict() == {
        "bool": ["true", None, "false"],
        "int": ["1", None, str(-(2**63))],
        "uint": [str(2**64 - 1), None, "0"],
        "float": ["1", "nan", None],
        "float32": ["0.1", "inf", "1e+30"],
        "text": ['q"uote, comma\n', "", None],
        "unicode": ["ünï\u2028🙂", "back\\slash", "\x01\t"],
        "large": ["a", "b", None],
        "category": ["x", "y", "x"],
        "bytes": ["/wA=", "", None],
        "fixed": ["YWJj", None, "eHl6"],
        "date": ["2026-11-22", None, None],
        "stamp": ["2026-11-22T06:30:01.250", None, None],
        "zoned": ["2026-11-22T06:30:01.250000Z", None, None],
        "time": ["06:30:01.250000", None, None],
        "span": ["250", None, "1"],
        "decimal": ["1.50", None, "-2.25"],
        "list": ["[1,null]", "[]", None],
        "nested": ["[[1.0],[2.5]]", None, "[[]]"],
        "struct": ['{"a":1,"b":"x"}', None, '{"a":null,"b":"\\""}'],
        "map": ['[["k", 1]]', None, "[]"],
        "null": [None, None, None],
    }


def test_slices_are_written_as_what_they_are(tmp_path: Path) -> None:
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(range(6)), 2)
    for name, array in {**MANY, "vector": fixed, "view": pa.array([[1], [2], [3]], pa.list_view(pa.int8()))}.items():
        sliced = write(tmp_path, "jsonl", pa.record_batch([array[1:]], [name])).path
        text = sliced.read_text(encoding="utf-8").split("\n")
        sliced.unlink()
        complete = write(tmp_path, "jsonl", pa.record_batch([array], [name])).path
        assert text == complete.read_text(encoding="utf-8").split("\n")[1:]
        complete.unlink()


# ------------------------------------------------------------------ Parquet's inside


def test_encodings_fit_results_of_models(tmp_path: Path) -> None:
    count = 300_000
    generator = np.random.default_rng(7)
    rows = pa.record_batch(
        [
            pa.array(np.arange(count)),
            pa.array(generator.random(count, np.float32)),
            nested(generator.random((count, 2), np.float32)),
            pa.array(np.array(["cat", "dog"])[generator.integers(0, 2, count)]),
        ],
        ["id", "score", "vector", "label"],
    )
    staged = write(
        tmp_path, "parquet", *(rows.slice(begin, 1024) for begin in range(0, count, 1024)), compression="zstd"
    )
    metadata = pq.ParquetFile(staged.path).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [131072, 131072, 37856]
    columns = {
        metadata.row_group(0).column(at).path_in_schema: metadata.row_group(0).column(at) for at in range(4)
    }  # fmt: skip
    assert "DELTA_BINARY_PACKED" in columns["id"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["score"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["vector.list.element"].encodings
    assert not any(columns[name].has_dictionary_page for name in ("id", "score", "vector.list.element"))
    assert columns["label"].has_dictionary_page
    assert (columns["id"].statistics.min, columns["id"].statistics.max) == (0, 131071)
    assert columns["vector.list.element"].statistics is None


def test_dictionaries_may_differ_from_batch_to_batch(tmp_path: Path) -> None:
    batches = [pa.record_batch([pa.array(values).dictionary_encode()], ["a"]) for values in (["x", "y"], ["z", "x"])]
    for format_name in ("parquet", "arrow"):
        table = read(write(tmp_path, format_name, *batches))
        assert table["a"].cast(pa.string()).to_pylist() == ["x", "y", "z", "x"]


def test_wide_rows_make_row_groups_of_64_mb(tmp_path: Path) -> None:
    image = pa.array([bytes(8_000_000)] * 20, pa.binary())
    staged = write(tmp_path, "parquet", pa.record_batch([image], ["image"]))
    metadata = pq.ParquetFile(staged.path).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [8, 8, 4]


def test_a_column_named_like_a_path_is_written(tmp_path: Path) -> None:
    rows = pa.record_batch([pa.array([1.5, 2.5]), pa.array([[1.0], [2.0]])], ["a.b", "c.list.element"])
    assert read(write(tmp_path, "parquet", rows)).equals(pa.Table.from_batches([rows]))
