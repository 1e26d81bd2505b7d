"""`headrace run` with rows that a stage refuses, and with nulls: which are rejected, which filled."""

from pathlib import Path

import pyarrow as pa
import pytest

from tests.integration.run_fixture import DOUBLE_STAGE, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


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


def test_columns_of_types_that_arrow_cannot_filter_are_rejected_and_filtered_all_the_same(site: Site) -> None:
    table = pa.table({"x": [1, None, 3, 4], "v": pa.array(["a", "b", "c", None], pa.string_view())})
    with pa.ipc.new_file(site.folder / "in.arrow", table.schema) as writer:
        writer.write_table(table)

    site.run_complete(
        site.job(
            source={"format": "arrow", "uri": "in.arrow", "filter": "x > 1 or x is null"},
            sink={"format": "arrow", "columns": {"x": "source.x", "v": "source.v"}},
            errors={"maxRejected": 1},
        )
    )

    site.verify()
    [reject] = site.rejects()
    assert (reject["x"], reject["v"]) == (None, "b")
    [file] = site.data_files()
    assert pa.ipc.open_file(file).read_all().to_pydict() == {"x": [3, 4], "v": ["c", None]}


NEVER = '''
import numpy as np


class Never:
    """NaN for every row past the first `good`."""

    def __init__(self, good=0):
        self.good = good

    def __call__(self, batch):
        return {"y": np.where(batch["x"] < self.good, 0.5, np.nan)}
'''


@pytest.mark.parametrize(
    ("good", "workers", "reason"), [(0, 1, "ModelFailed"), (0, 2, "ModelFailed"), (1500, 1, "ErrorBudgetExceeded")]
)
def test_a_stage_that_gives_nan_for_every_row_has_failed(site: Site, good: int, workers: int, reason: str) -> None:
    site.write("never.py", NEVER)
    site.parquet("in.parquet", {"x": range(5000)}, row_group_size=500)
    stage = {"name": "never", "python": "never:Never", "config": {"good": good}, "inputs": {"x": "source.x"}}
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet"},
        pipeline=[stage],
        sink={"columns": {"x": "source.x", "y": "never.y"}},
        errors={"maxRejected": "1%", "nan": "reject"},
    )
    ran = site.run(job, "--workers", str(workers))
    assert ran.code == 1, ran.text
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed"]
    assert failed["reason"] == reason, failed["message"]
    assert ("stage 'never': NaN for all " in failed["message"]) == (reason == "ModelFailed")
    assert "errors.maxRejected allows 1.0000%" in failed["message"]
