"""A block that is cut at any unit is what the reader gives of the units before it, with every count exact."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.dataset import Dataset
from sidecar.reader import Block, Cursor, Source
from tests.integration.source_fixture import Csv, Spec
from tests.integration.test_reader_cuts import folder, opened

AT = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def blocks_of(source: Source, dataset: Dataset, begin: int, end: int) -> list[Block]:
    return list(source.read(list(dataset.slices(begin, end)), Cursor(begin, end)))


def told(blocks: Sequence[Block]) -> dict[str, object]:
    """What a lease says of its blocks."""
    return {
        "rows": [row for block in blocks for row in block.rows.to_pylist()],
        "places": [
            (block.path_of(row), int(block.address[row])) for block in blocks for row in range(block.rows.num_rows)
        ],
        "bad": [row for block in blocks for row in block.bad],
        "read": sum(block.rows_read for block in blocks),
        "filtered": sum(block.rows_filtered for block in blocks),
        "corrupt": sum(found.end - found.begin for block in blocks for found in block.corrupt),
    }


def check_fronts(spec: Spec, cuts: Sequence[float], piece_bytes: int = 8 << 20) -> None:
    source, dataset = opened(spec, piece_bytes)
    assert dataset.divisible
    total = dataset.units_total
    blocks = blocks_of(source, dataset, 0, total)
    for cut in cuts:
        at = int(cut * total)
        fronts = [block.front(min(at, block.end)) for block in blocks if block.begin < at]
        if not fronts:
            continue
        assert told(fronts) == told(blocks_of(source, dataset, 0, at))
        last = fronts[-1]
        assert last.rows_read == last.rows.num_rows + last.rows_filtered + len(last.bad)
        taken = last.rows.num_rows
        whole = blocks[len(fronts) - 1]
        assert whole.rows_before(at) == taken
        # Where the flow stands after those rows is no further than any cut that leaves it just them.
        assert whole.unit_after(taken) >= at or taken == 0
        assert taken == 0 or whole.rows_before(whole.unit_after(taken)) == taken


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from(['{"a": 1}', '{"a": 2}', '{"a": "x"}', "", "{"]), max_size=9), max_size=4),
    st.booleans(),
    st.integers(8, 60),
    AT,
)
def test_json_lines(files: list[list[str]], is_filtered: bool, piece: int, cuts: list[float]) -> None:
    with folder() as path:
        (path / "0.jsonl").write_text('{"a": 0}\n')
        for i, lines in enumerate(files):
            (path / f"{i + 1}.jsonl").write_text("".join(line + "\n" for line in lines))
        check_fronts(Spec("jsonl", [str(path)], filter="a != 1" if is_filtered else None), cuts, piece)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["1,x", "2,y", "y", "", "3,q"]), max_size=20), st.booleans(), st.integers(8, 60), AT)
def test_csv_lines(lines: list[str], is_filtered: bool, piece: int, cuts: list[float]) -> None:
    types = {"a": "int64", "b": "string"}
    with folder() as path:
        (path / "x.csv").write_text("a,b\n0,z\n" + "".join(line + "\n" for line in lines))
        (path / "y.csv").write_text("a,b\n" + "".join(line + "\n" for line in lines))
        options = Csv(types=types, line_breaks_in_fields=False)
        check_fronts(Spec("csv", [str(path)], csv=options, filter="a != 2" if is_filtered else None), cuts, piece)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 17), st.booleans(), st.booleans(), AT)
def test_row_formats(lengths: list[int], group: int, is_parquet: bool, is_filtered: bool, cuts: list[float]) -> None:
    with folder() as path:
        for i, length in enumerate(lengths):
            table = pa.table({"a": np.arange(length), "s": [f"{i}.{j}" for j in range(length)]})
            if is_parquet:
                pq.write_table(table, path / f"{i}.parquet", row_group_size=group)
            else:
                with pa.ipc.new_file(path / f"{i}.arrow", table.schema) as writer:
                    writer.write_table(table, max_chunksize=group)
        # Statistics drop whole row groups beyond it, of which no row is seen.
        condition = "a < 19 and a != 3" if is_filtered else None
        check_fronts(Spec("parquet" if is_parquet else "arrow", [str(path)], filter=condition), cuts)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.booleans(), AT)
def test_listings(sizes: list[int], is_filtered: bool, cuts: list[float]) -> None:
    with folder() as path:
        for i, size in enumerate(sizes):
            (path / f"{i:02}.bin").write_bytes(b"x" * size)
        check_fronts(Spec("files", [str(path)], filter="size > 2" if is_filtered else None), cuts)


def test_damaged_rows_are_cut_where_the_block_is(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": np.arange(90)}), path, row_group_size=30, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(1).column(0)
    data[column.data_page_offset : column.data_page_offset + 8] = b"\xff" * 8
    path.write_bytes(data)
    source, dataset = opened(Spec("parquet", [str(path)], on_corrupt="reject"))
    assert told(blocks_of(source, dataset, 0, 90))["corrupt"] == 30
    cuts = [i / 90 for i in range(0, 91, 7)]
    check_fronts(Spec("parquet", [str(path)], filter="a != 3", on_corrupt="reject"), cuts)


def test_compressed_files_cannot_be_cut(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(json.dumps({"a": 1}).encode()))
    source, dataset = opened(Spec("jsonl", [str(tmp_path)]))
    (block,) = blocks_of(source, dataset, 0, dataset.units_total)
    assert block.units is None
    assert block.unit_after(0) == block.end
    cursor = Cursor(0, dataset.units_total)
    cursor.lower_end(dataset.units_total // 2)  # a split, before the file is begun
    assert list(source.read(list(dataset.slices(0, dataset.units_total)), cursor)) == []
    assert cursor.position == 0
