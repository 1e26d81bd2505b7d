"""`headrace run` on every kind of input that must simply work: formats, sizes, names, filters, modes."""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from tests.integration.run_fixture import DOUBLE_STAGE, Site

FORMATS = ("parquet", "arrow", "csv", "jsonl")

TABLE = pa.table(
    {
        "x": pa.array([3, 1, 4, -1, 5, -9, 2, 6], pa.int64()),
        "f": pa.array([0.5, -1.25, 1e300, 3.0, -0.0, 1e-7, 2.5, 1 / 3], pa.float64()),
        "b": pa.array([True, False, None, True, False, True, None, False]),
        "s": pa.array(["plain", 'with "quotes", commas', None, "", "zwei\nZeilen", "日本語 ☃", " spaces ", "null"]),
    }
)
TYPES = {"x": "int64", "f": "float64", "b": "bool", "s": "string", "y": "int64"}
COLUMNS = {"x": "source.x", "f": "source.f", "b": "source.b", "s": "source.s", "y": "double.y"}
EXPECTED = TABLE.append_column("y", pa.array([2 * x for x in TABLE["x"].to_pylist()], pa.int64()))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def write(path: Path, table: pa.Table) -> Path:
    """Writes a table in the format that the name's ending says."""
    match path.name.split(".")[1:]:
        case ["parquet"]:
            pq.write_table(table, path)
        case ["arrow"]:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        case ["csv", *_]:
            with pa.CompressedOutputStream(path, codec(path)) if codec(path) else pa.OSFile(str(path), "wb") as out:
                pa_csv.write_csv(table, out)
        case ["jsonl", *_]:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()).encode()
            with pa.CompressedOutputStream(path, codec(path)) if codec(path) else pa.OSFile(str(path), "wb") as out:
                out.write(text)
    return path


def codec(path: Path) -> str | None:
    return {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)


def read(paths: list[Path], schema: pa.Schema) -> pa.Table:
    """The rows of output files, as plain pyarrow reads them where the format doesn't say the types."""
    tables = []
    for path in paths:
        match path.suffix:
            case ".parquet":
                tables.append(pq.read_table(path))
            case ".arrow":
                tables.append(pa.ipc.open_file(path).read_all())
            case ".csv":
                options = pa_csv.ConvertOptions(
                    column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
                )
                parse = pa_csv.ParseOptions(newlines_in_values=True)
                tables.append(pa_csv.read_csv(path, convert_options=options, parse_options=parse))
            case ".jsonl":
                rows = [json.loads(line) for line in path.read_text().split("\n") if line]
                tables.append(pa.Table.from_pylist(rows, schema=schema))
    return pa.concat_tables(tables).cast(schema)


def expected_of(source: str) -> list[dict[str, Any]]:
    """The rows of EXPECTED as they come from a file: CSV has no null text, an empty field is empty text."""
    rows: list[dict[str, Any]] = EXPECTED.to_pylist()
    return [row | {"s": row["s"] or ""} for row in rows] if source == "csv" else rows


def source_of(kind: str, uri: str) -> dict[str, Any]:
    """CSV that says what a plain reader could only guess."""
    types = {name: TYPES[name] for name in TABLE.schema.names}
    return {"format": kind, "uri": uri} | ({"csv": {"types": types}} if kind == "csv" else {})


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


DIGEST = '''
import hashlib

import numpy as np


class Digest:
    """Length and MD5 of each value, bytes or text."""

    def __call__(self, batch):
        values = [v.encode() if isinstance(v, str) else bytes(v) for v in batch["data"]]
        return {
            "size": np.array([len(v) for v in values], dtype=np.int64),
            "md5": np.array([hashlib.md5(v).hexdigest() for v in values], dtype=object),
        }
'''
DIGEST_STAGE = {"name": "digest", "python": "digest:Digest"}


class Peak:
    """The most memory (PSS) that this process's children had together while the block ran, in bytes."""

    def __enter__(self) -> "Peak":
        self.pss = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.pss = max(self.pss, sum(map(_pss, psutil.Process().children(recursive=True))))


