"""The Reader on real files: every row of every range once, with its address, whatever the cuts and the damage."""

import bz2
import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.datasets import source_program
from headrace.dataset import Dataset
from headrace.errors import CorruptInput, InputChanged
from sidecar.reader import Block, Cursor, Source, open_source
from tests.integration.source_fixture import Csv, Spec, plan_source


def opened(spec: Spec, columns: Sequence[str] | None = None, limit_rows: int | None = None) -> tuple[Source, Dataset]:
    planned = plan_source(spec, columns=columns, limit_rows=limit_rows)
    names = planned.schema.names if columns is None else columns
    return open_source(source_program(spec, planned, names, limit_rows)), planned.dataset


def read(source: Source, dataset: Dataset, begin: int = 0, end: int | None = None) -> list[Block]:
    """The blocks of one range, after checking what holds of any blocks."""
    end = dataset.units_total if end is None else end
    cursor = Cursor(begin, end)
    blocks = []
    for block in source.read(list(dataset.slices(begin, end)), cursor):
        assert cursor.position == block.end
        blocks.append(block)
    at = begin
    for block in blocks:
        assert (block.begin, block.rows.schema) == (at, source.schema)
        assert block.rows_read == block.rows.num_rows + block.rows_filtered + len(block.bad)
        assert len(block.address) == block.rows.num_rows
        at = block.end
    assert at == end
    return blocks


def rows(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    return [row for block in blocks for row in block.rows.to_pylist()]


def addresses(blocks: Sequence[Block]) -> list[int]:
    return [int(address) for block in blocks for address in block.address]


def bad(blocks: Sequence[Block]) -> list[tuple[int, str]]:
    return [(row.address, row.message) for block in blocks for row in block.bad]


def whole(spec: Spec, columns: Sequence[str] | None = None, limit_rows: int | None = None) -> list[Block]:
    return read(*opened(spec, columns, limit_rows))


# ---------------------------------------------------------------- Parquet and Arrow


@pytest.fixture
def table() -> pa.Table:
    return pa.table(
        {
            "id": range(250),
            "text": [f"row {i}" if i % 7 else None for i in range(250)],
            "list": [[i] * (i % 4) for i in range(250)],
            "word": pa.array([f"w{i % 5}" for i in range(250)]).dictionary_encode(),
        }
    )


def test_a_lease_over_row_groups_and_files_is_read_in_order(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "1.parquet", row_group_size=100)
    pq.write_table(table, tmp_path / "2.parquet", row_group_size=60)
    source, dataset = opened(Spec("parquet", [str(tmp_path)]))
    blocks = read(source, dataset, 90, 330)
    assert rows(blocks) == [*table.slice(90).to_pylist(), *table.slice(0, 80).to_pylist()]
    assert addresses(blocks) == [*range(90, 250), *range(80)]
    assert blocks[0].path_of(0) == f"{tmp_path}/1.parquet"
    assert blocks[-1].path_of(blocks[-1].rows.num_rows - 1) == f"{tmp_path}/2.parquet"


def test_only_wanted_columns_are_read_and_in_the_order_wished(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "1.parquet")
    assert rows(whole(Spec("parquet", [str(tmp_path)]), ["text", "id"])) == table.select(["text", "id"]).to_pylist()
    none = whole(Spec("parquet", [str(tmp_path)]), [])
    assert [block.rows.num_rows for block in none] == [250]


def test_large_row_groups_come_in_parts(tmp_path: Path) -> None:
    table = pa.table({"a": np.arange(400_000)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=400_000)
    source, dataset = opened(Spec("parquet", [str(tmp_path)]))
    blocks = read(source, dataset)
    assert [block.rows.num_rows for block in blocks] == [100_000] * 4
    assert pa.concat_arrays([block.rows.column(0) for block in blocks]).equals(table.column(0).combine_chunks())
    (small,) = read(source, dataset, 5, 1_005)
    assert small.address.tolist() == list(range(5, 1_005))


def test_a_file_without_rows_gives_none(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table.slice(0, 0), tmp_path / "x.parquet")
    assert whole(Spec("parquet", [str(tmp_path)])) == []


@pytest.mark.parametrize("codec", [None, "zstd"])
@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_batches_are_read_in_any_range(tmp_path: Path, table: pa.Table, kind: str, codec: str | None) -> None:
    make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with make(tmp_path / "x.arrow", table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table, max_chunksize=100)
    source, dataset = opened(Spec("arrow", [str(tmp_path)]), ["text", "id"])
    blocks = read(source, dataset, 30, 230)
    assert rows(blocks) == table.select(["text", "id"]).slice(30, 200).to_pylist()
    assert addresses(blocks) == list(range(30, 230))
    assert sum(block.rows.num_rows for block in whole(Spec("arrow", [str(tmp_path)]), [])) == 250


def test_statistics_and_filter_count_every_row(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=100)
    blocks = whole(Spec("parquet", [str(tmp_path)], filter="id >= 205 and id != 210"), ["text"])
    assert [row["id"] for row in rows(blocks)] == [i for i in range(205, 250) if i != 210]
    assert addresses(blocks) == [i for i in range(205, 250) if i != 210]
    assert (sum(block.rows_read for block in blocks), sum(block.rows_filtered for block in blocks)) == (250, 206)


def test_files_may_differ_in_order_width_and_lack_of_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1], pa.int32()), "b": ["x"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["y"], "a": pa.array([2], pa.int64())}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"a": pa.array([3], pa.int16())}), tmp_path / "3.parquet")
    assert rows(whole(Spec("parquet", [str(tmp_path)]))) == [
        {"a": 1, "b": "x"},
        {"a": 2, "b": "y"},
        {"a": 3, "b": None},
    ]


