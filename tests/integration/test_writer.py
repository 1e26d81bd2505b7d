"""Staged files of every format, read back by plain pyarrow, pandas and polars."""

import dataclasses
import datetime
import decimal
import hashlib
import json
import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
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

from headrace.errors import BadJob, SinkError
from headrace.local.columns import DTYPES, TENSOR, Column
from headrace.program import SinkProgram
from headrace.publish import staged_name
from sidecar.core.batches import Blame
from sidecar.writer import RejectsWriter, SchemaChanged, ShardWriter, Staged, column_to_arrow

STEM = "part-00000007-abcdef01-2-0123abcd"
FORMATS = ["parquet", "arrow", "csv", "jsonl"]


def sink_of(format_name: Any, compression: str = "none") -> SinkProgram:
    return SinkProgram(format=format_name, uri="/unused", columns=(), compression=compression)


def write(folder: Path, format_name: str, *batches: pa.RecordBatch, compression: str = "none") -> Staged:
    writer = ShardWriter(sink_of(format_name, compression), folder, STEM)
    for batch in batches:
        writer.write(batch)
    (staged,) = writer.close()
    return staged


def read(staged: Staged) -> pa.Table:
    """By plain pyarrow."""
    match staged.name.split(".", 1)[1].split(".")[0]:
        case "parquet":
            return pq.read_table(staged.path)
        case "arrow":
            with pa.ipc.open_file(staged.path) as reader:
                return reader.read_all()
        case "csv":
            with pa.input_stream(staged.path, compression=compression_of(staged)) as stream:
                return pyarrow.csv.read_csv(stream)
        case _:
            with pa.input_stream(staged.path, compression=compression_of(staged)) as stream:
                return pyarrow.json.read_json(stream)


def compression_of(staged: Staged) -> str | None:
    return {"gz": "gzip", "zst": "zstd"}.get(staged.name.rsplit(".", 1)[1])


def rows_of(begin: int, end: int) -> pa.RecordBatch:
    numbers = np.arange(begin, end)
    texts = [f"row {number}" for number in numbers]
    return pa.record_batch([pa.array(numbers), pa.array(numbers / 8), pa.array(texts)], ["id", "score", "text"])


COMPRESSIONS = [
    *(("parquet", codec, ".parquet") for codec in ("none", "zstd", "snappy", "gzip", "lz4")),
    *(("arrow", codec, ".arrow") for codec in ("none", "zstd", "lz4")),
    *(("csv", codec, ".csv" + end) for codec, end in (("none", ""), ("gzip", ".gz"), ("zstd", ".zst"))),
    *(("jsonl", codec, ".jsonl" + end) for codec, end in (("none", ""), ("gzip", ".gz"), ("zstd", ".zst"))),
]


@pytest.mark.parametrize(("format_name", "compression", "suffix"), COMPRESSIONS)
def test_what_is_written_is_read_back_equal(tmp_path: Path, format_name: str, compression: str, suffix: str) -> None:
    staged = write(tmp_path, format_name, rows_of(0, 10), rows_of(10, 2500), compression=compression)
    assert read(staged).combine_chunks().equals(pa.Table.from_batches([rows_of(0, 2500)]))
    content = staged.path.read_bytes()
    assert staged == Staged(
        name=STEM + suffix,
        path=tmp_path / staged_name(STEM + suffix),
        kind="data",
        size=len(content),
        digest=hashlib.blake2b(content, digest_size=16).hexdigest(),
        rows=2500,
    )
    assert os.listdir(tmp_path) == [STEM + suffix]


@pytest.mark.parametrize(
    ("format_name", "compression"), [("csv", "snappy"), ("jsonl", "lz4"), ("arrow", "gzip"), ("parquet", "brotli")]
)
def test_an_unknown_compression_is_a_bad_job(tmp_path: Path, format_name: str, compression: str) -> None:
    with pytest.raises(BadJob, match=r"spec\.sink\.compression"):
        ShardWriter(sink_of(format_name, compression), tmp_path, STEM)


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
    assert staged.rows == 0
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
    whole = pa.record_batch(list(MANY.values()), list(MANY))
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(range(6)), 2)
    for name, array in {**MANY, "vector": fixed, "view": pa.array([[1], [2], [3]], pa.list_view(pa.int8()))}.items():
        sliced = write(tmp_path, "jsonl", pa.record_batch([array[1:]], [name])).path
        text = sliced.read_text(encoding="utf-8").split("\n")
        sliced.unlink()
        complete = write(tmp_path, "jsonl", pa.record_batch([array], [name])).path
        assert text == complete.read_text(encoding="utf-8").split("\n")[1:]
        complete.unlink()
    assert whole.num_rows == 3


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


