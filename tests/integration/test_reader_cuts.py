"""Whatever a file holds and wherever it is cut, the ranges' rows together are the file's, each once."""

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coordinator.datasets import source_program
from headrace.dataset import Dataset
from headrace.records import record_ends
from sidecar.reader import Cursor, Source, open_source
from tests.integration.source_fixture import Csv, Spec, plan_source

Found = tuple[str, int, Any]
"""Path, address, and the row or None for a bad one."""


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def opened(spec: Spec, piece_bytes: int = 8 << 20) -> tuple[Source, Dataset]:
    planned = plan_source(spec, columns=None, limit_rows=None)
    return open_source(source_program(spec, planned, planned.schema.names, None), piece_bytes), planned.dataset


def read(source: Source, dataset: Dataset, begin: int, end: int) -> list[Found]:
    """All rows of a range with their addresses, bad ones among them, after checking that its blocks tile it."""
    found: list[Found] = []
    at = begin
    for block in source.read(list(dataset.slices(begin, end)), Cursor(begin, end)):
        assert block.begin == at
        at = block.end
        for i, row in enumerate(block.rows.to_pylist()):
            found.append((block.path_of(i), int(block.address[i]), row))
        found += [(row.path, row.address, None) for row in block.bad]
    assert at == end
    return sorted(found, key=lambda item: item[:2])


def check(spec: Spec, cuts: Sequence[float], piece_bytes: int = 8 << 20) -> list[Found]:
    """Reads the dataset as a whole and in ranges, at any unit or where the plan allows; returns the whole's rows."""
    source, dataset = opened(spec, piece_bytes)
    total = dataset.units_total
    whole = read(source, dataset, 0, total)
    if dataset.divisible:
        places = [int(cut * total) for cut in cuts]
    else:
        places = [int(dataset.cuts[int(cut * (len(dataset.cuts) - 1))]) for cut in cuts] if total else []
    parts = [read(source, dataset, a, b) for a, b in pairwise(sorted([0, *places, total])) if a < b]
    assert [row for part in parts for row in part] == whole
    return whole


CUTS = st.lists(st.floats(0, 1), max_size=6)
JSON_LINES = st.one_of(
    st.builds(lambda a, t: json.dumps({"a": a, "t": t}, ensure_ascii=False), st.integers(-99, 99), st.text(max_size=5)),
    st.sampled_from(
        ["", " ", "null", "{", "}", "[1]", '{"a": "x"}', '{"a": 1}{"a": 2}', "{}", '{"a":', "1}", '\t{"a":7} ']
    ),
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(JSON_LINES, st.sampled_from(["\n", "\r\n"])), max_size=12),
    st.booleans(),
    st.integers(1, 40),
    CUTS,
)
def test_jsonl_cut_anywhere(lines: list[tuple[str, str]], ends_open: bool, piece: int, cuts: list[float]) -> None:
    text = "".join(line + end for line, end in [('{"a": 0, "t": ""}', "\n"), *lines])
    if ends_open:
        text = text.rstrip("\r\n")
    with folder() as path:
        (path / "x.jsonl").write_text(text, newline="")
        (path / "y.jsonl").write_text(text, newline="")
        whole = check(Spec("jsonl", [str(path)]), cuts, piece)
    filled = [line for line in text.split("\n") if line.strip(" \t\r")]
    assert len(whole) == 2 * len(filled)
    expected = [_object(line) for line in filled]
    assert [row for _, _, row in whole] == expected * 2


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("a", 0), int):
        return None
    return {"a": value.get("a"), "t": value.get("t")}


FIELDS = st.one_of(st.text(alphabet='ab,"\n\r é', max_size=6), st.sampled_from(["", "1", " "]))


@settings(deadline=None)
@given(st.lists(st.tuples(FIELDS, FIELDS), max_size=8), st.sampled_from(["\n", "\r\n"]), st.integers(1, 30), CUTS)
def test_csv_with_line_breaks_in_fields(rows: list[tuple[str, str]], end: str, piece: int, cuts: list[float]) -> None:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    types = {"a": "string", "b": "string"}
    with folder() as path:
        for name in ("x", "y", "z"):
            (path / f"{name}.csv").write_text(sink.getvalue(), newline="")
        whole = check(Spec("csv", [str(path)], csv=Csv(types=types)), cuts, piece)
    assert [(row["a"], row["b"]) for _, _, row in whole] == rows * 3


