"""What may follow what between the sidecar and one predictor, as seen from either end.

Both sides keep the same states; a message that its state doesn't have is a ProtocolError where it arrives and a
programmer's error (AssertionError) where it would be sent::

    STARTING --Hello--> GREETED --Arena--> MAPPED --Load--> LOADING --Ready--> READY --Closing--> CLOSED
                                                               \\------Failed---------------------> CLOSED

In READY: the sidecar sends at most CREDITS batches beyond those answered; each is answered once, by Result or Error;
before it, NeedSpace may ask for a larger region, once, and Space answers that; a Space of no bytes means that the
result is to be forgotten.

Not here: bytes (`frames`), sockets and deadlines (`sidecar.predictors`, `predictor.serving`).
"""

from typing import Dict, Tuple

from .columns import ALIGNMENT, Column
from .frames import ProtocolError, encode, is_within
from .messages import (
    Arena,
    Batch,
    Closing,
    Error,
    Failed,
    Hello,
    Load,
    Message,
    NeedSpace,
    Ready,
    Result,
    Space,
)

CREDITS = 2
"""Batches a predictor may hold: the one it works on, and the next, so that it never waits for the sidecar."""

STARTING, GREETED, MAPPED, LOADING, READY, CLOSED = "STARTING", "GREETED", "MAPPED", "LOADING", "READY", "CLOSED"


class _Granted:
    """A batch that was sent and not answered: where its result may lie."""

    __slots__ = ("asked", "begin", "end", "rows")

    def __init__(self, rows: int, begin: int, nbytes: int) -> None:
        self.rows = rows
        self.begin = begin
        self.end = begin + nbytes
        self.asked = 0  # bytes of a NeedSpace that wasn't answered


class SidecarSession:
    """The sidecar's end: sends Arena, Load, Batch, Space and Closing."""

    def __init__(self, stage: str, predictor: int, arena_nbytes: int) -> None:
        self.state = STARTING
        self._stage = stage
        self._predictor = predictor
        self._arena_nbytes = arena_nbytes
        self._granted: Dict[int, _Granted] = {}

    @property
    def executing(self) -> Tuple[int, ...]:
        """Batches sent and not answered, in the order in which they were sent."""
        return tuple(self._granted)

    @property
    def credits(self) -> int:
        """How many batches may be sent now."""
        return CREDITS - len(self._granted) if self.state == READY else 0

    def send(self, message: Message) -> bytes:
        """The bytes to send; AssertionError where this message has no place now."""
        if type(message) is Batch:
            assert self.credits > 0, f"a batch in {self.state} with {len(self._granted)} before it"
            assert message.batch not in self._granted, f"batch {message.batch} twice"
            assert message.out_offset % ALIGNMENT == 0, "a region that isn't aligned"
            assert message.out_offset + message.out_nbytes <= self._arena_nbytes, "a region beyond the arena"
            self._granted[message.batch] = _Granted(message.rows, message.out_offset, message.out_nbytes)
        elif isinstance(message, Space):
            granted = self._granted[message.batch]
            if message.nbytes == 0:
                assert granted.asked, "only a result that waits can be forgotten"
                del self._granted[message.batch]
                return encode(message)
            assert 0 < granted.asked <= message.nbytes, f"{message.nbytes} bytes given, {granted.asked} asked for"
            assert message.offset + message.nbytes <= self._arena_nbytes, "a region beyond the arena"
            granted.begin, granted.end, granted.asked = message.offset, message.offset + message.nbytes, 0
        elif isinstance(message, Arena):
            self._step(GREETED, MAPPED)
        elif isinstance(message, Load):
            self._step(MAPPED, LOADING)
        else:
            assert isinstance(message, Closing), f"the sidecar doesn't send {message}"
            self.state = CLOSED
        return encode(message)

    def receive(self, message: Message) -> None:
        """Takes one message of the predictor.

        Raises:
            ProtocolError: it has no place now, or names memory that wasn't granted for it.
        """
        if type(message) is Result:
            granted = self._answered(message, message.batch)
            for name, column in message.columns.items():
                if column.rows != granted.rows:
                    raise ProtocolError(f"output {name} of batch {message.batch}: {column.rows} rows of {granted.rows}")
                if not is_within(column, granted.begin, granted.end):
                    raise ProtocolError(f"output {name} of batch {message.batch} lies outside its region")
        elif isinstance(message, Error):
            self._answered(message, message.batch)
        elif isinstance(message, NeedSpace):
            asking = self._granted.get(message.batch)
            if self.state != READY or asking is None or asking.asked or message.nbytes <= asking.end - asking.begin:
                raise ProtocolError(f"{message} has no place here")
            asking.asked = message.nbytes
        elif isinstance(message, Hello):
            self._expect(message, STARTING)
            if (message.stage, message.predictor) != (self._stage, self._predictor):
                raise ProtocolError(f"predictor {message.predictor} of {message.stage}, not the one asked for")
            self.state = GREETED
        elif isinstance(message, Ready):
            self._expect(message, LOADING)
            self.state = READY
        elif isinstance(message, Failed):
            self._expect(message, LOADING)
            self.state = CLOSED
        else:
            raise ProtocolError(f"{type(message).__name__} from a predictor")

    def _answered(self, message: Message, batch: int) -> _Granted:
        self._expect(message, READY)
        granted = self._granted.pop(batch, None)
        if granted is None:
            raise ProtocolError(f"an answer to batch {batch}, which it doesn't have")
        if granted.asked:
            raise ProtocolError(f"an answer to batch {batch} before the space it asked for")
        return granted

    def _expect(self, message: Message, state: str) -> None:
        if self.state != state:
            raise ProtocolError(f"{type(message).__name__} in {self.state}")

    def _step(self, before: str, after: str) -> None:
        assert self.state == before, f"{after} from {self.state}"
        self.state = after