def test_hive_keys_are_columns(tmp_path: Path) -> None:
    for key, value in (("a%20b", 1), ("__HIVE_DEFAULT_PARTITION__", 2)):
        (tmp_path / f"k={key}" / f"n={value}").mkdir(parents=True)
        pq.write_table(pa.table({"x": [value], "k": ["hidden"]}), tmp_path / f"k={key}" / f"n={value}" / "x.parquet")
    blocks = whole(Spec("parquet", [str(tmp_path)]), ["k", "x", "n"])
    assert rows(blocks) == [{"k": None, "x": 2, "n": 2}, {"k": "a b", "x": 1, "n": 1}]
    assert rows(whole(Spec("parquet", [str(tmp_path)], filter="n == 1"), ["x"])) == [{"x": 1, "n": 1}]


def damage_row_group(path: Path, group: int) -> None:
    column = pq.read_metadata(path).row_group(group).column(0)
    begin = column.dictionary_page_offset or column.data_page_offset
    state = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(begin)
        file.write(b"\xff" * column.total_compressed_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_damaged_row_group_is_named(tmp_path: Path, table: pa.Table) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, row_group_size=100)
    damage_row_group(path, 1)
    source, dataset = opened(Spec("parquet", [str(path)]))
    with pytest.raises(CorruptInput, match=r"x\.parquet: row group 1 \(rows 100 to 200\) can't be read"):
        read(source, dataset)
    assert len(rows(read(source, dataset, 0, 100))) == 100


def test_a_damaged_row_group_is_listed_where_the_job_says_so(tmp_path: Path, table: pa.Table) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, row_group_size=100)
    damage_row_group(path, 1)
    source, dataset = opened(Spec("parquet", [str(path)], on_corrupt="reject"))
    blocks = read(source, dataset, 50, 250)
    assert addresses(blocks) == [*range(50, 100), *range(200, 250)]
    (corrupt,) = [corrupt for block in blocks for corrupt in block.corrupt]
    assert (corrupt.path, corrupt.begin, corrupt.end) == (str(path), 100, 200)
    assert sum(block.rows_read for block in blocks) == 100


# ---------------------------------------------------------------- files that change


@pytest.mark.parametrize("change", ["append", "rewrite", "remove", "truncate"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "files", "arrow", "csv"])
def test_a_file_that_changed_since_it_was_planned_is_told_apart_from_damage(
    tmp_path: Path, kind: Literal["parquet", "jsonl", "files", "arrow", "csv"], change: str
) -> None:
    path = tmp_path / "x"
    table = pa.table({"a": range(10)})
    match kind:
        case "parquet":
            pq.write_table(table, path)
        case "arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        case _:
            path.write_text('{"a": 1}\n' * 10)
    source, dataset = opened(Spec(kind, [str(path)]))
    content = path.read_bytes()
    if change == "remove":
        path.unlink()
    else:
        path.write_bytes({"append": content + b"x", "rewrite": content, "truncate": content[:5]}[change])
        os.utime(path, ns=(0, 0))
    with pytest.raises(InputChanged, match="planned"):
        read(source, dataset)


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": range(20_000)}), path, row_group_size=10_000)
    source, dataset = opened(Spec("parquet", [str(path)]))
    blocks = source.read(list(dataset.slices(0, 20_000)), Cursor(0, 20_000))
    next(blocks)
    os.utime(path, ns=(0, 0))
    with pytest.raises(InputChanged):
        list(blocks)


