"""Planning: what is listed, in which order, with which lengths and columns, and what is refused."""

import glob
import gzip
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.datasets import PlannedSource, source_program
from headrace.errors import BadJob
from tests.integration.source_fixture import Csv, Spec, plan_source


def plan(spec: Spec, columns: Sequence[str] | None = None, limit_rows: int | None = None) -> PlannedSource:
    return plan_source(spec, columns=columns, limit_rows=limit_rows)


def faults_of(spec: Spec) -> str:
    with pytest.raises(BadJob) as caught:
        plan(spec)
    return str(caught.value)


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(planned: PlannedSource, root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in planned.dataset.paths]


# ---------------------------------------------------------------- listing


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deep/d.txt", "sub/_tmp/e.txt", ".git/f", "_g.txt", "sub/[1].txt"):
        touch(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("uris", "exclude", "listed"),
    [
        ([""], [], ["_g.txt", "a.txt", "b.txt", "sub/[1].txt", "sub/_tmp/e.txt", "sub/c.txt", "sub/deep/d.txt"]),
        (["*.txt"], [], ["_g.txt", "a.txt", "b.txt"]),
        (["**/*.txt"], ["**/_tmp/**"], ["_g.txt", "a.txt", "b.txt", "sub/[1].txt", "sub/c.txt", "sub/deep/d.txt"]),
        (["sub/**"], ["_tmp"], ["sub/[1].txt", "sub/c.txt", "sub/deep/d.txt"]),
        (["sub/*/*.txt"], ["deep/"], ["sub/_tmp/e.txt"]),
        (["**/deep/?.txt"], [], ["sub/deep/d.txt"]),
        (["[ab].txt"], [], ["a.txt", "b.txt"]),
        (["sub/[1].txt"], [], ["sub/[1].txt"]),
        (["sub/[[]1].txt"], [], ["sub/[1].txt"]),
        ([".git/*"], [], [".git/f"]),
        (["b.txt", "*.txt"], [], ["b.txt", "_g.txt", "a.txt"]),
        (["**/[c-d].txt"], ["sub/deep/*"], ["sub/c.txt"]),
        (["su?"], ["_tmp"], ["sub/[1].txt", "sub/c.txt", "sub/deep/d.txt"]),
    ],
)
def test_files_are_listed_once_and_in_a_fixed_order(
    tree: Path, uris: list[str], exclude: list[str], listed: list[str]
) -> None:
    planned = plan(Spec("files", [str(tree / uri) for uri in uris], exclude))
    assert names(planned, tree) == listed
    assert planned.dataset.units_total == len(listed)
    assert planned.dataset.divisible


def test_an_absolute_exclude_is_matched_from_the_root(tree: Path) -> None:
    planned = plan(Spec("files", [str(tree / "sub")], exclude=[f"{tree}/sub/deep", "/nowhere/**"]))
    assert names(planned, tree) == ["sub/[1].txt", "sub/_tmp/e.txt", "sub/c.txt"]


def test_an_exclude_does_not_match_folders_above_the_source(tmp_path: Path) -> None:
    touch(tmp_path / "tmp" / "x" / "a")
    assert names(plan(Spec("files", [str(tmp_path / "tmp/x")], exclude=["**/tmp/**"])), tmp_path) == ["tmp/x/a"]


def test_a_folder_of_tables_passes_over_other_files_and_hidden_ones(tmp_path: Path) -> None:
    for name in ("LICENSE", "a.jsonl", "b.jsonl.gz", "README.md", "_SUCCESS", "_headrace/c.jsonl", ".d.jsonl"):
        touch(tmp_path / name, b"")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    assert names(plan(Spec("jsonl", [str(tmp_path)])), tmp_path) == ["a.jsonl", "b.jsonl.gz"]


