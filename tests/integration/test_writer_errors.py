"""What a staged file refuses: other types than before, full disks, names that are there, types no format knows."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.arrow_types import columns_text
from headrace.errors import BadJob, SinkError
from sidecar.writer import AgreedSchema, SchemaChanged, ShardWriter
from tests.integration.writer_fixture import COMPRESSIONS, FORMATS, ODD, STEM, Folder, read, rows_of, sink_of, write

ANY_TYPES = pa.schema(
    {
        "second": pa.timestamp("s", tz="UTC"),
        "time": pa.time32("s"),
        "word": pa.dictionary(pa.int8(), pa.string()),
        "vector": pa.list_(pa.float32(), 3),
        "free": pa.list_(pa.list_(pa.float16())),
        "tree": pa.struct({"a": pa.large_string(), "b": pa.map_(pa.string(), pa.int8())}),
        "nothing": pa.null(),
    }
)


@pytest.mark.parametrize("format_name", ["parquet", "arrow"])
def test_the_agreed_text_is_what_a_reader_of_the_file_finds(tmp_path: Path, format_name: str) -> None:
    agreed = AgreedSchema(format_name)
    agreed.agree(ANY_TYPES)
    staged = write(tmp_path, format_name, pa.RecordBatch.from_pylist([{}, {}], schema=ANY_TYPES))
    assert agreed.text == columns_text(read(staged).schema)


def test_a_type_is_likely_from_the_first_whole_batch_on_and_known_from_the_first_file_on() -> None:
    agreed = AgreedSchema("parquet")
    assert (agreed.known("y"), agreed.likely("y")) == (None, None)
    agreed.see({"y": pa.string()})
    agreed.see({"y": pa.int64(), "z": pa.int8()})
    assert (agreed.known("y"), agreed.likely("y"), agreed.likely("z")) == (None, pa.string(), pa.int8())
    agreed.agree(pa.schema({"y": pa.int64()}))
    assert (agreed.known("y"), agreed.likely("y")) == (pa.int64(), pa.int64())


@pytest.mark.parametrize("format_name", FORMATS)
def test_another_type_than_before_is_an_error_that_names_the_column(tmp_path: Path, format_name: str) -> None:
    writer = ShardWriter(sink_of(format_name), Folder(tmp_path), STEM)
    writer.write(pa.record_batch([pa.array([1]), pa.array([1.5])], ["id", "score"]))
    with pytest.raises(SchemaChanged, match="'score' comes as int64; it was double"):
        writer.write(pa.record_batch([pa.array([1]), pa.array([1])], ["id", "score"]))
    with pytest.raises(SchemaChanged, match="columns are id; they were id, score"):
        writer.write(pa.record_batch([pa.array([1])], ["id"]))
    writer.abort()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format_name", FORMATS)
def test_nothing_written_is_no_file(tmp_path: Path, format_name: str) -> None:
    writer = ShardWriter(sink_of(format_name), Folder(tmp_path), STEM)
    assert writer.close() == ()
    writer.abort()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("closed", [True, False])
def test_abort_removes_the_file(tmp_path: Path, format_name: str, closed: bool) -> None:
    writer = ShardWriter(sink_of(format_name), Folder(tmp_path), STEM)
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
    writer = ShardWriter(sink_of(format_name, compression), Folder(tmp_path), STEM)
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
    writer = ShardWriter(sink_of("parquet"), Folder(tmp_path / "gone"), STEM)
    with pytest.raises(SinkError, match="No such file or directory"):
        writer.write(rows_of(0, 1))
    writer.abort()


def test_a_file_of_that_name_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / f"{STEM}.csv").write_text("precious")
    writer = ShardWriter(sink_of("csv"), Folder(tmp_path), STEM)
    with pytest.raises(SinkError, match="File exists"):
        writer.write(rows_of(0, 1))
    writer.abort()
    assert (tmp_path / f"{STEM}.csv").read_text() == "precious"


@pytest.mark.parametrize("name", ["union", "interval", "runs"])
def test_a_type_that_parquet_does_not_know_is_a_bad_job(tmp_path: Path, name: str) -> None:
    writer = ShardWriter(sink_of("parquet"), Folder(tmp_path), STEM)
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
