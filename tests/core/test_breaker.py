"""When a job pauses for its store: in virtual time."""

from coordinator.core.breaker import FIRST_S, MAX_S, PROBES, Breaker

AWAY = "s3://lake can't be read: the server answers 503"


def opened(at: float = 100.0) -> Breaker:
    breaker = Breaker()
    breaker.failed(1, granted_at=at - 10, now=at, text=AWAY)
    return breaker


def test_a_job_whose_store_answers_grants_what_it_likes() -> None:
    breaker = Breaker()
    for _ in range(100):
        assert breaker.allows(0.0)
        breaker.granted(0.0)


def test_an_outage_pauses_the_job_and_charges_nobody() -> None:
    breaker = Breaker()
    assert [breaker.failed(shard, 90.0, 100.0 + shard / 100, AWAY) for shard in range(20)] == [False] * 20
    assert breaker.is_open
    assert not breaker.allows(100.2)
    assert breaker.allows(100.0 + FIRST_S)
    assert breaker.text == AWAY


def test_pauses_grow_to_the_longest_and_each_ends_with_a_few_leases() -> None:
    breaker = opened()
    now, pauses = 100.0, []
    for _ in range(12):
        pauses.append(breaker.retry_at - now)
        now = breaker.retry_at
        granted = 0
        while breaker.allows(now) and granted < 50:
            breaker.granted(now)
            granted += 1
        assert granted == PROBES
        for shard in range(granted):
            assert not breaker.failed(shard, granted_at=now, now=now + 5.0, text=AWAY)
        now += 5.0
    assert pauses[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert pauses[-1] == MAX_S


def test_what_was_read_before_the_outage_says_nothing_about_it() -> None:
    breaker = opened(100.0)
    breaker.worked(granted_at=95.0, now=101.0)
    assert breaker.is_open
    breaker.worked(granted_at=101.5, now=102.0)
    assert not breaker.is_open


def test_a_store_that_is_back_starts_with_short_pauses_again() -> None:
    breaker = opened(100.0)
    for at in (102.0, 106.0, 120.0):
        breaker.failed(1, granted_at=at, now=at, text=AWAY)
    breaker.worked(granted_at=130.0, now=131.0)
    breaker.failed(2, granted_at=140.0, now=150.0, text=AWAY)
    assert breaker.retry_at == 150.0 + FIRST_S


def test_a_shard_that_fails_while_others_are_read_is_charged_from_the_second_time_on() -> None:
    breaker = Breaker()
    charges = []
    now = 100.0
    for _ in range(4):
        charges.append(breaker.failed(7, granted_at=now, now=now + 1, text="one object answers 500"))
        breaker.worked(granted_at=now + 2, now=now + 3)
        now += 10.0
    assert charges == [False, True, True, True]


def test_probes_that_never_answer_are_followed_by_others() -> None:
    breaker = opened(100.0)
    now = breaker.retry_at
    for _ in range(PROBES):
        breaker.granted(now)
    assert not breaker.allows(now)
    assert breaker.allows(now + MAX_S)
