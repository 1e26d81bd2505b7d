"""The sidecar's client counts trust from the first try of a call, and not at all from one that took nothing."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from headrace import v1
from headrace.channel import listen_unix
from sidecar.coordinator_client import CoordinatorClient, Report
from sidecar.core.terms import MARGIN_SHARE, Terms

TTL_S = 10.0


class Coordinator(v1.WorkerServiceBase):
    """Loses its first answers, as one does that is killed after its decision."""

    def __init__(self) -> None:
        self.lost = 0  # answers to come
        self.directive = ""
        self.asked_at: list[float] = []

    async def exchange(self, exchange_request: v1.ExchangeRequest) -> v1.ExchangeReply:
        self.asked_at.append(asyncio.get_running_loop().time())
        if self.lost > 0:
            self.lost -= 1
            raise GRPCError(Status.UNAVAILABLE, "gone")
        return v1.ExchangeReply(directive=self.directive)


def run(folder: Path, test: Callable[[Coordinator, CoordinatorClient], Coroutine[Any, Any, None]]) -> None:
    async def with_both() -> None:
        coordinator = Coordinator()
        server = Server([coordinator])
        await server.start(sock=listen_unix(folder / "socket"))
        client = CoordinatorClient(f"unix:{folder / 'socket'}", None, "w1", "i1", "")
        try:
            await test(coordinator, client)
        finally:
            client.close()
            server.close()
            await server.wait_closed()

    asyncio.run(asyncio.wait_for(with_both(), 20))


def test_trust_counts_from_the_first_try_whose_answer_was_lost(tmp_path: Path) -> None:
    async def test(coordinator: Coordinator, client: CoordinatorClient) -> None:
        begun = asyncio.get_running_loop().time()
        terms = Terms(TTL_S, 60.0, heard_at=begun)
        coordinator.lost = 3
        await client.exchange(Report(), terms)
        assert len(coordinator.asked_at) == 4
        # That try's decision may be the one that renewed; the answer to the others is the same one again.
        assert begun <= terms.trusted_until - TTL_S * (1 - MARGIN_SHARE) <= coordinator.asked_at[0]
        assert terms.heard_at >= coordinator.asked_at[-1]

    run(tmp_path, test)


def test_an_answer_that_took_nothing_renews_nothing(tmp_path: Path) -> None:
    async def test(coordinator: Coordinator, client: CoordinatorClient) -> None:
        terms = Terms(TTL_S, 60.0)
        coordinator.directive = "register"
        assert (await client.exchange(Report(), terms)).directive == "register"
        assert terms.trusted_until == float("-inf")
        assert terms.heard_at >= coordinator.asked_at[0]

    run(tmp_path, test)
