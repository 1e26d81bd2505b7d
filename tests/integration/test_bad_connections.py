"""A worker on the other side of a bad connection: nothing is lost, nothing comes twice, little is done again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.words import ExitCode
from tests.integration.by_hand_fixture import ROWS, ByHand
from tests.integration.faults_fixture import wait_for
from tests.integration.proxy_fixture import BadBytes, BadCalls

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ByHand]:
    made = ByHand(tmp_path)
    made.start_coordinator()
    yield made
    made.end()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_calls_that_are_lost_late_doubled_and_reordered_cost_no_row(site: ByHand, seed: int) -> None:
    proxy = BadCalls(site.folder / "proxy", site.address, seed)
    try:
        site.submit(pauses={"far": 0.03, "near": 0.03})
        worker = site.start_worker("far", proxy.address)
        site.wait_given("far")
        site.start_worker("near")
        site.wait_complete()
        site.assert_once(ROWS)
        assert worker.wait(timeout=30) == ExitCode.DONE
        assert len(proxy.happened) >= 4, proxy.happened
        assert max(shard.attempts for shard in site.shards()) == 0, "a bad connection is charged to no shard"
    finally:
        proxy.end()


def test_a_connection_that_is_cut_again_and_again_costs_nothing(site: ByHand) -> None:
    proxy = BadBytes(site.folder / "proxy", Path(site.address.removeprefix("unix:")), 1)
    try:
        site.submit(pauses={"far": 0.1})
        site.start_worker("far", proxy.address)
        site.wait_given("far")
        for count in range(2, 6):
            proxy.cut()
            wait_for("it has connected again", lambda count=count: proxy.connections >= count)
        site.wait_complete()
        site.assert_once(ROWS)
        assert set(site.given("far").values()) == {1}
    finally:
        proxy.end()


def test_a_connection_that_swallows_everything_is_given_up_before_the_lease_is_lost(site: ByHand) -> None:
    proxy = BadBytes(site.folder / "proxy", Path(site.address.removeprefix("unix:")), 1)
    try:
        site.submit()
        site.hold("far")
        site.start_worker("far", proxy.address)
        site.wait_given("far")
        proxy.swallow()
        wait_for("it has connected anew", lambda: proxy.connections == 2)
        site.let_go_of("far")
        site.wait_complete()
        site.assert_once(ROWS)
        assert set(site.given("far").values()) == {1}
        assert {shard.epoch for shard in site.shards()} == {1}
    finally:
        proxy.end()


def test_doubled_and_swapped_bytes_end_connections_and_change_nothing(site: ByHand) -> None:
    proxy = BadBytes(site.folder / "proxy", Path(site.address.removeprefix("unix:")), 5)
    try:
        site.submit(pauses={"far": 0.05})
        site.start_worker("far", proxy.address)
        site.wait_given("far")
        proxy.garble(0.2)
        wait_for("connections have ended of it", lambda: proxy.connections >= 5)
        proxy.garble(0.0)
        proxy.cut()
        site.wait_complete()
        site.assert_once(ROWS)
        assert site.workers["far"].wait(timeout=30) == ExitCode.DONE
    finally:
        proxy.end()
