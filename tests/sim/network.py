"""The network between workers and the coordinator: it is late, and in its bad times it drops, doubles and reorders.

A call is a request and a reply. Who asks waits until its own time-out; a reply to a call that it gave up is dropped, as
by gRPC. The coordinator may get a request twice, long after, or never.

Not here: when a link is bad (`story`), what is asked (`worker_actor`).
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Protocol, TypeVar

from tests.sim.coordinator_actor import CoordinatorActor
from tests.sim.processes import Process

LATENCY_S = 0.05
"""Mean of one way; not the least that there is, so that idle workers ask less often than the world can run."""
SLOW_S = 3.0
TIMEOUT_S = 5.0
"""Of a call; shorter than the real one, as the leases are."""
DROPPED = 0.4
DOUBLED = 0.4

Reply = TypeVar("Reply")


class CallFailed(OSError):
    """No answer: the coordinator is away, the connection was cut, or time is up."""


@dataclass
class Link:
    """One worker's connection, as bad as it is now."""

    is_up_cut: bool = False  # requests are lost
    is_down_cut: bool = False  # replies are lost
    is_lossy: bool = False
    is_slow: bool = False
    is_doubling: bool = False


class Schedule(Protocol):
    """What the network needs of the world."""

    now: float
    random: Random

    def call_at(self, at: float, callback: Callable[[], None]) -> None:
        """Calls back at that time."""


class Network:
    """All links; `server` is the coordinator that lives now."""

    def __init__(self, world: Schedule) -> None:
        self.links: dict[str, Link] = {}
        self.server: CoordinatorActor | None = None
        self.in_flight = 0
        self._world = world
        self._numbers = itertools.count()

    async def call(self, caller: Process, ask: Callable[[CoordinatorActor], Awaitable[Reply]]) -> Reply:
        """Asks the coordinator, in the caller's loop.

        Raises:
            CallFailed: worth another try.
        """
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def fail() -> None:
            if not answered.done():
                answered.set_exception(CallFailed("connection lost"))

        def reply(value: Reply) -> None:
            if not answered.done():
                answered.set_result(value)

        async def serve(server: CoordinatorActor) -> None:
            value = await ask(server)
            self._send(caller, lambda: caller.deliver(partial(reply, value)), is_request=False)

        def arrive() -> None:
            server = self.server
            if server is None or server.process.is_dead:
                self._send(caller, lambda: caller.deliver(fail), is_request=False)
            else:
                server.process.deliver(lambda: server.process.spawn(serve(server)))

        self._send(caller, arrive, is_request=True)
        try:
            return await asyncio.wait_for(answered, TIMEOUT_S)
        except TimeoutError as error:
            raise CallFailed("no answer in time") from error

    def _send(self, worker: Process, arrive: Callable[[], None], *, is_request: bool) -> None:
        link, random = self.links.setdefault(worker.name, Link()), self._world.random
        if link.is_up_cut if is_request else link.is_down_cut:
            return
        if link.is_lossy and random.random() < DROPPED:
            return
        for _ in range(1 + (link.is_doubling and is_request and random.random() < DOUBLED)):
            late_s = random.expovariate(1 / LATENCY_S)
            if link.is_slow:
                late_s += random.uniform(0, SLOW_S)
            self.in_flight += 1
            self._world.call_at(self._world.now + late_s, partial(self._arrive, arrive))

    def _arrive(self, arrive: Callable[[], None]) -> None:
        self.in_flight -= 1
        arrive()
