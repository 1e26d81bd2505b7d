"""How often workers call: seldom enough for one core, often enough that their leases last."""

import pytest

from coordinator.core import pace


@pytest.mark.parametrize("workers", [1, 10, 300, 2_000, 10_000])
def test_a_fleet_of_any_size_keeps_one_core_free_and_its_leases(workers: int) -> None:
    calls = workers / pace.heartbeat_s(workers)
    assert calls <= pace.EXCHANGES_MAX
    assert workers / pace.idle_s(workers) <= max(pace.EXCHANGES_MAX, workers / pace.IDLE_S * (workers < 31))
    assert pace.lease_ttl_s(workers, 8.0) >= pace.LEASE_BEATS * pace.heartbeat_s(workers)


def test_a_small_fleet_has_short_times() -> None:
    assert (pace.heartbeat_s(10), pace.idle_s(10), pace.lease_ttl_s(10, 8.0)) == (1.0, 0.1, 8.0)
