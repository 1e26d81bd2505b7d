"""`headrace run` on every kind of input that must simply work: formats, few rows or none, names, filters, limits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.run_fixture import Site
from tests.integration.table_fixture import COLUMNS, EXPECTED, FORMATS, TABLE, expected_of, read, source_of, write


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("sink", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_values_are_equal_from_and_to(site: Site, source: str, sink: str) -> None:
    write(site.folder / f"in.{source}", TABLE)
    job = site.job(source=source_of(source, f"in.{source}"), sink={"format": sink, "columns": COLUMNS})

    done = site.run_complete(job)

    assert done["rows_out"] == 8
    site.verify()
    assert read(site.data_files(), EXPECTED.schema).to_pylist() == expected_of(source)


@pytest.mark.parametrize("name", ["in.csv.gz", "in.csv.zst", "in.jsonl.gz", "in.jsonl.zst"])
def test_compressed_text_is_read(site: Site, name: str) -> None:
    kind = name.split(".")[1]
    write(site.folder / name, TABLE)
    job = site.job(source=source_of(kind, name), sink={"columns": COLUMNS})

    site.run_complete(job)

    site.verify()
    assert site.rows().to_pylist() == expected_of(kind)


# ---------------------------------------------------------------- few rows


EMPTY: dict[str, Callable[[Path], Any]] = {
    "parquet": lambda path: write(path, TABLE.slice(0, 0)),
    "arrow": lambda path: write(path, TABLE.slice(0, 0)),
    "csv": lambda path: path.write_text("x,f,b,s\n"),
    "jsonl": lambda path: path.write_text(""),
}


@pytest.mark.parametrize(
    ("source", "sink"), [("parquet", "parquet"), ("parquet", "arrow"), ("csv", "csv"), ("arrow", "jsonl")]
)
def test_no_rows_make_an_empty_output_that_readers_read(site: Site, source: str, sink: str) -> None:
    EMPTY[source](site.folder / f"in.{source}")
    job = site.job(source=source_of(source, f"in.{source}"), sink={"format": sink, "columns": COLUMNS})

    done = site.run_complete(job)

    assert (done["rows_in"], done["rows_out"]) == (0, 0)
    assert site.verify()["rows_out"] == 0
    [path] = site.data_files()
    match sink:
        case "parquet":
            assert pq.read_table(path).schema.names == list(COLUMNS)
            assert pq.read_table(path).schema.field("s").type == pa.string()
            assert pd.read_parquet(path).empty
        case "arrow":
            assert pa.ipc.open_file(path).read_all().num_rows == 0
            assert pd.read_feather(path).empty
        case "csv":
            assert list(pd.read_csv(path).columns) == list(COLUMNS)
        case "jsonl":
            assert path.read_bytes() == b""


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_zero_length_file_among_others_has_no_rows(site: Site, kind: str) -> None:
    (site.folder / f"b.{kind}").touch()
    write(site.folder / f"a.{kind}", TABLE)
    write(site.folder / f"c.{kind}", TABLE)
    job = site.job(source=source_of(kind, f"?.{kind}"), sink={"columns": COLUMNS})

    site.run_complete(job)

    site.verify()
    assert site.rows().to_pylist() == expected_of(kind) * 2


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_zero_length_file_alone_has_no_rows(site: Site, kind: str) -> None:
    (site.folder / f"in.{kind}").touch()
    job = site.job(source=source_of(kind, f"in.{kind}"), sink={"columns": COLUMNS})

    assert site.run_complete(job)["rows_in"] == 0

    site.verify()
    assert site.rows().schema.names == list(COLUMNS)
    assert site.rows().num_rows == 0


@pytest.mark.parametrize(("kind", "text"), [("csv", "x,s\n"), ("csv", ""), ("jsonl", "")])
def test_a_model_with_types_of_its_own_takes_a_file_without_rows(site: Site, kind: str, text: str) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, site.folder / "model.onnx")
    site.write(f"in.{kind}", text)
    job = site.job(
        source={"format": kind, "uri": f"in.{kind}", "filter": "x > 1 and s in ('a', 'b')"},
        pipeline=[{"name": "double", "onnx": "model.onnx", "inputs": {"x": ["source.x"]}}],
    )

    site.run_complete(job)

    site.verify()
    assert site.rows().num_rows == 0
    assert site.rows().schema.field("y").type == pa.list_(pa.float32(), 1)


def test_a_column_that_an_empty_file_with_a_header_lacks_is_still_a_mistake(site: Site) -> None:
    site.write("in.csv", "z,s\n")
    ran = site.run(site.job(source={"format": "csv", "uri": "in.csv"}))
    assert ran.code == 42
    assert "the source has no column 'x'; there are: z, s" in ran.stderr


@pytest.mark.parametrize("text", ["x > 100", "x is null"])
def test_a_filter_that_drops_every_row_makes_an_empty_output(site: Site, text: str) -> None:
    site.parquet("in.parquet", {"x": range(100)}, row_group_size=10)

    done = site.run_complete(site.job(source={"format": "parquet", "uri": "in.parquet", "filter": text}))

    assert (done["rows_out"], done["rows_filtered"]) == (0, 100)
    assert site.verify()["rows_filtered"] == 100
    assert site.rows().schema.names == ["x", "y"]


def test_one_row_is_a_job(site: Site) -> None:
    write(site.folder / "in.jsonl", TABLE.slice(0, 1))
    site.run_complete(site.job(source={"format": "jsonl", "uri": "in.jsonl"}))
    site.verify()
    assert site.rows().to_pylist() == [{"x": 3, "y": 6}]


# ---------------------------------------------------------------- large rows, many files


def test_unicode_and_spaces_are_names_like_any_other(tmp_path: Path) -> None:
    site = Site(tmp_path / "Mein Ordner" / "日本 語's [1] 100% & ümläut")
    site.parquet("Eingabe für heute/größe=klein und fein/a b.parquet", {"x": [1, 2], "straße (m)": ["ä", "ö"]})
    job = site.job(
        source={"format": "parquet", "uri": "Eingabe für heute/**/*.parquet"},
        sink={
            "uri": "Ausgabe – heute ☃",
            "columns": {"x": "source.x", "größe": "source.größe", "é è": "source.straße (m)", "y": "double.y"},
        },
    )

    site.run_complete(job)

    out = site.folder / "Ausgabe – heute ☃"
    site.verify(out)
    assert site.rows(out).to_pylist() == [
        {"x": 1, "größe": "klein und fein", "é è": "ä", "y": 2},
        {"x": 2, "größe": "klein und fein", "é è": "ö", "y": 4},
    ]


# ---------------------------------------------------------------- which rows


@pytest.mark.parametrize("kind", FORMATS)
def test_a_filter_over_columns_and_hive_keys_drops_rows_and_counts_them(site: Site, kind: str) -> None:
    for day, lang in ((1, "en"), (2, "de"), (3, "en")):
        folder = site.folder / "in" / f"day={day}" / f"lang={lang}"
        folder.mkdir(parents=True)
        write(folder / f"a.{kind}", pa.table({"x": [10 * day + i for i in range(10)]}))
    job = site.job(
        source={"format": kind, "uri": "in", "filter": "lang == 'en' and x not in (11, 35) and x != 39"},
        sink={"columns": {"x": "source.x", "day": "source.day", "y": "double.y"}},
    )

    done = site.run_complete(job)

    assert (done["rows_in"], done["rows_out"], done["rows_filtered"]) == (30, 17, 13)
    assert site.verify()["rows_filtered"] == 13
    expected = [x for x in (*range(10, 20), *range(30, 40)) if x not in (11, 35, 39)]
    assert site.rows().to_pydict() == {
        "x": expected,
        "day": [x // 10 for x in expected],
        "y": [2 * x for x in expected],
    }


@pytest.mark.parametrize("name", [*FORMATS, "csv.gz", "jsonl.zst"])
def test_a_limit_takes_the_first_rows(site: Site, name: str) -> None:
    (site.folder / "in").mkdir()
    for i in range(4):
        write(site.folder / "in" / f"{i}.{name}", pa.table({"x": range(100 * i, 100 * i + 100)}))
    job = site.job(source={"format": name.split(".", maxsplit=1)[0], "uri": "in"})

    assert site.run_complete(job, "--limit", "250")["rows_out"] == 250

    site.verify()
    assert site.rows()["x"].to_pylist() == list(range(250))


@pytest.mark.slow
def test_a_job_with_a_limit_is_another_than_that_without(site: Site) -> None:
    site.parquet("in.parquet", {"x": range(400)})
    job = site.job(source={"format": "parquet", "uri": "in.parquet"}, sink={"mode": "replace"})
    site.run_complete(job, "--limit", "250")

    refused = site.run(job)
    assert refused.code == 1
    assert "--again" in refused.stderr
    assert site.rows().num_rows == 250

    assert site.run_complete(job, "--again")["rows_out"] == 400
    site.verify()
    assert site.rows()["x"].to_pylist() == list(range(400))
