"""A predictor's life after its fork: greet, map the arena, load, warm up, then batch after batch until the end.

One thread, blocking reads: the next batch is usually there already when one is answered (two credits).

Not here: what may follow what (`headrace.local.session`), who starts and ends this (`host`, `children`).
"""

import socket
from collections import deque
from time import perf_counter
from typing import Any, Callable, Deque, Mapping, Optional

from .inputs import InputReader
from .loaders import Model, load
from .local import frames, messages, session
from .mapping import ArenaMap
from .outputs import Region, checked, nbytes_needed
from .stage import stage_from_json
from .tracebacks import stage_error

READ_BYTES = 64 << 10
"""Many frames; below what malloc would map and unmap for every read."""
FIRST_READ_TIMEOUT_S = 60.0
"""For the arena: the sidecar answers a Hello at once."""


class Closed(Exception):
    """The sidecar closed the connection, or asked for the end."""


class Serving:
    """One predictor on one connection."""

    def __init__(self, connection: socket.socket, predictor: int, stage: str) -> None:
        self._connection = connection
        self._predictor = predictor
        self._stage = stage
        self._session = session.PredictorSession()
        self._decoder = frames.Decoder()
        self._waiting: Deque[messages.Message] = deque()

    def run(self, pid: int) -> int:
        """Serves until the end; returns the exit status: 0 when asked to leave, 1 when the stage can't be loaded.

        Raises:
            ProtocolError: the sidecar sent garbage.
            OSError: the connection broke.
        """
        try:
            self._send(messages.Hello(self._predictor, pid, self._stage))
            arena = self._map_arena()
            loading = self._next()
            assert isinstance(loading, messages.Load)
            try:
                batches = _Batches(loading.stage, arena)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is the answer
                self._send(messages.Failed(stage_error(error)))
                return 1
            self._send(batches.ready)
            while True:
                batch = self._next()
                assert isinstance(batch, messages.Batch)
                answer = batches.answer(batch, self._wait_space)
                if answer is not None:
                    self._send(answer)
        except Closed:
            return 0

    def _map_arena(self) -> ArenaMap:
        self._connection.settimeout(FIRST_READ_TIMEOUT_S)
        data, fds, _, _ = socket.recv_fds(self._connection, READ_BYTES, 1)
        self._connection.settimeout(None)
        self._take(data)
        arena = self._next()
        if not isinstance(arena, messages.Arena) or not fds:
            raise frames.ProtocolError("no arena in the first frame")
        return ArenaMap(fds[0], arena.nbytes)

    def _wait_space(self, asking: messages.NeedSpace) -> messages.Space:
        """Asks for space and waits for it; the next batch may come before it and is kept."""
        self._send(asking)
        earlier: Deque[messages.Message] = deque()
        while True:
            message = self._next()
            if isinstance(message, messages.Space):
                self._waiting.extendleft(reversed(earlier))
                return message
            earlier.append(message)

    def _send(self, message: messages.Message) -> None:
        try:
            self._connection.sendall(self._session.send(message))
        except BrokenPipeError:
            raise Closed from None

    def _next(self) -> messages.Message:
        while not self._waiting:
            self._take(self._connection.recv(READ_BYTES))
        message = self._waiting.popleft()
        if isinstance(message, messages.Closing):
            raise Closed
        return message

    def _take(self, data: bytes) -> None:
        if not data:
            raise Closed
        for message in self._decoder.feed(data):
            self._session.receive(message)
            self._waiting.append(message)


class _Batches:
    """The loaded stage, and how it answers a batch."""

    def __init__(self, text: str, arena: ArenaMap) -> None:
        begin = perf_counter()
        stage = stage_from_json(text)
        self._arena = arena
        self._model: Model = load(stage)
        self._read: Callable[[messages.Batch], Any]
        if stage.as_arrow:
            from .arrow_inputs import ArrowReader

            self._read = ArrowReader(stage, arena).read
        else:
            self._read = InputReader(stage, arena).read
        loaded = perf_counter()
        self._model.warm_up()
        self.ready = messages.Ready(self._model.specs, loaded - begin, perf_counter() - loaded)

    def answer(
        self, batch: messages.Batch, wait_space: Callable[[messages.NeedSpace], messages.Space]
    ) -> Optional[messages.Message]:
        """Runs a batch: its Result, or its Error if the stage raised or returned what can't be used.

        None: the result needed more space than there is and is forgotten.
        """
        region = Region(self._arena, batch.out_offset, batch.out_nbytes)
        try:
            inputs = self._read(batch)
            begin = perf_counter()
            returned: Mapping[str, Any] = self._model.run(inputs, batch.rows, region)
            busy_s = perf_counter() - begin
            outputs = checked(returned, batch.rows)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is the answer
            return messages.Error(batch.batch, stage_error(error))
        needed = nbytes_needed(outputs)
        if needed > batch.out_nbytes:
            space = wait_space(messages.NeedSpace(batch.batch, needed))
            if space.nbytes == 0:
                return None
            region = Region(self._arena, space.offset, space.nbytes)
        return messages.Result(batch.batch, busy_s, {n: region.write(n, output) for n, output in outputs.items()})