@settings(deadline=None)
@given(st.text(alphabet='a1,"\n\r', max_size=40), st.booleans(), st.integers(1, 30), CUTS)
def test_csv_lines_cut_anywhere(text: str, header: bool, piece: int, cuts: list[float]) -> None:
    head = b"a,b\n" if header else b"1,2\n"
    types = {"a": "string", "b": "string"} if header else {"f0": "string", "f1": "string"}
    with folder() as path:
        (path / "x.csv").write_bytes(head + text.encode())
        spec = Spec("csv", [str(path)], csv=Csv(header=header, types=types, line_breaks_in_fields=False))
        whole = check(spec, cuts, piece)
    starts = np.cumsum([0, *(len(line) + 1 for line in (head.decode() + text).split("\n"))]).tolist()
    lines = (head.decode() + text).split("\n")
    filled = [at for at, line in zip(starts, lines, strict=False) if line not in ("", "\r")]
    assert [address for _, address, _ in whole] == filled[header:]


@settings(deadline=None)
@given(st.text(alphabet='a,"\n\r', max_size=14))
def test_records_end_where_pyarrow_says(text: str) -> None:
    data = text.encode()
    assume(data)
    ends = record_ends(data, ",", quoted=True, final=True).tolist()
    records = [data[a:b] for a, b in pairwise([0, *ends])]
    assert b"".join(records) == data
    bad: list[Any] = []

    def on_invalid(row: Any) -> str:
        bad.append(row)
        return "skip"

    table = pa.csv.read_csv(
        pa.BufferReader(data),
        read_options=pa.csv.ReadOptions(use_threads=False, column_names=["a", "b"], block_size=100),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_invalid),
        convert_options=pa.csv.ConvertOptions(column_types={"a": pa.binary(), "b": pa.binary()}),
    )
    assert table.num_rows + len(bad) == sum(record not in (b"\n", b"\r", b"\r\n") for record in records)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 17), st.booleans(), CUTS)
def test_row_formats_cut_anywhere(lengths: list[int], group: int, is_parquet: bool, cuts: list[float]) -> None:
    tables = [
        pa.table({"a": np.arange(n) + 100 * i, "s": [f"{i}.{j}" for j in range(n)]}) for i, n in enumerate(lengths)
    ]
    with folder() as path:
        for i, table in enumerate(tables):
            if is_parquet:
                pq.write_table(table, path / f"{i}.parquet", row_group_size=group)
            else:
                with pa.ipc.new_file(path / f"{i}.arrow", table.schema) as writer:
                    writer.write_table(table, max_chunksize=group)
        whole = check(Spec("parquet" if is_parquet else "arrow", [str(path)], filter="a != 3"), cuts)
    expected = [(j, row) for table in tables for j, row in enumerate(table.to_pylist()) if row["a"] != 3]
    assert [(address, row) for _, address, row in whole] == expected


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=4), CUTS)
def test_compressed_and_plain_files_side_by_side(files: list[list[int]], cuts: list[float]) -> None:
    with folder() as path:
        for i, values in enumerate(files):
            data = "".join(f'{{"a": {value}}}\n' for value in values).encode()
            name, content = (f"{i}.jsonl.gz", gzip.compress(data)) if i % 2 == 0 else (f"{i}.jsonl", data)
            (path / name).write_bytes(content)
        whole = check(Spec("jsonl", [str(path)]), cuts)
    assert [row.get("a") for _, _, row in whole] == [value for values in files for value in values]


SMALL_CSV = st.lists(st.sampled_from(["1,x", "2", '3,"q"', "", "y,z", "4,w\r", "5,a\rb"]), max_size=4)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(SMALL_CSV, st.sampled_from(["a,b\n", "b,a\n", "a,b\r\n"]), st.booleans()), max_size=6), CUTS)
def test_small_files_read_at_once_give_what_each_gives_alone(
    files: list[tuple[list[str], str, bool]], cuts: list[float]
) -> None:
    options = Csv(types={"a": "string", "b": "string"})
    with folder() as path:
        (path / "0.csv").write_text("a,b\n0,0\n")
        for i, (lines, header, ends_open) in enumerate(files):
            (path / f"{i + 1}.csv").write_text(header + "\n".join(lines) + "\n" * (not ends_open), newline="")
        for options.line_breaks_in_fields in (False, True):
            whole = check(Spec("csv", [str(path)], csv=options), cuts)
            alone = [
                row for i in range(len(files) + 1) for row in check(Spec("csv", [f"{path}/{i}.csv"], csv=options), [])
            ]
            assert whole == alone


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_splits_in_the_midst_of_reading_lose_nothing(tmp_path: Path, count: int) -> None:
    (tmp_path / "x.jsonl").write_text("".join(f'{{"a": {i}}}\n' for i in range(count)))
    source, dataset = opened(Spec("jsonl", [str(tmp_path)]), piece_bytes=100)
    seen: list[int] = []
    todo = [(0, dataset.units_total)] if count else []
    while todo:
        begin, end = todo.pop()
        cursor = Cursor(begin, end)
        for block in source.read(list(dataset.slices(begin, end)), cursor):
            seen += block.rows.column("a").to_pylist()
            at = cursor.lower_end((cursor.position + cursor.end) // 2)
            if at < end:
                todo.append((at, end))
                end = at
    assert sorted(seen) == list(range(count))
