"""Rates and when a job will end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.estimate import Estimate


def observed(rates: list[float], *, step_s: float = 1.0) -> Estimate:
    """An estimate after one span of each rate (units/s; ten rows a unit)."""
    estimate = Estimate()
    done = 0.0
    estimate.observe(0.0, 0, 0)
    for i, rate in enumerate(rates, 1):
        done += rate * step_s
        estimate.observe(i * step_s, done, done * 10)
    return estimate


def test_nothing_is_promised_before_enough_is_seen() -> None:
    assert Estimate().eta(100) is None
    assert Estimate().rows_per_second == 0.0
    assert observed([10.0, 10.0]).eta(100) is None
    assert observed([0.0] * 20).eta(100) is None


def test_a_steady_rate_narrows_the_range() -> None:
    early, late = observed([10.0] * 3).eta(1000), observed([10.0] * 60).eta(1000)
    assert early
    assert late
    assert late.high_s <= late.low_s * 4 / 3
    assert early.high_s > early.low_s * 4 / 3
    assert early.low_s < late.low_s < 100.0 < late.high_s < early.high_s


def test_a_rate_that_jumps_about_keeps_the_range_wide() -> None:
    steady, wild = observed([10.0] * 12).eta(1000), observed([2.0, 18.0] * 6).eta(1000)
    assert steady
    assert wild
    assert wild.high_s - wild.low_s > 2 * (steady.high_s - steady.low_s)


def test_rates_are_of_the_last_minute() -> None:
    estimate = observed([1.0] * 100 + [10.0] * 61)
    assert estimate.units_per_second == pytest.approx(10.0, rel=0.02)
    assert estimate.rows_per_second == pytest.approx(100.0, rel=0.02)


def test_many_observations_a_second_are_as_good_as_one() -> None:
    often, seldom = observed([10.0] * 3000, step_s=0.01).eta(1000), observed([10.0] * 30).eta(1000)
    assert often
    assert seldom
    assert (often.low_s, often.high_s) == pytest.approx((seldom.low_s, seldom.high_s), rel=0.1)


def test_a_pause_forgets_what_was_seen() -> None:
    estimate = observed([10.0] * 10)
    estimate.pause()
    assert estimate.eta(100) is None


@given(
    rates=st.lists(st.floats(0, 1e6), max_size=100),
    left=st.integers(0, 10**12),
)
def test_the_range_is_always_in_order(rates: list[float], left: int) -> None:
    eta = observed(rates).eta(left)
    if eta is not None:
        assert 0 <= eta.low_s <= eta.high_s
