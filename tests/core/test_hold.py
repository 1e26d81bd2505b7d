"""How much a worker may hold."""

from coordinator.core.hold import SHARD_S, Grantable, next_grant


def grant(
    *,
    rate: float | None = 100.0,
    units_held: int = 0,
    leases_held: int = 0,
    units_pending: int = 1_000_000,
    units_min: int = 10,
    workers: int = 1,
    interval_s: float = 2.0,
    fleet_rate: float | None = None,
) -> Grantable | None:
    return next_grant(
        rate=rate,
        units_held=units_held,
        leases_held=leases_held,
        units_pending=units_pending,
        units_min=units_min,
        workers=workers,
        interval_s=interval_s,
        fleet_rate=fleet_rate,
    )


def test_first_grants_are_small_and_two() -> None:
    first = grant(rate=None)
    assert first
    assert first.units_max <= 1_000_000 / 16
    assert grant(rate=None, leases_held=1, units_held=first.units_max) == first
    assert grant(rate=None, leases_held=2) is None


def test_first_grants_of_many_workers_are_so_small_that_a_tenth_of_the_speed_delays_by_a_few_percent() -> None:
    first = grant(rate=None, workers=10)
    assert first
    assert 2 * 10 * first.units_max <= 0.04 * 1_000_000 / 10
    assert grant(rate=None, workers=10, units_min=1_000) == Grantable(1_000)
    assert grant(rate=None, workers=10, units_min=50_000) == Grantable(3_125), "many units may be few bytes"
    assert grant(rate=None, workers=10, units_pending=1_000, units_min=1_000) == Grantable(31), "a small job is shared"


def test_the_smallest_size_is_for_work_of_unknown_length() -> None:
    assert grant(rate=1.0, units_min=1_000) == Grantable(10), "ten seconds are worth a grant, however few bytes"


def test_near_the_end_a_slow_workers_share_lasts_as_long_as_a_fast_ones() -> None:
    fast, slow = (grant(rate=rate, units_pending=3_000, workers=2, fleet_rate=1_000.0) for rate in (900.0, 100.0))
    assert (fast, slow) == (Grantable(1_350), Grantable(150)), "1.5 s of each"
    assert grant(rate=1_100.0, units_pending=3_000, fleet_rate=1_000.0) == Grantable(1_500), "never more than all"


def test_a_grant_is_some_seconds_of_the_workers_work() -> None:
    assert grant(rate=100.0) == Grantable(int(100 * SHARD_S))
    assert grant(rate=5000.0) == Grantable(int(5000 * SHARD_S))


def test_a_worker_holds_an_interval_beyond_what_it_does() -> None:
    assert grant(rate=100.0, leases_held=2, units_held=399) is not None
    assert grant(rate=100.0, leases_held=2, units_held=400) is None
    assert grant(rate=100.0, leases_held=1, units_held=5000) is not None, "something to do when the one is done"


def test_grants_shrink_towards_the_end_but_not_below_what_is_worth_it() -> None:
    sizes = []
    pending = 10_000
    while pending > 0:
        made = grant(rate=100.0, units_pending=pending, workers=4)
        assert made
        sizes.append(min(made.units_max, pending))
        pending -= sizes[-1]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 1000
    assert min(sizes[:-1]) == 50, "half a second of its work"


def test_near_the_end_a_worker_keeps_less_ahead() -> None:
    assert grant(rate=100.0, leases_held=2, units_held=250, units_pending=1_000, workers=10) is None


def test_nothing_pending_is_nothing_to_grant_but_an_empty_shard() -> None:
    assert grant(units_pending=0, leases_held=1) is None
    assert grant(units_pending=0) is not None
