"""`headrace run` with rows whose output is of another type than that of the rows beside them: these are rejected."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults_fixture import Faults

pytestmark = pytest.mark.slow

STAGES = '''
import os
import time

import numpy as np


class Words:
    """Text for each id, and by `odd` something else for some; raises on some. Waits until all `workers` have begun."""

    def __init__(self, odd=(), raises=(), folder="", workers=0):
        self.odd, self.raises, self.folder, self.workers = dict(odd), set(raises), folder, workers

    def wait_workers(self):
        if self.workers:
            open(os.path.join(self.folder, "at-" + os.environ["HEADRACE_WORKER"]), "w").close()
            while sum(name.startswith("at-") for name in os.listdir(self.folder)) < self.workers:
                time.sleep(0.005)

    def value(self, id):
        how = self.odd.get(str(id))
        odd = {"int": 5, "float": 2.5, "bytes": b"abc", "list": [1, 2], "empty": [], "null": None, "array": np.ones(3)}
        return odd[how] if how else f"id {id}"

    def __call__(self, batch):
        self.wait_workers()
        ids = batch["id"].tolist()
        if self.raises & set(ids):
            raise ValueError("not for me")
        y = np.empty(len(ids), object)
        for i, id in enumerate(ids):
            y[i] = self.value(id)
        return {"y": y}


class Length:
    """How long the text is; of what is no text, 0, or an exception."""

    def __init__(self, strict=False):
        self.strict = strict

    def __call__(self, batch):
        if self.strict and not all(isinstance(y, str) for y in batch["y"]):
            raise TypeError("no text")
        return {"n": np.array([len(y) if isinstance(y, str) else 0 for y in batch["y"]])}


class Numbers:
    """Objects: integers, but for those of `floats`; text for those of `odd`."""

    def __init__(self, floats, odd):
        self.floats, self.odd = set(floats), set(odd)

    def __call__(self, batch):
        ids = batch["id"].tolist()
        return {"y": np.array([str(i) if i in self.odd else i + 0.5 if i in self.floats else i for i in ids], object)}


class Rows:
    """Single values, but an array for those of `odd`; padded, as many as the batch's longest row takes."""

    def __init__(self, odd=(), pad=False, raises=()):
        self.odd, self.pad, self.raises = dict(odd), pad, set(raises)

    def __call__(self, batch):
        ids = batch["id"].tolist()
        if self.raises & set(ids):
            raise ValueError("not for me")
        if self.pad:
            return {"y": np.zeros((len(ids), 2 + max(i % 8 for i in ids)))}
        return {"y": np.array([[0.5] * self.odd[str(i)] if str(i) in self.odd else i / 2 for i in ids])}