# ------------------------------------------------------------------ schemas, errors


@pytest.mark.parametrize("format_name", FORMATS)
def test_another_type_than_before_is_an_error_that_names_the_column(tmp_path: Path, format_name: str) -> None:
    writer = ShardWriter(sink_of(format_name), tmp_path, STEM)
    writer.write(pa.record_batch([pa.array([1]), pa.array([1.5])], ["id", "score"]))
    with pytest.raises(SchemaChanged, match="'score' comes as int64; it was double"):
        writer.write(pa.record_batch([pa.array([1]), pa.array([1])], ["id", "score"]))
    with pytest.raises(SchemaChanged, match="columns are id; they were id, score"):
        writer.write(pa.record_batch([pa.array([1])], ["id"]))
    writer.abort()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format_name", FORMATS)
def test_nothing_written_is_no_file(tmp_path: Path, format_name: str) -> None:
    writer = ShardWriter(sink_of(format_name), tmp_path, STEM)
    assert writer.close() == ()
    writer.abort()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("closed", [True, False])
def test_abort_removes_the_file(tmp_path: Path, format_name: str, closed: bool) -> None:
    writer = ShardWriter(sink_of(format_name), tmp_path, STEM)
    writer.write(rows_of(0, 10))
    if closed:
        writer.close()
    writer.abort()
    assert os.listdir(tmp_path) == []


@contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    """Writes beyond it fail like those on a full disk (EFBIG for ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_and_close(writer: ShardWriter, rows: pa.RecordBatch) -> None:
    writer.write(rows)
    writer.close()


@pytest.mark.parametrize(("format_name", "compression"), [(name, codec) for name, codec, _ in COMPRESSIONS])
def test_a_full_disk_is_a_sink_error_and_leaves_nothing(tmp_path: Path, format_name: str, compression: str) -> None:
    writer = ShardWriter(sink_of(format_name, compression), tmp_path, STEM)
    noise = np.random.default_rng(3).bytes(300_000)
    rows = pa.record_batch([pa.array([noise[at : at + 100] for at in range(0, 300_000, 100)])], ["noise"])
    with file_size_limit(50_000), pytest.raises(SinkError, match=STEM) as caught:
        write_and_close(writer, rows)
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    assert isinstance(cause, OSError)
    assert "File too large" in str(caught.value)
    assert os.listdir(tmp_path) == []
    writer.abort()


def test_a_missing_folder_is_a_sink_error(tmp_path: Path) -> None:
    writer = ShardWriter(sink_of("parquet"), tmp_path / "gone", STEM)
    with pytest.raises(SinkError, match="No such file or directory"):
        writer.write(rows_of(0, 1))
    writer.abort()


def test_a_file_of_that_name_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / f"{STEM}.csv").write_text("precious")
    writer = ShardWriter(sink_of("csv"), tmp_path, STEM)
    with pytest.raises(SinkError, match="File exists"):
        writer.write(rows_of(0, 1))
    writer.abort()
    assert (tmp_path / f"{STEM}.csv").read_text() == "precious"


ODD = {
    "union": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    "interval": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([1])),
    "view": pa.array(["a", None], pa.string_view()),
    "list_view": pa.array([[1], None], pa.list_view(pa.int8())),
}


@pytest.mark.parametrize("name", ["union", "interval", "runs"])
def test_a_type_that_parquet_does_not_know_is_a_bad_job(tmp_path: Path, name: str) -> None:
    writer = ShardWriter(sink_of("parquet"), tmp_path, STEM)
    with pytest.raises(BadJob) as caught:
        writer.write(pa.record_batch([pa.array([1, 2]), ODD[name]], ["id", name]))
    assert [fault.field for fault in caught.value.faults] == [f"spec.sink.columns.{name}"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["view", "list_view"])
def test_views_are_written_to_parquet(tmp_path: Path, name: str) -> None:
    staged = write(tmp_path, "parquet", pa.record_batch([ODD[name]], [name]))
    assert read(staged)[name].to_pylist() == ODD[name].to_pylist()


@pytest.mark.parametrize("name", ODD)
def test_every_other_format_writes_the_oddest_types(tmp_path: Path, name: str) -> None:
    rows = pa.record_batch([ODD[name]], [name])
    assert read(write(tmp_path, "arrow", rows))[name].to_pylist() == ODD[name].to_pylist()
    assert len(write(tmp_path, "jsonl", rows).path.read_text().splitlines()) == 2
    assert len(write(tmp_path, "csv", rows).path.read_text().splitlines()) == 3


# ------------------------------------------------------------------ rejects

BLAMES = [Blame("embed", "ValueError", "too long"), Blame("source", "NullValue", "column 'text' is null")]


def test_rejects_keep_their_rows_where_they_came_from_and_why(tmp_path: Path) -> None:
    writer = RejectsWriter(tmp_path, STEM, keep_rows=True)
    writer.write("in/a.csv", np.array([17]), [Blame("source", "CorruptRow", "2 fields")], None)
    writer.write("in/a.csv", np.array([3, 9]), BLAMES, rows_of(0, 2))
    (staged,) = writer.close()
    assert (staged.name, staged.kind, staged.rows) == (f"_headrace/rejected/{STEM}.parquet", "rejects", 3)
    assert staged.path == tmp_path / staged_name(staged.name)
    assert pq.read_table(staged.path).to_pylist() == [
        {"_file": "in/a.csv", "_address": 17, "_stage": "source", "_class": "CorruptRow", "_message": "2 fields",
         "id": None, "score": None, "text": None},
        {"_file": "in/a.csv", "_address": 3, "_stage": "embed", "_class": "ValueError", "_message": "too long",
         "id": 0, "score": 0.0, "text": "row 0"},
        {"_file": "in/a.csv", "_address": 9, "_stage": "source", "_class": "NullValue",
         "_message": "column 'text' is null", "id": 1, "score": 0.125, "text": "row 1"},
    ]  # fmt: skip


def test_rejects_by_address_hold_no_rows(tmp_path: Path) -> None:
    writer = RejectsWriter(tmp_path, STEM, keep_rows=False)
    writer.write("a", np.array([3, 9]), BLAMES, rows_of(0, 2))
    (staged,) = writer.close()
    assert pq.read_schema(staged.path).names == ["_file", "_address", "_stage", "_class", "_message"]


def test_rows_that_could_not_be_read_are_rejects_too(tmp_path: Path) -> None:
    writer = RejectsWriter(tmp_path, STEM, keep_rows=True)
    writer.write("a", np.array([3, 9]), BLAMES, None)
    (staged,) = writer.close()
    assert pq.read_table(staged.path)["_address"].to_pylist() == [3, 9]


def test_a_source_column_may_be_named_like_one_of_the_rejects_own(tmp_path: Path) -> None:
    writer = RejectsWriter(tmp_path, STEM, keep_rows=True)
    writer.write("a", np.array([3]), BLAMES[:1], pa.record_batch([pa.array([5])], ["_class"]))
    (staged,) = writer.close()
    assert pq.read_table(staged.path).to_pylist()[0]["source._class"] == 5
    assert RejectsWriter(tmp_path, STEM, keep_rows=True).close() == ()


def test_a_rejected_row_loses_only_columns_that_parquet_does_not_know(tmp_path: Path) -> None:
    writer = RejectsWriter(tmp_path, STEM, keep_rows=True)
    writer.write("a", np.array([3, 4]), BLAMES, pa.record_batch([ODD["union"], pa.array([5, 6])], ["odd", "id"]))
    (staged,) = writer.close()
    assert pq.read_table(staged.path)["id"].to_pylist() == [5, 6]


def test_aborted_rejects_leave_nothing(tmp_path: Path) -> None:
    writer = RejectsWriter(tmp_path, STEM, keep_rows=True)
    writer.write("a", np.array([3]), BLAMES[:1], rows_of(0, 1))
    writer.abort()
    assert os.listdir(tmp_path) == []