class PredictorSession:
    """The predictor's end: sends Hello, Ready or Failed, and then answers batches."""

    def __init__(self) -> None:
        self.state = STARTING
        self._arena_nbytes = 0
        self._batches: Dict[int, int] = {}  # batch → bytes asked for and not yet given

    def send(self, message: Message) -> bytes:
        """The bytes to send; AssertionError where this message has no place now."""
        if type(message) is Result or isinstance(message, Error):
            assert self._batches.pop(message.batch) == 0, f"an answer to batch {message.batch} before its space"
        elif isinstance(message, NeedSpace):
            assert self._batches[message.batch] == 0, f"batch {message.batch} asks twice"
            self._batches[message.batch] = message.nbytes
        elif isinstance(message, Hello):
            self._step(STARTING, GREETED)
        elif isinstance(message, Ready):
            self._step(LOADING, READY)
        else:
            assert isinstance(message, Failed), f"a predictor doesn't send {message}"
            self._step(LOADING, CLOSED)
        return encode(message)

    def receive(self, message: Message) -> None:
        """Takes one message of the sidecar.

        Raises:
            ProtocolError: it has no place now, or names memory beyond the arena.
        """
        if type(message) is Batch:
            self._expect(message, READY)
            if message.batch in self._batches or len(self._batches) >= CREDITS:
                raise ProtocolError(f"batch {message.batch} twice, or beyond the credits")
            if message.out_offset + message.out_nbytes > self._arena_nbytes:
                raise ProtocolError(f"batch {message.batch}: its region lies beyond the arena")
            for name, named in message.inputs.items():
                if not all(self._has(column) for column in named):
                    raise ProtocolError(f"batch {message.batch}: input {name} lies beyond the arena")
            self._batches[message.batch] = 0
        elif isinstance(message, Space):
            self._expect(message, READY)
            asked = self._batches.get(message.batch, 0)
            if asked and message.nbytes == 0:
                del self._batches[message.batch]
                return
            if not 0 < asked <= message.nbytes or message.offset + message.nbytes > self._arena_nbytes:
                raise ProtocolError(f"{message} has no place here")
            self._batches[message.batch] = 0
        elif isinstance(message, Arena):
            self._expect(message, GREETED)
            self._arena_nbytes = message.nbytes
            self.state = MAPPED
        elif isinstance(message, Load):
            self._expect(message, MAPPED)
            self.state = LOADING
        elif isinstance(message, Closing):
            self.state = CLOSED
        else:
            raise ProtocolError(f"{type(message).__name__} from the sidecar")

    def _has(self, column: Column) -> bool:
        return is_within(column, 0, self._arena_nbytes)

    def _expect(self, message: Message, state: str) -> None:
        if self.state != state:
            raise ProtocolError(f"{type(message).__name__} in {self.state}")

    def _step(self, before: str, after: str) -> None:
        assert self.state == before, f"{after} from {self.state}"
        self.state = after
