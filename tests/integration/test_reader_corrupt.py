"""The reader and `onCorrupt: reject`: damage becomes ranges that tile with the blocks; what can't be had never does."""

import itertools
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.datasets import source_program
from headrace.damage import is_damage
from headrace.dataset import Dataset, Slice
from headrace.errors import InputChanged, SourceRefused, SourceUnavailable
from sidecar.reader import Cursor, Source, open_source
from sidecar.reader.piece import unreadable
from tests.integration.source_fixture import Spec, plan_source


def opened(spec: Spec) -> tuple[Source, Dataset]:
    planned = plan_source(spec, columns=None, limit_rows=None)
    return open_source(source_program(spec, planned, planned.schema.names, None)), planned.dataset


def ranges(spec: Spec, cut: int | None = None) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids that are read, over two leases if there is a `cut`, and the corrupt dataset units; all of them tile."""
    source, dataset = opened(spec)
    ids: list[int] = []
    corrupt: list[tuple[int, int]] = []
    bounds = sorted({0, cut or 0, dataset.units_total})
    for begin, end in itertools.pairwise(bounds):
        done = begin
        for block in source.read(list(dataset.slices(begin, end)), Cursor(begin, end)):
            assert block.begin == done
            done = block.end
            own = [(found.origin + found.begin, found.origin + found.end) for found in block.corrupt]
            assert block.rows_read + sum(last - first for first, last in own) == block.end - block.begin
            ids += block.rows.column("id").to_pylist()
            corrupt += own
        assert done == end
    return ids, corrupt


def damaged(folder: Path) -> list[str]:
    """Three files of 300 rows in row groups of 100; the second group of the second file can't be decoded."""
    paths = []
    for i in range(3):
        path = folder / f"{i}.parquet"
        table = pa.table({"id": range(i * 300, i * 300 + 300)})
        pq.write_table(table, path, row_group_size=100, compression="zstd", use_dictionary=False)
        paths.append(str(path))
    column = pq.ParquetFile(paths[1]).metadata.row_group(1).column(0)
    with open(paths[1], "r+b") as file:
        file.seek(column.data_page_offset + column.total_compressed_size - 32)
        file.write(b"\xff" * 32)
    return paths


@pytest.mark.parametrize("cut", [None, 300, 400, 450, 500, 599])
def test_a_row_group_of_two_leases_is_listed_by_both(tmp_path: Path, cut: int | None) -> None:
    ids, corrupt = ranges(Spec("parquet", damaged(tmp_path), on_corrupt="reject"), cut)
    assert ids == [*range(400), *range(500, 900)]
    whole = [(400, 500)] if cut is None or not 400 < cut < 500 else [(400, cut), (cut, 500)]
    assert corrupt == whole


def test_a_file_that_was_planned_as_unreadable_must_not_be_whole_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": range(5)}), path)
    source, dataset = opened(Spec("parquet", [str(path)], on_corrupt="reject"))
    whole = next(iter(dataset.slices(0, 5)))
    planned = Slice(whole.path, whole.size, whole.version, 0, 1, 1, 0)
    with pytest.raises(InputChanged, match="has 5 rows, 1 when it was planned"):
        list(source.read([planned], Cursor(0, 1)))


def test_a_stream_that_was_planned_as_cut_must_not_be_whole_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.arrows"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.schema([("id", pa.int64())])) as writer:
        for _ in range(3):
            writer.write_batch(pa.record_batch({"id": [1, 2]}))
        writer.write_batch(pa.record_batch({"id": pa.array([], pa.int64())}))
    source, dataset = opened(Spec("arrow", [str(path)], on_corrupt="reject"))
    whole = next(iter(dataset.slices(0, 6)))
    assert sum(block.rows.num_rows for block in source.read([whole], Cursor(0, 6))) == 6
    planned = Slice(whole.path, whole.size, whole.version, 0, 3, 3, 0)
    with pytest.raises(InputChanged, match="has 6 rows, 3 when it was planned"):
        list(source.read([planned], Cursor(0, 3)))


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_file_that_is_gone_is_no_corrupt_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"id": [1]}), path)
    else:
        path.write_text("id\n1\n" if kind == "csv" else '{"id": 1}\n')
    source, dataset = opened(Spec(kind, [str(path)], on_corrupt="reject"))
    path.unlink()
    with pytest.raises(InputChanged, match="is gone"):
        list(source.read(list(dataset.slices(0, dataset.units_total)), Cursor(0, dataset.units_total)))


def test_what_the_system_fails_to_read_is_no_corrupt_range(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"id": 1}\n')
    source, _ = opened(Spec("jsonl", [str(tmp_path / "x.jsonl")], on_corrupt="reject"))
    # The first bytes of a process's memory are never mapped: reading them fails as a bad sector of a disk does.
    failing = "/proc/self/mem"
    part = Slice(failing, 0, str(os.stat(failing).st_mtime_ns), 0, 10, 10, 0)
    with pytest.raises(SourceUnavailable, match="Input/output error"):
        list(source.read([part], Cursor(0, 10)))


@pytest.mark.parametrize(
    ("error", "is_of_bytes"),
    [
        (OSError("ZSTD decompression failed"), True),
        (EOFError("ended before the end-of-stream marker"), True),
        (pa.ArrowInvalid("Parquet magic bytes not found"), True),
        (OSError(5, "Input/output error"), False),
        (PermissionError(13, "Permission denied"), False),
        (ConnectionResetError(104, "Connection reset"), False),
        (pa.ArrowMemoryError("malloc failed"), False),
        (SourceUnavailable("away"), False),
        (SourceRefused("forbidden"), False),
    ],
)
def test_damage_is_what_decoders_say_of_bytes(error: BaseException, is_of_bytes: bool) -> None:
    assert is_damage(error) == is_of_bytes


def test_a_file_that_may_not_be_read_is_refused_at_once() -> None:
    assert isinstance(unreadable("x", PermissionError(13, "Permission denied")), SourceRefused)
    assert isinstance(unreadable("x", OSError(5, "Input/output error")), SourceUnavailable)
