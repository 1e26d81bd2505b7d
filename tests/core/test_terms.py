"""The lessee's lease clock: it stops trusting before the lessor does."""

from sidecar.core.terms import MARGIN_SHARE, Terms

TTL_S = 10.0


def test_trust_counts_from_the_start_of_the_call_minus_a_margin() -> None:
    terms = Terms(TTL_S, 60.0)
    assert not terms.is_trusted(0.0)
    terms.renewed(asked_at=100.0, heard_at=107.0)
    assert terms.trusted_until == 100.0 + TTL_S * (1 - MARGIN_SHARE)
    assert terms.is_trusted(107.9)
    assert not terms.is_trusted(108.0)


def test_a_late_answer_never_shortens_trust() -> None:
    terms = Terms(TTL_S, 60.0)
    terms.renewed(asked_at=100.0, heard_at=101.0)
    terms.renewed(asked_at=50.0, heard_at=102.0)
    assert terms.is_trusted(107.0)


def test_a_coordinator_that_is_heard_isnt_given_up_and_isnt_trusted_longer() -> None:
    terms = Terms(TTL_S, 60.0)
    terms.renewed(asked_at=100.0, heard_at=101.0)
    terms.heard(150.0)
    assert not terms.is_trusted(150.0)
    assert not terms.is_abandoned(210.0)
    assert terms.is_abandoned(210.1)
