"""Fleets of uneven workers in virtual time, shared by the real decisions (`benchmarks/fleet`); no faults.

The benchmark holds the figures, over larger fleets and longer jobs; the bounds here are looser, for jobs of minutes.
"""

import pytest

from benchmarks.fleet.run import Fleet
from benchmarks.fleet.speeds import Crowd
from benchmarks.fleet.worker import Costs


@pytest.mark.parametrize("workers", [1, 3, 30])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_job_of_ten_minutes_ends_close_to_the_fluid_bound(workers: int, seed: int) -> None:
    found = Fleet(workers, seed, fluid_s=600.0).run()
    assert 1.0 <= found.over_fluid <= 1.05, found
    if workers > 3:
        assert found.job_s <= 0.5 * found.even_s, found
        assert found.computed_twice <= 0.01, found


def test_few_bytes_of_a_slow_model_are_shared_as_well_as_many() -> None:
    found = Fleet(10, 0, fluid_s=600.0, row_bytes=20).run()
    assert found.over_fluid <= 1.05, found


def test_a_worker_that_all_but_stops_is_not_waited_for() -> None:
    crowd = Crowd(stragglers=0.0, calm_s=900.0, busy_s=150.0, busy_speed=(0.0005, 0.001))
    found = Fleet(10, 0, fluid_s=600.0, crowd=crowd).run()
    assert found.twins, found
    assert found.over_fluid <= 1.15, found


def test_what_is_not_read_yet_is_taken_over_by_a_split() -> None:
    crowd = Crowd(stragglers=0.0, calm_s=200.0, busy_s=600.0, busy_speed=(0.05, 0.1))
    found = Fleet(10, 0, fluid_s=600.0, crowd=crowd, costs=Costs(block_rows=500)).run()
    assert found.splits, found
    assert found.over_fluid <= 1.15, found


def test_a_seed_gives_one_job() -> None:
    assert Fleet(5, 7, fluid_s=120.0).run() == Fleet(5, 7, fluid_s=120.0).run()
