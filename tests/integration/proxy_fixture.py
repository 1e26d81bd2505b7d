"""Bad connections between a worker and its coordinator, each a server on a Unix socket in a thread of this process.

`BadCalls` speaks gRPC: it loses, delays, doubles and reorders whole calls and answers, by a seed. `BadBytes` forwards
the stream: it can cut it, swallow it (the connection stays and nothing comes through), and double or swap its pieces.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TypeVar

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from headrace import v1
from headrace.channel import listen_unix, open_channel

Request = TypeVar("Request")
Reply = TypeVar("Reply")

START_TIMEOUT_S = 10.0


class _Threaded:
    """Something on a loop of its own, in a thread."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix:{path}"
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=type(self).__name__, daemon=True)
        self._thread.start()
        self.call(self._start())

    def call(self, work: Awaitable[object]) -> None:
        """Runs something on the loop and waits for its end."""

        async def run() -> None:
            await work

        done: Future[None] = asyncio.run_coroutine_threadsafe(run(), self._loop)
        done.result(START_TIMEOUT_S)

    async def _start(self) -> None:
        raise NotImplementedError

    async def _stop(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Closes everything."""
        self.call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)


class BadCalls(_Threaded):
    """A worker service that forwards to the real one, badly."""

    def __init__(self, path: Path, coordinator: str, seed: int) -> None:
        self._coordinator = coordinator
        self._random = Random(seed)
        self.happened: dict[str, int] = {}
        self._channel: Channel
        self._server: Server
        super().__init__(path)

    async def _start(self) -> None:
        self._channel = open_channel(self._coordinator)
        self._server = Server([_BadWorkerService(self, v1.WorkerServiceStub(self._channel, timeout=5))])
        await self._server.start(sock=listen_unix(self._path))

    async def _stop(self) -> None:
        self._server.close()
        self._channel.close()

    async def forward(self, method: Callable[[Request], Awaitable[Reply]], request: Request) -> Reply:
        """Forwards one call, or not, or twice, now or later."""
        random = self._random
        fate = random.choices(
            ("well", "lost", "answer lost", "late", "doubled", "again later"), weights=(40, 8, 8, 15, 10, 10)
        )[0]
        self.happened[fate] = self.happened.get(fate, 0) + 1
        if fate == "lost":
            raise GRPCError(Status.UNAVAILABLE, "lost on the way")
        if fate == "late":
            await asyncio.sleep(random.uniform(0.0, 0.4))
        if fate == "doubled":
            first, second = await asyncio.gather(method(request), method(request))
            return random.choice((first, second))
        if fate == "again later":  # it overtakes nothing, but younger calls overtake its copy
            asyncio.get_running_loop().call_later(random.uniform(0.05, 0.5), self._again, method, request)
        reply = await method(request)
        if fate == "answer lost":
            raise GRPCError(Status.UNAVAILABLE, "its answer was lost")
        return reply

    def _again(self, method: Callable[[Request], Awaitable[Reply]], request: Request) -> None:
        async def call() -> None:
            with suppress(GRPCError, OSError):
                await method(request)

        task = self._loop.create_task(call())
        task.add_done_callback(lambda _: None)


class _BadWorkerService(v1.WorkerServiceBase):
    def __init__(self, calls: BadCalls, stub: v1.WorkerServiceStub) -> None:
        self._calls, self._stub = calls, stub

    async def register(self, register_request: v1.RegisterRequest) -> v1.RegisterReply:
        return await self._calls.forward(self._stub.register, register_request)

    async def exchange(self, exchange_request: v1.ExchangeRequest) -> v1.ExchangeReply:
        return await self._calls.forward(self._stub.exchange, exchange_request)


class BadBytes(_Threaded):
    """Forwards streams; what it does to them is set by its methods, from any thread."""

    def __init__(self, path: Path, target: Path, seed: int) -> None:
        self._target = target
        self._random = Random(seed)
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallowing: set[asyncio.StreamWriter] = set()
        self._garble_share = 0.0
        self.connections = 0
        self._server: asyncio.Server
        super().__init__(path)

    async def _start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def _stop(self) -> None:
        self._server.close()
        self._abort()

    def cut(self) -> None:
        """Ends all connections without a word."""
        self._loop.call_soon_threadsafe(self._abort)

    def swallow(self) -> None:
        """Nothing comes through the connections of now any more; new ones are good."""
        self._loop.call_soon_threadsafe(lambda: self._swallowing.update(self._writers))

    def garble(self, share: float) -> None:
        """From now on this share of the pieces is doubled, or swapped with the next."""
        self._garble_share = share

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        with suppress(OSError):
            await asyncio.gather(self._pipe(reader, far_writer), self._pipe(far_reader, writer))
        self._writers -= {writer, far_writer}
        self._swallowing -= {writer, far_writer}

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = b""
        while piece := await reader.read(2048):
            if writer in self._swallowing:
                continue
            if self._random.random() < self._garble_share:
                if self._random.random() < 0.5:
                    piece += piece
                else:
                    kept, piece = piece, b""
            writer.write(piece + kept if piece else b"")
            kept = kept if not piece else b""
            await writer.drain()
        writer.close()