'''


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Faults]:
    made = Faults(tmp_path)
    made.write("odd.py", STAGES)
    yield made
    made.end()


def job(
    site: Faults, rows: int, stage: str, config: dict[str, Any], *, more: tuple[Any, ...] = (), **spec: Any
) -> Path:
    """Ids through a stage with the output y; `more`: a stage behind it with the output n, that reads y."""
    width = 32  # so that 4,096 rows are a shard
    site.ids("ids.parquet", 0, rows, width=width)
    inputs = {"id": "source.id", "x": [f"source.f{i}" for i in range(width)]}
    columns = {"id": "source.id", "y": "first.y"} | ({"n": "then.n"} if more else {})
    return site.job(
        source={"format": "parquet", "uri": "ids.parquet"},
        pipeline=[{"name": "first", "python": f"odd:{stage}", "inputs": inputs, "config": config}, *more],
        sink={"columns": columns},
        **spec,
    )


def assert_rows(site: Faults, rows: int, expected: dict[int, dict[str, Any]]) -> None:
    """Every id is out, with its own values, or rejected; `expected` has those that are out."""
    report = site.verify()
    assert (report["rows_out"], report["rows_rejected"]) == (len(expected), rows - len(expected))
    table = site.rows().sort_by("id").to_pylist()
    assert table == [{"id": i, **expected[i]} for i in sorted(expected)]
    assert sorted(row["id"] for row in site.rejects()) == sorted(set(range(rows)) - expected.keys())


def told(site: Faults) -> dict[int, tuple[str, str, str]]:
    """Stage, class and message of each rejected id, whose address must be its row."""
    assert all(
        (row["_address"], row["_file"]) == (row["id"], str(site.folder / "ids.parquet")) for row in site.rejects()
    )
    return {row["id"]: (row["_stage"], row["_class"], row["_message"]) for row in site.rejects()}


def wrong(found: str, wanted: str, output: str = "y") -> tuple[str, str, str]:
    return ("first", "WrongType", f"output {output!r} is {found} for this row; it is {wanted} for the others")


TYPES = {
    "int": "int64",
    "float": "double",
    "bytes": "binary",
    "list": "list<item: int64>",
    "empty": "list<item: null>",
    "array": "list<item: double>",
}


@pytest.mark.parametrize("strict", [False, True])
def test_rows_of_another_type_are_rejected_alone_on_every_worker(site: Faults, strict: bool) -> None:
    rows = 8 * 4096
    # First, neighbours of one kind and of two, every kind, beside a row that raises, in every shard, last.
    odd = {0: "int", 17: "int", 18: "int", 19: "bytes", 1023: "list", 1500: "empty", 1600: "float", 1700: "array"}
    odd |= {5001: "int", 5003: "bytes", 9000: "list", 9001: "list", rows - 1: "int"}
    nulls, raises = {20: "null", 5002: "null"}, [5000, 7000]
    then = {"name": "then", "python": "odd:Length", "inputs": {"y": "first.y"}, "cast": {"y": {"fill": ""}}}
    if strict:
        then["config"] = {"strict": True}
    config = {"odd": {str(i): how for i, how in (odd | nulls).items()}, "raises": raises}
    config |= {"folder": str(site.folder), "workers": 2}
    count = len(odd) + len(raises)
    path = job(site, rows, "Words", config, more=(then,), errors={"maxRejected": count})

    document = site.run_complete(path, "--workers", "2")

    assert document["rows_rejected"] == count
    bad = {*odd, *raises}
    expected = {
        i: {"y": None if i in nulls else f"id {i}", "n": 0 if i in nulls else len(f"id {i}")} for i in range(rows)
    }
    assert_rows(site, rows, {i: row for i, row in expected.items() if i not in bad})
    found = told(site)
    assert {i: found[i][1] for i in raises} == dict.fromkeys(raises, "ValueError")
    for i, how in odd.items():
        assert found[i] == wrong(TYPES[how], "string") or (strict and found[i][:2] == ("then", "TypeError")), found[i]


def test_the_budget_counts_rows_of_another_type(site: Faults) -> None:
    config = {"odd": {"3": "int", "700": "bytes", "1100": "int"}}
    ran = site.run(job(site, 2048, "Words", config, errors={"maxRejected": 2}))
    assert ran.code == 1, ran.text
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed"]
    assert failed["reason"] == "ErrorBudgetExceeded", failed
    assert "WrongType" in failed["message"]


def test_numbers_of_a_batch_that_was_cut_have_the_type_that_the_whole_would_have_had(site: Faults) -> None:
    rows, floats, odd = 4096, list(range(0, 4096, 100)), [1, 40, 41, 2000]
    path = job(site, rows, "Numbers", {"floats": floats, "odd": odd}, errors={"maxRejected": len(odd)})
    site.run_complete(path)
    expected = {i: {"y": i + 0.5 if i in set(floats) else float(i)} for i in range(rows) if i not in odd}
    assert_rows(site, rows, expected)
    assert told(site) == dict.fromkeys(odd, wrong("string", "double"))


def test_rows_of_arrays_among_single_values_are_rejected_whatever_their_lengths(site: Faults) -> None:
    rows, odd = 2048, {3: 4, 4: 2, 1500: 3}
    config = {"odd": {str(i): length for i, length in odd.items()}}
    site.run_complete(job(site, rows, "Rows", config, errors={"maxRejected": len(odd)}))
    assert_rows(site, rows, {i: {"y": i / 2} for i in range(rows) if i not in odd})
    assert told(site) == {i: wrong(f"fixed_size_list<item: double>[{length}]", "double") for i, length in odd.items()}


def test_a_shape_that_depends_on_the_rows_beside_is_no_row_s_fault(site: Faults) -> None:
    path = job(site, 2048, "Rows", {"pad": True, "raises": [1500]}, errors={"maxRejected": "50%"})
    ran = site.run(path)
    assert ran.code == 1, ran.text
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed"]
    assert failed["reason"] == "SchemaMismatch"
    assert "Return a list of arrays" in failed["message"]


ALL_OF_A_BATCH = {str(i): "int" for i in range(1024, 2048)}


@pytest.mark.parametrize(
    ("stage", "config"),
    [("Words", {"odd": ALL_OF_A_BATCH}), ("Numbers", {"floats": [5], "odd": []})],
)
def test_a_whole_batch_of_another_type_fails_the_job(site: Faults, stage: str, config: dict[str, Any]) -> None:
    ran = site.run(job(site, 4096, stage, config, errors={"maxRejected": "100%"}))
    assert ran.code == 1, ran.text
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed"]
    assert failed["reason"] == "SchemaMismatch"