def test_a_folder_of_files_without_suffix_is_read_too(tmp_path: Path) -> None:
    for name in ("part-00001", "part-00000.gz", "README.md"):
        touch(tmp_path / name, gzip.compress(b'{"a": 1}\n') if name.endswith("gz") else b'{"a": 1}\n')
    assert names(plan(Spec("jsonl", [str(tmp_path)])), tmp_path) == ["part-00000.gz", "part-00001"]


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    touch(tmp_path / "data" / "a")
    touch(tmp_path / "elsewhere" / "b")
    (tmp_path / "data" / "up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "side").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert names(plan(Spec("files", [str(tmp_path / "data")])), tmp_path) == ["data/a", "data/side/b"]


def test_unicode_and_spaces_in_paths_are_plain_names(tmp_path: Path) -> None:
    touch(tmp_path / "größe 1" / "文件 a%20.csv", b"a\n1\n")
    assert names(plan(Spec("csv", [f"{tmp_path}/größe */*.csv"])), tmp_path) == ["größe 1/文件 a%20.csv"]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("missing.parquet", "no such file or folder"),
        ("nothing-*.parquet", "matches no file"),
        ("nowhere/*.parquet", "there is no folder"),
        ("empty", "holds no file"),
        ("ftp://lake/x", "ftp:// is not supported yet"),
        ("other", "holds no parquet file"),
        ("dangling", "is a link to nothing"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, uri: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "other" / "README.md")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    text = faults_of(Spec("parquet", [uri if "://" in uri else str(tmp_path / uri)]))
    assert text.startswith("spec.source.uri: ")
    assert said in text


def test_the_nearest_right_name_is_offered_and_all_faults_are_told(tmp_path: Path) -> None:
    touch(tmp_path / "reviews.parquet")
    text = faults_of(Spec("parquet", [f"{tmp_path}/review.parquet", f"{tmp_path}/zz"]))
    assert f"did you mean {tmp_path}/reviews.parquet?" in text
    assert "spec.source.uri[1]" in text


def test_where_no_name_is_near_those_that_are_there_are_shown(tmp_path: Path) -> None:
    for i in range(7):
        touch(tmp_path / f"{i}.parquet")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_bytes(b"")
    there = f"{tmp_path} has: 0.parquet, 1.parquet, 2.parquet, 3.parquet, 4.parquet and 2 more"
    for uri in ("reviews-of-2026", "*.arrow"):
        assert faults_of(Spec("parquet", [f"{tmp_path}/{uri}"])).endswith(there)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_bytes(b"")
    assert "its name is not UTF-8" in faults_of(Spec("files", [str(tmp_path)]))


def test_of_many_tiny_files_only_the_first_are_asked_for_their_types(tmp_path: Path) -> None:
    for i in range(2_000):
        (tmp_path / f"{i:05}.jsonl").write_bytes(b'{"a": 1}\n' if i < 3 else b'{"b": 2}\n')
    planned = plan(Spec("jsonl", [str(tmp_path)]))
    assert len(planned.dataset.paths) == 2_000
    assert planned.schema == pa.schema([("a", pa.int64())])


# ---------------------------------------------------------------- Hive keys


def test_hive_keys_become_columns_with_types_that_lose_nothing(tmp_path: Path) -> None:
    for folder in ("n=1/m=01/t=a%20b", "n=-20/m=2/t=__HIVE_DEFAULT_PARTITION__"):
        touch(tmp_path / folder / "x.jsonl", b'{"a": 1, "t": 5}\n')
    planned = plan(Spec("jsonl", [str(tmp_path)]))
    assert planned.partitions == ("n", "m", "t")
    assert planned.schema == pa.schema([("a", pa.int64()), ("n", pa.int64()), ("m", pa.string()), ("t", pa.string())])


# ---------------------------------------------------------------- Parquet, Arrow


def write_parquet(path: Path, table: pa.Table, rows: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)


def test_parquet_is_cut_at_row_groups(tmp_path: Path) -> None:
    table = pa.table({"a": range(25), "b": ["text"] * 25})
    write_parquet(tmp_path / "1.parquet", table)
    write_parquet(tmp_path / "2.parquet", table.slice(0, 0))
    write_parquet(tmp_path / "3.parquet", table.slice(0, 5))
    planned = plan(Spec("parquet", [str(tmp_path)]))
    dataset = planned.dataset
    assert (dataset.unit, dataset.rows_total, dataset.divisible) == ("row", 30, True)
    assert dataset.origins.tolist() == [0, 25, 25, 30]
    assert dataset.cuts.tolist() == [10, 20, 25, 30]
    assert planned.schema == table.schema
    assert plan(Spec("parquet", [str(tmp_path)]), columns=["a"]).dataset.bytes_total < dataset.bytes_total


def test_a_limit_ends_the_dataset(tmp_path: Path) -> None:
    for i in range(3):
        write_parquet(tmp_path / f"{i}.parquet", pa.table({"a": range(25)}))
    dataset = plan(Spec("parquet", [str(tmp_path)]), limit_rows=33).dataset
    assert (len(dataset.paths), dataset.rows_total, dataset.units_total) == (2, 33, 33)
    assert dataset.cuts.tolist() == [10, 20, 25, 33]
    assert plan(Spec("parquet", [str(tmp_path)]), limit_rows=1000).dataset.units_total == 75
    assert plan(Spec("parquet", [str(tmp_path)]), limit_rows=25).dataset.origins.tolist() == [0, 25]


def test_a_column_may_be_missing_or_wider_in_later_files_but_not_of_another_kind(tmp_path: Path) -> None:
    write_parquet(tmp_path / "1.parquet", pa.table({"a": pa.array([1], pa.int32()), "b": ["x"]}))
    write_parquet(tmp_path / "2.parquet", pa.table({"a": pa.array([1], pa.int64())}))
    assert plan(Spec("parquet", [str(tmp_path)])).schema == pa.schema([("a", pa.int64()), ("b", pa.string())])
    write_parquet(tmp_path / "3.parquet", pa.table({"a": ["text"]}))
    text = faults_of(Spec("parquet", [str(tmp_path)]))
    assert text.startswith(f"{tmp_path}/3.parquet: ")


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is an empty file"), (b"no parquet at all", "can't be read"), (None, "can't be read")]
)
def test_a_file_without_a_footer_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    write_parquet(tmp_path / "good.parquet", pa.table({"a": range(1000)}))
    if content is None:
        content = (tmp_path / "good.parquet").read_bytes()[:-9]
    (tmp_path / "bad.parquet").write_bytes(content)
    text = faults_of(Spec("parquet", [str(tmp_path)]))
    assert text.startswith(f"{tmp_path}/bad.parquet: ")
    assert said in text


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), tmp_path / "x.parquet")
    assert "two columns are named 'a'" in faults_of(Spec("parquet", [str(tmp_path)]))


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_rows_are_counted_from_metadata(tmp_path: Path, kind: str) -> None:
    table = pa.table({"a": range(25), "b": ["x"] * 25})
    make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with make(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    dataset = plan(Spec("arrow", [str(tmp_path)])).dataset
    assert (dataset.rows_total, dataset.cuts.tolist()) == (25, [10, 20, 25])


# ---------------------------------------------------------------- text


def test_csv_columns_come_from_header_and_head(tmp_path: Path) -> None:
    touch(tmp_path / "0.csv", b"")
    touch(tmp_path / "1.csv", b"id,n,when,e,note\n1,2,2026-01-02,,x\n")
    touch(tmp_path / "2.csv", b"id,n,when,e,note\n1,2.5,2026-01-02,,3\n")
    planned = plan(Spec("csv", [str(tmp_path)], csv=Csv(types={"id": "int32"})))
    assert planned.schema == pa.schema(
        [("id", pa.int32()), ("n", pa.float64()), ("when", pa.date32()), ("e", pa.string()), ("note", pa.string())]
    )
    assert planned.file_inferred == ("n", "when", "e", "note")
    assert (planned.dataset.unit, planned.dataset.rows_total, planned.dataset.rows_estimated) == ("byte", 2, False)


@pytest.mark.parametrize(
    ("csv", "content", "said"),
    [
        (Csv(), b"a,a\n1,2\n", "two columns 'a'"),
        (Csv(), b"a,\xff\n1,2\n", "not UTF-8"),
        (Csv(types={"b": "int64"}), b"a\n1\n", "spec.source.csv.types.b: there is no such column"),
        (Csv(types={"a": "integer"}), b"a\n1\n", "no Arrow type is named 'integer'; expected bool, int8"),
        (Csv(types={"a": "float16"}), b"a\n1\n", "spec.source.csv.types.a: text can't be read as float16; expected"),
        (Csv(types={"a": "null"}), b"a\n1\n", "spec.source.csv.types.a: text can't be read as null; expected bool"),
        (Csv(types={"a": "string_view"}), b"a\n1\n", "text can't be read as string_view; expected bool, int8"),
    ],
)
def test_csv_heads_that_say_no_columns_are_refused(tmp_path: Path, csv: Csv, content: bytes, said: str) -> None:
    touch(tmp_path / "x.csv", content)
    assert said in faults_of(Spec("csv", [str(tmp_path)], csv=csv))


def test_a_file_that_is_not_gzip_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "x.csv.gz", b"a,b\n1,2\n")
    assert faults_of(Spec("csv", [str(tmp_path)])).startswith(f"{tmp_path}/x.csv.gz: can't be read")


