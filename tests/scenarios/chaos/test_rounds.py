"""Sixty faults on real processes, and every id is in the output once."""

import secrets
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.scenarios.chaos.rounds import Round, RoundFailed, check_ids, play

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FAULTS = 60
PAUSE_S = 1.0


def test_sixty_faults_lose_no_id_and_double_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = secrets.randbelow(2**31)
    with capsys.disabled():
        print(f"\nchaos: seed {seed}; python -m tests.scenarios.chaos.rounds --pause {PAUSE_S} --seed {seed}")
    kinds: list[str] = []
    while len(kinds) < FAULTS:
        document = play(tmp_path / str(seed), Round.drawn(seed), pause_s=PAUSE_S)
        assert document["faults"], "a round without any fault shows nothing"
        kinds += [fault["kind"] for fault in document["faults"]]
        seed += 1
    assert len(set(kinds)) >= 8, kinds


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
        check_ids(tmp_path, Round(0, 1000, "parquet", 1, 1, "fail"))


def _table(ids: "np.ndarray[tuple[int], np.dtype[np.int64]]", results: object) -> pa.Table:
    return pa.table({"id": ids, "y": results})