def _pss(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pa.binary(), pa.string()])
def test_a_row_of_100_mb_goes_through_and_memory_stays_sane(site: Site, kind: pa.DataType) -> None:
    import hashlib

    site.write("digest.py", DIGEST)
    sizes = [5, 100_000_000, 0, 1000]
    values = [(b"0123456789abcdef" * (size // 16 + 1))[:size] for size in sizes]
    site.parquet("in.parquet", {"id": [0, 1, 2, 3], "data": pa.array(values, pa.binary()).cast(kind)})
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet"},
        pipeline=[{**DIGEST_STAGE, "inputs": {"data": "source.data"}}],
        sink={"columns": {"id": "source.id", "size": "digest.size", "md5": "digest.md5"}},
    )

    with Peak() as peak:
        site.run_complete(job)

    site.verify()
    assert site.rows().to_pylist() == [
        {"id": i, "size": sizes[i], "md5": hashlib.md5(values[i]).hexdigest()} for i in range(4)
    ]
    # 250 MB without it; pyarrow's Parquet reader takes three times the row, the arena one, the stage up to three.
    assert peak.pss < 1_500_000_000


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """In memory where that is possible, and gone after the test: 100,000 files are slow to make and to remove."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_100_000_tiny_files_are_one_row_each(site: Site, quick_folder: Path) -> None:
    site.write("digest.py", DIGEST)
    for folder in range(100):
        path = quick_folder / "in" / f"{folder:02}"
        path.mkdir(parents=True)
        for i in range(1000):
            (path / f"{i:03}.txt").write_bytes(b"x" * (i % 7))
    job = site.job(
        source={"format": "files", "uri": str(quick_folder / "in")},
        pipeline=[{**DIGEST_STAGE, "inputs": {"data": "source.bytes"}}],
        sink={"columns": {"path": "source.path", "size": "digest.size", "listed": "source.size"}},
    )

    done = site.run_complete(job, timeout_s=100)

    assert done["rows_out"] == done["files"] == 100_000
    shards = done["shards_committed"]
    assert shards < 1000
    site.verify()
    table = site.rows()
    assert [os.path.relpath(path, quick_folder) for path in table["path"].to_pylist()] == [
        f"in/{folder:02}/{i:03}.txt" for folder in range(100) for i in range(1000)
    ]
    assert table["size"].to_pylist() == table["listed"].to_pylist() == [i % 7 for i in range(1000)] * 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_thousands_of_tiny_files_are_read_in_order(site: Site, kind: str) -> None:
    count = 3000
    (site.folder / "in").mkdir()
    for i in range(count):
        write(site.folder / "in" / f"{i:05}.{kind}", pa.table({"x": [2 * i, 2 * i + 1]}))
    job = site.job(source={"format": kind, "uri": "in"})

    done = site.run_complete(job)

    assert done["rows_out"] == 2 * count
    assert done["shards_committed"] < 100
    site.verify()
    assert site.rows()["x"].to_pylist() == list(range(2 * count))


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


# ---------------------------------------------------------------- which output


@pytest.mark.slow
def test_a_complete_job_is_not_run_again_but_with_again(site: Site) -> None:
    site.parquet("in.parquet", {"x": [1, 2]})
    job = site.job(source={"format": "parquet", "uri": "in.parquet"})
    first = site.run_complete(job)
    before = [path.name for path in site.data_files()]

    assert site.run_complete(job)["uid"] == first["uid"]
    assert [path.name for path in site.data_files()] == before
    assert "complete already" in site.headrace("run", str(job), "--state", str(site.state)).stdout

    refused = site.run(job, "--again")
    assert refused.code == 42
    assert "isn't empty" in refused.stderr
    assert [path.name for path in site.data_files()] == before
    site.verify()

    replaced = site.run_complete(
        site.job(source={"format": "parquet", "uri": "in.parquet"}, sink={"mode": "replace"}), "--again"
    )
    assert replaced["uid"] != first["uid"]
    assert site.verify()["rows_out"] == 2
    assert site.rows()["y"].to_pylist() == [2, 4]
    assert [path.name for path in site.data_files()] != before


@pytest.mark.slow
def test_append_adds_and_replace_takes_away(site: Site) -> None:
    site.parquet("one.parquet", {"x": [1]})
    site.parquet("two.parquet", {"x": [2]})
    site.parquet("three.parquet", {"x": [3]})
    site.write("out/notes.txt", "somebody else's")

    def run(name: str, mode: str) -> list[int]:
        site.run_complete(
            site.job(name=name, source={"format": "parquet", "uri": f"{name}.parquet"}, sink={"mode": mode})
        )
        site.verify()
        return sorted(site.rows()["x"].to_pylist())

    assert run("one", "append") == [1]
    assert (site.out / "notes.txt").exists()
    assert run("two", "append") == [1, 2]
    assert run("three", "replace") == [3]
    assert not (site.out / "notes.txt").exists()


NOISY = """
import os

os.write(1, b"noise\\n")


class Noisy:
    def __init__(self):
        print("noise")

    def __call__(self, batch):
        print("noise")
        os.system("echo noise")
        return {"y": batch["x"]}
"""


@pytest.mark.slow
def test_no_rows_appended_leave_an_output_that_readers_read(site: Site) -> None:
    site.write("one.jsonl", '{"x": 1}\n')
    site.write("none.jsonl", "")
    for i, name in enumerate(("one", "none", "one", "none")):
        site.run_complete(
            site.job(name=f"day-{i}", source={"format": "jsonl", "uri": f"{name}.jsonl"}, sink={"mode": "append"})
        )
    assert site.verify()["rows_out"] == 2
    assert pq.read_table(site.out).to_pylist() == [{"x": 1, "y": 2}] * 2
    assert pd.read_parquet(site.out)["y"].tolist() == [2, 2]


def test_json_is_the_only_thing_on_stdout_and_text_is_for_people(site: Site) -> None:
    site.write("noisy.py", NOISY)
    site.parquet("in.parquet", {"x": list(range(2000))})
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet"}, pipeline=[{**DOUBLE_STAGE, "python": "noisy:Noisy"}]
    )

    ran = site.run(job)
    again = site.headrace("run", str(job), "--state", str(site.state))

    assert ran.stdout.count("\n") == 1
    assert ran.document["rows_in"] == 2000
    assert ran.stderr == ""
    assert "[double/0] noise" in site.logs()
    assert "2,000 in = 2,000 out + 0 filtered + 0 rejected" in again.stdout


# ---------------------------------------------------------------- which rows fail


PICKY = '''
import math

import numpy as np


class Picky:
    """Raises for 7, says no to multiples of 10, gives NaN for multiples of 25."""

    def __call__(self, batch):
        x = batch["x"]
        if (x == 7).any():
            raise ValueError("seven")
        return {
            "y": np.where(x % 25 == 24, np.nan, x / 2),
            "_error": [f"no {v}" if v % 10 == 0 else None for v in x.tolist()],
        }


class Words:
    """Upper case, null for null, from an Arrow record batch."""

    def __call__(self, batch):
        import pyarrow.compute as pc

        assert batch.schema.names == ["s", "x"], batch.schema
        return {"upper": pc.utf8_upper(batch["s"]), "sum": pc.add(batch["x"], 1)}
'''


@pytest.mark.parametrize("on_reject", ["keep", "address"])
@pytest.mark.parametrize("nan", ["keep", "reject"])
def test_rows_that_fail_are_rejected_one_by_one(site: Site, on_reject: str, nan: str) -> None:
    site.write("picky.py", PICKY)
    site.parquet("in.parquet", {"x": range(100), "s": [f"s{i}" for i in range(100)]}, row_group_size=30)
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet"},
        pipeline=[{"name": "picky", "python": "picky:Picky", "inputs": {"x": "source.x"}, "batch": {"rows": 16}}],
        sink={"columns": {"x": "source.x", "s": "source.s", "y": "picky.y"}},
        errors={"maxRejected": 20, "onReject": on_reject, "nan": nan},
    )

    done = site.run_complete(job)

    site.verify()
    errors = {i: ("RowError", f"no {i}") for i in range(0, 100, 10)} | {7: ("ValueError", "seven")}
    nans = [24, 49, 74, 99]
    found = {row["_address"]: row for row in site.rejects()}
    assert sorted(found) == sorted([*errors, *(nans if nan == "reject" else [])])
    for address, (kind, message) in errors.items():
        assert (found[address]["_stage"], found[address]["_class"]) == ("picky", kind)
        assert message in found[address]["_message"]
        assert found[address]["_file"] == str(site.folder / "in.parquet")
    assert done["rows_rejected"] == len(found)
    kept = {"x", "s"} if on_reject == "keep" else set()
    assert all({name for name in row if not name.startswith("_")} == kept for row in found.values())
    assert all(row["x"] == address and row["s"] == f"s{address}" for address, row in found.items() if kept)
    table = site.rows()
    assert table["x"].to_pylist() == [x for x in range(100) if x not in found]
    assert all(y == x / 2 or x in nans for x, y in zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True))


def test_a_stage_that_takes_arrow_gets_nulls_and_gives_them(site: Site) -> None:
    site.write("picky.py", PICKY)
    site.parquet("in.parquet", {"x": [1, None, 3], "s": ["a", "é", None]})
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet"},
        pipeline=[
            {
                "name": "words",
                "python": "picky:Words",
                "inputs": {"s": "source.s", "x": "source.x"},
                "batch": {"as": "arrow"},
            }
        ],
        sink={"columns": {"s": "source.s", "upper": "words.upper", "sum": "words.sum"}},
    )

    site.run_complete(job)

    site.verify()
    assert site.rows().to_pylist() == [
        {"s": "a", "upper": "A", "sum": 2},
        {"s": "é", "upper": "É", "sum": None},
        {"s": None, "upper": None, "sum": 4},
    ]


def test_a_null_is_a_reject_unless_the_job_fills_it(site: Site) -> None:
    site.parquet("in.parquet", {"x": [1, None, 3]})
    source = {"format": "parquet", "uri": "in.parquet"}

    site.run_complete(site.job(source=source, errors={"maxRejected": 1}))
    [reject] = site.rejects()
    assert (reject["_address"], reject["_class"], reject["x"]) == (1, "NullValue", None)
    assert "'x'" in reject["_message"]
    assert site.rows().to_pylist() == [{"x": 1, "y": 2}, {"x": 3, "y": 6}]

    filled = site.job(
        name="filled", source=source, pipeline=[{**DOUBLE_STAGE, "cast": {"x": {"fill": -5}}}], sink={"uri": "filled"}
    )
    site.run_complete(filled)
    assert site.rows(site.folder / "filled").to_pylist() == [{"x": 1, "y": 2}, {"x": None, "y": -10}, {"x": 3, "y": 6}]


TEXTS = '''
class Texts:
    """The type of each value, and the value."""

    def __call__(self, batch):
        return {"kind": [type(v).__name__ for v in batch["s"]], "same": batch["s"]}
'''


def test_a_null_text_is_a_reject_unless_the_job_fills_it(site: Site) -> None:
    site.write("texts.py", TEXTS)
    site.write("in.jsonl", '{"s": "a"}\n{"s": null}\n{"s": ""}\n{}\n')
    stage = {"name": "texts", "python": "texts:Texts", "inputs": {"s": "source.s"}}
    columns = {"s": "source.s", "kind": "texts.kind", "same": "texts.same"}
    source = {"format": "jsonl", "uri": "in.jsonl"}

    site.run_complete(site.job(source=source, pipeline=[stage], sink={"columns": columns}, errors={"maxRejected": 2}))
    assert [(row["_class"], row["s"]) for row in site.rejects()] == [("NullValue", None), ("NullValue", None)]
    assert site.rows()["s"].to_pylist() == ["a", ""]

    filling = {**stage, "cast": {"s": {"fill": "none"}}}
    site.run_complete(
        site.job(name="filled", source=source, pipeline=[filling], sink={"columns": columns, "uri": "filled"})
    )
    assert site.rows(site.folder / "filled").to_pylist() == [
        {"s": "a", "kind": "str", "same": "a"},
        {"s": None, "kind": "str", "same": "none"},
        {"s": "", "kind": "str", "same": ""},
        {"s": None, "kind": "str", "same": "none"},
    ]