# ---------------------------------------------------------------- JSONL and CSV


def test_jsonl_rows_carry_the_byte_they_begin_at(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1, "t": "\xc3\xa4"}\r\n\n  \n{"t": "b"}\n {"a": 3, "more": [1]} \n{"a": 4}')
    blocks = whole(Spec("jsonl", [str(path)]), ["a", "t"])
    assert rows(blocks) == [{"a": 1, "t": "ä"}, {"a": None, "t": "b"}, {"a": 3, "t": None}, {"a": 4, "t": None}]
    assert addresses(blocks) == [3, 28, 39, 63]


@pytest.mark.parametrize(
    "line",
    [
        b"null", b"[1]", b"7", b'{"a": 1', b'{"a": 1}{"a": 2}', b'{"a": 1} null {"a": 2}', b'{"a": "x"}', b'{"a": {}}',
        b'{"t": "\xff"}', b'{"a": 1, "a": 2}', b'{"t": 1}', b"{a: 1}", b'"{}"', b"}", b'{"t": "', b'{"a": true}',
    ],
)  # fmt: skip
def test_lines_that_are_no_row_become_bad_rows_at_their_byte(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x.jsonl"
    good = b'{"a": 1, "t": "x"}\n'
    path.write_bytes(good + line + b"\n" + line + b"\n" + good)
    blocks = whole(Spec("jsonl", [str(path)]), ["a", "t"])
    assert addresses(blocks) == [0, 19 + 2 * (len(line) + 1)]
    assert [address for address, _ in bad(blocks)] == [19, 19 + len(line) + 1]
    assert all(message for _, message in bad(blocks))


def test_csv_records_with_line_breaks_carry_their_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbfid;note\r\n1;"two\r\nlines; ""so"""\r\n\r\n2;plain\r\n3;"a"')
    blocks = whole(Spec("csv", [str(path)], csv=Csv(delimiter=";")))
    assert rows(blocks) == [{"id": 1, "note": 'two\r\nlines; "so"'}, {"id": 2, "note": "plain"}, {"id": 3, "note": "a"}]
    assert addresses(blocks) == [12, 38, 47]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (b"1", "expected 2 fields, found 1 field"),
        (b"1,2,3", "expected 2 fields, found 3 fields"),
        (b"x,y", "column 'a': 'x' is no int64"),
        (b"1,\xff", "column 'b': CSV conversion error to string: invalid UTF8"),
    ],
)
def test_csv_records_that_are_no_row_become_bad_rows(tmp_path: Path, record: bytes, said: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n1,x\n" + record + b"\n2,y\n" + record)
    for csv in (Csv(), Csv(line_breaks_in_fields=False)):
        csv.types["a"] = "int64"
        csv.types["b"] = "string"
        blocks = whole(Spec("csv", [str(path)], csv=csv))
        assert rows(blocks) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
        assert [address for address, _ in bad(blocks)] == [8, 8 + len(record) + 5]
        assert all(said in message for _, message in bad(blocks))


def test_a_line_break_in_a_field_is_a_bad_row_where_the_job_says_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n1,"x\ny"\n2,"z"\n3,"open\n')
    blocks = whole(Spec("csv", [str(path)], csv=Csv(line_breaks_in_fields=False)))
    assert rows(blocks) == [{"a": 2, "b": "z"}]
    assert [address for address, _ in bad(blocks)] == [4, 9, 18]
    quoted = whole(Spec("csv", [str(path)]))
    assert rows(quoted) == [{"a": 1, "b": "x\ny"}, {"a": 2, "b": "z"}]
    assert bad(quoted) == [(18, "a quote is opened and not closed")]


def test_each_csv_file_has_its_own_order_of_columns(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,x\n")
    (tmp_path / "2.csv").write_text("b,c,a\ny,0,2\n")
    assert rows(whole(Spec("csv", [str(tmp_path)]))) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    (tmp_path / "3.csv").write_text("b,c\ny,0\n")
    with pytest.raises(CorruptInput, match=r"3\.csv: .*there is no column 'a', its header is b, c"):
        whole(Spec("csv", [str(tmp_path)]))


def test_csv_without_header_numbers_its_columns(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("1,x\n2,y\n")
    blocks = whole(Spec("csv", [str(tmp_path)], csv=Csv(header=False)))
    assert rows(blocks) == [{"f0": 1, "f1": "x"}, {"f0": 2, "f1": "y"}]


def compressed(data: bytes, name: str) -> bytes:
    match name:
        case "gz":
            return gzip.compress(data[:10]) + gzip.compress(data[10:])  # two members, as `cat a.gz b.gz` makes
        case "bz2":
            return bz2.compress(data)
        case _:
            sink = pa.BufferOutputStream()
            with pa.CompressedOutputStream(sink, "zstd") as stream:
                stream.write(data)
            return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("codec", ["gz", "zst", "bz2"])
def test_a_compressed_file_is_one_range(tmp_path: Path, codec: str) -> None:
    text = "".join(f'{{"a": {i}}}\n' for i in range(1000))
    (tmp_path / f"x.jsonl.{codec}").write_bytes(compressed(text.encode(), codec))
    (tmp_path / f"y.jsonl.{codec}").write_bytes(compressed(b'{"a": -1}', codec))
    source, dataset = opened(Spec("jsonl", [str(tmp_path)]))
    assert not dataset.divisible
    blocks = read(source, dataset, 0, int(dataset.cuts[0]))
    assert [row["a"] for row in rows(blocks)] == list(range(1000))
    assert addresses(blocks)[:2] == [0, 9]
    assert rows(read(source, dataset, int(dataset.cuts[0]))) == [{"a": -1}]
    (tmp_path / f"x.jsonl.{codec}").unlink()
    (tmp_path / f"z.csv.{codec}").write_bytes(compressed(b'a,b\n1,"x\ny"\n', codec))
    assert rows(whole(Spec("csv", [f"{tmp_path}/z.*"]))) == [{"a": 1, "b": "x\ny"}]


def test_a_compressed_file_that_ends_early_is_damage(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    data = b"".join(b'{"a": %d}\n' % value for value in rng.integers(0, 1 << 60, 500_000))
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(data, 1)[:-1000])
    with pytest.raises(CorruptInput, match=r"x\.jsonl\.gz"):
        whole(Spec("jsonl", [str(tmp_path)]))
    blocks = whole(Spec("jsonl", [str(tmp_path)], on_corrupt="reject"))
    assert rows(blocks) == []
    assert [(corrupt.begin, corrupt.end) for block in blocks for corrupt in block.corrupt] == [
        (0, os.path.getsize(tmp_path / "x.jsonl.gz"))
    ]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("limit", [1, 3, 4, 5, 8, 100])
def test_a_limit_is_exact(tmp_path: Path, limit: int, suffix: str) -> None:
    for i in range(2):
        lines = [b"a", b"", *(b"%d" % (4 * i + j) if j != 1 else b"x,y" for j in range(4))]
        data = b"\r\n".join(lines)
        (tmp_path / f"{i}.csv{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    for csv in (Csv(), Csv(line_breaks_in_fields=False)):
        blocks = whole(Spec("csv", [str(tmp_path)], csv=csv), limit_rows=limit)
        assert sum(block.rows_read for block in blocks) == min(limit, 8)
        assert [row["a"] for row in rows(blocks)] == [i for i in range(8) if i % 4 != 1][: len(rows(blocks))]


def test_a_row_of_100_mb_is_one_row(tmp_path: Path) -> None:
    text = "x" * 100_000_000
    (tmp_path / "x.jsonl").write_text('{"a": 1, "t": "s"}\n' + json.dumps({"a": 2, "t": text}) + '\n{"a": 3, "t": "e"}')
    blocks = whole(Spec("jsonl", [str(tmp_path)]))
    assert [(row["a"], len(row["t"])) for row in rows(blocks)] == [(1, 1), (2, len(text)), (3, 1)]
    (tmp_path / "x.csv").write_text('a,t\n1,s\n2,"' + text[:-1] + '\n"\n3,e\n')
    blocks = whole(Spec("csv", [f"{tmp_path}/x.csv"]))
    assert [(row["a"], len(row["t"])) for row in rows(blocks)] == [(1, 1), (2, len(text)), (3, 1)]


# ---------------------------------------------------------------- file listings


def test_a_listing_reads_bytes_only_where_wanted_and_kept(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b""), ("ü c", b"\x00\xff")):
        (tmp_path / name).write_bytes(content)
    os.utime(tmp_path / "a", ns=(0, 1_700_000_000_123_456_789))
    blocks = whole(Spec("files", [str(tmp_path)]), ["path", "bytes", "size"])
    assert rows(blocks) == [
        {"path": f"{tmp_path}/a", "bytes": b"one", "size": 3},
        {"path": f"{tmp_path}/b", "bytes": b"", "size": 0},
        {"path": f"{tmp_path}/ü c", "bytes": b"\x00\xff", "size": 2},
    ]
    assert [blocks[0].path_of(i) for i in range(3)] == [f"{tmp_path}/{name}" for name in ("a", "b", "ü c")]
    (first, *_) = rows(whole(Spec("files", [str(tmp_path)]), ["modified"]))
    assert first["modified"].isoformat() == "2023-11-14T22:13:20.123456+00:00"
    source, dataset = opened(Spec("files", [str(tmp_path)], filter="size > 2"), ["bytes"])
    (tmp_path / "b").unlink()  # filtered, so never opened
    (block,) = read(source, dataset)
    assert (block.rows.to_pylist(), block.rows_filtered, block.path) == (
        [{"bytes": b"one", "size": 3}],
        2,
        f"{tmp_path}/a",
    )


def test_a_listing_is_read_in_any_range(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / str(i)).write_bytes(b"x")
    source, dataset = opened(Spec("files", [str(tmp_path)]), ["path"])
    assert [row["path"][-1] for row in rows(read(source, dataset, 3, 7))] == list("3456")


# ---------------------------------------------------------------- small files and splits


def test_tiny_files_share_a_block_and_every_row_knows_its_file(tmp_path: Path) -> None:
    for i in range(300):
        (tmp_path / f"{i:03}.jsonl").write_text(f'{{"a": {i}}}\nbroken\n' if i % 3 else "")
    blocks = whole(Spec("jsonl", [str(tmp_path)]))
    assert len(blocks) == 1
    assert [row["a"] for row in rows(blocks)] == [i for i in range(300) if i % 3]
    paths = [blocks[0].path_of(row) for row in range(200)]
    assert paths == [f"{tmp_path}/{i:03}.jsonl" for i in range(300) if i % 3]
    assert [row.path for row in blocks[0].bad] == paths


def test_rows_of_joined_listings_know_their_files(tmp_path: Path) -> None:
    for i in range(5_000):
        (tmp_path / f"{i:04}").write_bytes(b"x" * (i % 100 == 99))
    (block,) = whole(Spec("files", [str(tmp_path)], filter="size > 0"), ["path"])
    assert [block.path_of(i) for i in range(50)] == [row["path"] for row in rows([block])]
    assert (block.rows_read, block.rows_filtered) == (5_000, 4_950)


def test_a_split_is_never_read_past_and_never_lies_before_what_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(100_000)}), tmp_path / "x.parquet", row_group_size=10_000)
    source, dataset = opened(Spec("parquet", [str(tmp_path)]))
    cursor = Cursor(0, 100_000)
    blocks = source.read(list(dataset.slices(0, 100_000)), cursor)
    first = next(blocks)
    assert cursor.lower_end(5) >= first.end
    assert cursor.lower_end(5) == cursor.end
    cursor = Cursor(0, 100_000)
    blocks = source.read(list(dataset.slices(0, 100_000)), cursor)
    next(blocks)
    assert cursor.lower_end(34_567) == 34_567
    rest = list(blocks)
    assert (rest[-1].end, cursor.position) == (34_567, 34_567)
    cursor.end = 100_000  # the coordinator refused the split: the rest is read after all
    (*_, last) = source.read(list(dataset.slices(34_567, 100_000)), cursor)
    assert last.end == 100_000


def test_what_is_one_range_is_not_split(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n" + "1\n" * 6_000_000)
    source, dataset = opened(Spec("csv", [str(tmp_path)]))
    cursor = Cursor(0, dataset.units_total)
    blocks = source.read(list(dataset.slices(0, dataset.units_total)), cursor)
    next(blocks)
    assert 0 < cursor.position < dataset.units_total
    assert cursor.lower_end(cursor.position) == dataset.units_total
