"""Sixty faults on real processes, and every id is in the output once."""

import secrets
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.object_store.bucket_fixture import Fault
from tests.scenarios.chaos.rounds import Round, RoundFailed, check_ids, play
from tests.scenarios.chaos.storms import SEEN, SPELLS, Storm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FAULTS = 60
PAUSE_S = 1.0
ROUND_FAULTS = 24
"""Of its processes; then a round comes to its end soon."""
ROUND_FAULTS_LEAST = 8


def test_sixty_faults_lose_no_id_and_double_none(
    tmp_path: Path, s3_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = secrets.randbelow(2**31)
    with capsys.disabled():
        options = f"--pause {PAUSE_S} --round-faults {ROUND_FAULTS} --seed {seed}"
        print(f"\nchaos: seed {seed}; python -m tests.scenarios.chaos.rounds {options}")
    begun = time.monotonic()
    kinds: list[str] = []
    while len(kinds) < FAULTS:
        faults_max = max(min(ROUND_FAULTS, FAULTS - len(kinds)), ROUND_FAULTS_LEAST)
        document = play(tmp_path / str(seed), Round.drawn(seed), server=s3_url, pause_s=PAUSE_S, faults_max=faults_max)
        assert document["faults"], "a round without any fault shows nothing"
        kinds += [fault["kind"] for fault in document["faults"]]
        seed += 1
    with capsys.disabled():
        print(f"chaos: {len(kinds)} faults in {time.monotonic() - begun:.0f} s: {dict(Counter(kinds))}")
    assert len(set(kinds)) >= 10, kinds
    assert set(kinds) & set(SPELLS), kinds


def test_a_storm_draws_the_same_spells_again_and_is_over_with_the_output() -> None:
    clock = [0.0]
    storms = [Storm(7, now=lambda: clock[0]) for _ in range(2)]
    for step in range(600):
        clock[0] = 0.05 * step
        assert storms[0]("GET", "/b/in") == storms[1]("GET", "/b/in")
    told = storms[0].faults
    assert told == storms[1].faults
    assert len(told) >= 5
    while storms[0]("PUT", "/b/out/_SUCCESS") not in SEEN:
        pass
    for _ in range(600):
        clock[0] += 0.05
        assert storms[0]("GET", "/b/in") is Fault.PASS


@pytest.mark.parametrize("damage", ["missing", "twice", "wrong"])
def test_the_check_by_hand_sees_one_id_of_many(tmp_path: Path, damage: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    ids = np.arange(1000)
    pq.write_table(_table(ids, ids), tmp_path / "in" / "0.parquet")
    match damage:
        case "missing":
            out, results = ids[1:], ids[1:] * 3 + 1
        case "twice":
            out, results = np.append(ids, 7), np.append(ids * 3 + 1, 22)
        case _:
            out, results = ids, np.where(ids == 500, 0, ids * 3 + 1)
    pq.write_table(_table(out, results), tmp_path / "out" / "part.parquet")
    with pytest.raises(RoundFailed, match=damage):
        check_ids(tmp_path, Round(0, 1000, "parquet", 1, 1, "fail", is_in_bucket=False))


def _table(ids: "np.ndarray[tuple[int], np.dtype[np.int64]]", results: object) -> pa.Table:
    return pa.table({"id": ids, "y": results})