def test_text_is_cut_where_its_records_allow_it(tmp_path: Path) -> None:
    touch(tmp_path / "a.csv", b"a\n" + b"1\n" * 3_000_000)
    touch(tmp_path / "b.csv.gz", gzip.compress(b"a\n1\n"))
    quoted = plan(Spec("csv", [f"{tmp_path}/a.csv"])).dataset
    assert (quoted.divisible, quoted.cuts.tolist()) == (False, [6_000_002])
    assert quoted.rows_total is not None
    assert quoted.rows_estimated
    assert abs(quoted.rows_total - 3_000_000) < 1000
    by_line = Csv(line_breaks_in_fields=False)
    assert plan(Spec("csv", [f"{tmp_path}/a.csv"], csv=by_line)).dataset.divisible
    mixed = plan(Spec("csv", [str(tmp_path)], csv=by_line)).dataset
    size = os.path.getsize(tmp_path / "b.csv.gz")
    assert (mixed.divisible, mixed.cuts.tolist()) == (False, [4 << 20, 6_000_002, 6_000_002 + size])


def test_jsonl_types_come_from_the_lines_that_parse(tmp_path: Path) -> None:
    lines = b'{"a": 1, "t": "2026-01-01T00:00:00"}\nbroken\nnull\n{"a": 1.5, "l": [], "s": {"x": null}, "n": null}\n'
    touch(tmp_path / "x.jsonl", lines)
    assert plan(Spec("jsonl", [str(tmp_path)])).schema == pa.schema(
        [
            ("a", pa.float64()),
            ("t", pa.string()),
            ("l", pa.list_(pa.string())),
            ("s", pa.struct([("x", pa.string())])),
            ("n", pa.string()),
        ]
    )


