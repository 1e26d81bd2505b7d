"""`headrace run` with rows that break their predictor: exactly these are rejected, whatever they do to it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults_fixture import Faults
from tests.integration.run_fixture import Ran

pytestmark = pytest.mark.slow

ROWS = 2000
STAGES = '''
import ctypes
import os
import sys
import time

import numpy as np


class Fragile:
    """Doubles ids; `poison` says what it does on which ids."""

    def __init__(self, folder="", **poison):
        self.folder = folder
        self.poison = {kind: set(ids) for kind, ids in poison.items()}

    def __call__(self, batch):
        ids = batch["id"]
        y = ids * 2.0
        keep = np.ones(len(ids), bool)
        if self.folder:
            open(os.path.join(self.folder, f"tried-{os.getpid()}-{time.monotonic_ns()}"), "w").close()
        for kind, bad in self.poison.items():
            hit = [i for i, id in enumerate(ids.tolist()) if id in bad]
            if not hit:
                continue
            print(f"{kind} at {ids[hit[0]]}", file=sys.stderr)
            if kind == "segfault":
                ctypes.string_at(0)
            elif kind == "exit":
                os._exit(7)
            elif kind == "abort":
                os.abort()
            elif kind == "hang":
                time.sleep(3600)
            elif kind == "oom":
                os.kill(os.getpid(), 9)  # as the kernel's memory killer does
            elif kind == "memory":
                raise MemoryError(f"for {len(ids)} rows")
            elif kind == "raise":
                raise ValueError(f"id {ids[hit[0]]} is not for me")
            elif kind == "nan":
                y[hit] = np.nan
            elif kind == "drop":
                keep[hit] = False
        return {"y": y[keep]}


class Whole:
    """What it gives is one row for a batch."""

    def __call__(self, batch):
        return {"y": batch["id"].mean(keepdims=True)}


class Sticky:
    """Works until it has seen an id for the first time; from then on this process fails on everything."""

    def __init__(self, folder, breaks_at):
        self.path = os.path.join(folder, "broken")
        self.breaks_at = breaks_at
        self.is_broken = False

    def __call__(self, batch):
        ids = batch["id"]
        if self.breaks_at in ids and not os.path.exists(self.path):
            open(self.path, "w").close()
            self.is_broken = True
        if self.is_broken:
            raise RuntimeError("an illegal memory access was encountered")
        return {"y": ids * 2}


class SlowStarter:
    """Its constructor fails as often as it is told, where the job runs."""

    def __init__(self, folder, failures):
        path = os.path.join(folder, "starts")
        with open(path, "ab", buffering=0) as file:
            file.write(b".")
        if os.environ["HEADRACE_WORKER"] != "probe" and os.path.getsize(path) <= failures:
            print("the weights are not here yet", file=sys.stderr)
            os._exit(3)

    def __call__(self, batch):
        return {"y": batch["id"] * 2}


class Hopeless:
    """Fails on everything, in the way it is told."""

    def __init__(self, folder, how):
        self.folder = folder
        self.how = how

    def __call__(self, batch):
        open(os.path.join(self.folder, f"tried-{os.getpid()}-{time.monotonic_ns()}"), "w").close()
        print("the weights are for another machine", file=sys.stderr)
        if self.how == "segfault":
            ctypes.string_at(0)
        raise RuntimeError("no kernel image is available")
'''


class Poisoned(Faults):
    """A site with rows and stages that break."""

    def poisoned(
        self, stage: str, config: dict[str, Any], *, rows: int | str = "auto", predictors: int = 2, **spec: Any
    ) -> Path:
        only = {
            "name": "only",
            "python": f"poison:{stage}",
            "inputs": {"id": "source.id"},
            "config": config,
            "batch": {"rows": rows},
            "predictors": {"min": predictors, "max": predictors},
        }
        return self.job(
            source={"format": "parquet", "uri": "ids-*.parquet"},
            pipeline=[only],
            sink={"columns": {"id": "source.id", "y": "only.y"}},
            **spec,
        )

    def rejected(self) -> dict[int, tuple[str, str, int]]:
        """Class, stage and address of each rejected id."""
        return {row["id"]: (row["_class"], row["_stage"], row["_address"]) for row in self.rejects()}

    @property
    def tries(self) -> int:
        """How many pieces the stage was given."""
        return len(list(self.folder.glob("tried-*")))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Poisoned]:
    made = Poisoned(tmp_path)
    made.write("poison.py", STAGES)
    yield made
    made.end()


def failure(ran: Ran) -> tuple[str, str]:
    """Reason and message of a failed job."""
    assert ran.code == 1, ran.text
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed"]
    return failed["reason"], failed["message"]


CLASSES = {
    "segfault": "PredictorDied",
    "exit": "PredictorDied",
    "abort": "PredictorDied",
    "oom": "PredictorDied",
    "memory": "MemoryError",
    "raise": "ValueError",
    "nan": "NaN",
    "drop": "WrongRows",
}


@pytest.mark.parametrize("kind", ["segfault", "abort", "memory", "nan", "drop"])
def test_exactly_the_rows_that_break_a_predictor_are_rejected(site: Poisoned, kind: str) -> None:
    bad = [0, 17, 18, 1023, ROWS - 1]  # first, last, neighbours, several in one batch
    site.ids("ids-0.parquet", 0, ROWS)
    job = site.poisoned("Fragile", {kind: bad}, errors={"maxRejected": len(bad), "nan": "reject"})
    site.run_complete(job)
    site.assert_once(ROWS, rejected=bad)
    assert site.rejected() == {i: (CLASSES[kind], "only", i) for i in bad}
    assert all(row["_file"] == str(site.folder / "ids-0.parquet") for row in site.rejects())


def test_rows_that_hang_their_predictor_are_rejected(site: Poisoned) -> None:
    bad = [5, 30]
    site.ids("ids-0.parquet", 0, 32)
    job = site.poisoned(
        "Fragile", {"hang": bad}, rows=8, errors={"maxRejected": len(bad)}, retries={"batchTimeout": "500ms"}
    )
    document = site.run_complete(job)
    site.assert_once(32, rejected=bad)
    assert site.rejected() == {i: ("PredictorHung", "only", i) for i in bad}
    assert all("no answer within 0.5 s" in row["_message"] for row in site.rejects())
    assert document["stages"][0]["restarts"] >= 2 * 2


def test_poison_of_every_kind_in_every_batch_costs_exactly_these_rows(site: Poisoned) -> None:
    rows, batch = 1200, 100
    kinds = ["segfault", "exit", "abort", "oom", "memory", "raise", "nan", "drop"]
    poison: dict[str, list[int]] = {kind: [] for kind in kinds}
    for number, begin in enumerate(range(0, rows, batch)):
        poison[kinds[number % len(kinds)]].append(begin + 7 * number % batch)
        poison[kinds[(number + 3) % len(kinds)]].append(begin + (7 * number + 1) % batch)
    bad = sorted(i for ids in poison.values() for i in ids)
    site.ids("ids-0.parquet", 0, rows)
    job = site.poisoned("Fragile", poison, rows=batch, errors={"maxRejected": len(bad), "nan": "reject"})
    site.run_complete(job)
    site.assert_once(rows, rejected=bad)
    assert {i: found[0] for i, found in site.rejected().items()} == {
        i: CLASSES[kind] for kind, ids in poison.items() for i in ids
    }


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", ["RuntimeError: no kernel image is available", "poison.py", "raise RuntimeError"]),
        ("segfault", ["PredictorDied: it ended with signal 11", "the weights are for another machine"]),
    ],
)
def test_a_model_that_fails_on_everything_ends_the_job_early_with_its_own_words(
    site: Poisoned, how: str, words: list[str]
) -> None:
    site.ids("ids-0.parquet", 0, 50_000)
    reason, message = failure(site.run(site.poisoned("Hopeless", {"folder": str(site.folder), "how": how})))
    assert reason == "ModelFailed"
    assert message.startswith("stage 'only': it failed on every row that it was given")
    assert [word for word in words if word not in message] == []
    assert site.tries < 100, "nothing like the 50,000 rows was gone through"


def test_a_stage_that_gives_one_row_for_a_batch_ends_the_job(site: Poisoned) -> None:
    site.ids("ids-0.parquet", 0, 10)
    reason, message = failure(site.run(site.poisoned("Whole", {}, errors={"maxRejected": "100%"})))
    assert reason == "ModelFailed"
    assert "WrongRows: output y has 1 rows, the batch has " in message
    assert "for each part of a batch, but not for the batch" in message
    assert site.data_files() == []


def test_a_file_of_bad_rows_before_good_ones_is_no_failed_model(site: Poisoned) -> None:
    bad = list(range(1500))
    site.ids("ids-0.parquet", 0, 1500)
    site.ids("ids-1.parquet", 1500, 9000)
    site.run_complete(site.poisoned("Fragile", {"raise": bad}, errors={"maxRejected": 1500}))
    site.assert_once(10_500, rejected=bad)


def test_the_only_predictor_is_replaced_when_it_fails_on_everything(site: Poisoned) -> None:
    site.ids("ids-0.parquet", 0, 5000)
    config = {"folder": str(site.folder), "breaks_at": 2500}
    document = site.run_complete(site.poisoned("Sticky", config, predictors=1, errors={"maxRejected": 20}))
    assert document["stages"][0]["restarts"] == 1
    site.assert_once(5000, rejected=list(site.rejected()))


def test_a_start_that_fails_is_tried_again_later(site: Poisoned) -> None:
    site.ids("ids-0.parquet", 0, 100)
    site.run_complete(site.poisoned("SlowStarter", {"folder": str(site.folder), "failures": 4}))
    site.assert_once(100)


def test_a_model_that_never_starts_fails_the_job_with_its_last_words(site: Poisoned) -> None:
    site.ids("ids-0.parquet", 0, 100)
    reason, message = failure(site.run(site.poisoned("SlowStarter", {"folder": str(site.folder), "failures": 1000})))
    assert reason == "ModelLoadFailed"
    assert "it ended with status 3" in message
    assert "the weights are not here yet" in message


def test_a_predictor_does_not_hang_because_its_sidecar_was_stopped(site: Poisoned) -> None:
    job = site.gate_job(retries={"batchTimeout": "3s"})
    run = site.start_marked(job)
    site.wait_held()
    sidecar = site.the_process("-m sidecar")
    os.kill(sidecar, signal.SIGSTOP)
    time.sleep(4.0)  # longer than the deadline: what is tested is that this time doesn't count
    os.kill(sidecar, signal.SIGCONT)
    time.sleep(1.0)  # the watch looks four times
    site.let_go()
    document = site.finish_complete(run)
    assert document["stages"][0]["restarts"] == 0
    site.assert_once()