def test_empty_text_files_are_an_empty_dataset(tmp_path: Path) -> None:
    touch(tmp_path / "x.jsonl", b"")
    planned = plan(Spec("jsonl", [str(tmp_path)]))
    assert (planned.dataset.units_total, planned.dataset.rows_total, planned.schema.names) == (0, 0, [])


def test_text_without_records_has_the_columns_of_its_header_or_those_that_the_job_names(tmp_path: Path) -> None:
    touch(tmp_path / "h.csv", b"a,b\n")
    touch(tmp_path / "k=1" / "x.csv", b"")
    header = Spec("csv", [str(tmp_path / "h.csv")], csv=Csv(types={"b": "int32"}))
    planned = plan_source(header, columns=None, limit_rows=None, named=["a", "c"])
    assert planned.dataset.units_total == 0
    assert planned.schema == pa.schema([("a", pa.null()), ("b", pa.int32())])
    nothing = Spec("csv", [str(tmp_path / "k=1")], filter="z > 1 and k == 2", csv=Csv(types={"b": "int32"}))
    planned = plan_source(nothing, columns=None, limit_rows=None, named=["a", "b", "k"])
    assert planned.schema == pa.schema([("a", pa.null()), ("b", pa.int32()), ("z", pa.null()), ("k", pa.int64())])


def test_a_folder_with_wildcards_in_its_own_name_is_walked_as_it_is(tmp_path: Path) -> None:
    touch(tmp_path / "a [1]*" / "b" / "x.txt")
    touch(tmp_path / "a 1" / "b" / "y.txt")
    escaped = glob.escape(str(tmp_path / "a [1]*"))
    assert names(plan(Spec("files", [f"{escaped}/*/*.txt"])), tmp_path) == ["a [1]*/b/x.txt"]


# ---------------------------------------------------------------- program


def test_the_filter_is_checked_against_the_columns(tmp_path: Path) -> None:
    touch(tmp_path / "x.jsonl", b'{"lang": "en"}\n')
    assert "did you mean 'lang'?" in faults_of(Spec("jsonl", [str(tmp_path)], filter="lng == 'en'"))


def test_columns_that_only_the_filter_uses_are_read_last(tmp_path: Path) -> None:
    touch(tmp_path / "k=1" / "x.jsonl", b'{"a": 1, "b": 2}\n')
    spec = Spec("jsonl", [str(tmp_path)], filter="k == 1 and a > 0")
    program = source_program(spec, plan(spec), ["b"], None)
    assert program.columns == ("b", "k", "a")
    assert program.partitions == ("k",)


def test_a_listing_has_its_columns(tmp_path: Path) -> None:
    touch(tmp_path / "a", b"12345")
    planned = plan(Spec("files", [str(tmp_path)]), columns=["path"])
    assert planned.schema.names == ["path", "bytes", "size", "modified"]
    assert planned.dataset.bytes_total == 0
    assert planned.dataset.sizes.dtype == np.int64
