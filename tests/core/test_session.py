"""What may follow what between a sidecar and a predictor: both ends, driven against each other."""

import pytest

from headrace.local.columns import DTYPES, TENSOR, Column
from headrace.local.frames import Decoder, ProtocolError
from headrace.local.messages import (
    Arena,
    Batch,
    Closing,
    Control,
    Error,
    Failed,
    Hello,
    Load,
    Message,
    NeedSpace,
    Ready,
    Result,
    Space,
    Specs,
    StageError,
)
from headrace.local.session import CREDITS, PredictorSession, SidecarSession

ARENA_BYTES = 1 << 20
READY = Ready(Specs({}, None), 0.1, 0.0)


def column(offset: int, rows: int = 4) -> Column:
    return Column(TENSOR, rows, offset, 4 * rows, DTYPES.index("float32"), (rows,))


def batch(number: int, offset: int = 4096, nbytes: int = 64) -> Batch:
    return Batch(number, 4, offset, nbytes, {"x": (column(0),)})


class Both:
    """Two sessions and the bytes between them."""

    def __init__(self) -> None:
        self.sidecar = SidecarSession("embed", 3, ARENA_BYTES)
        self.predictor = PredictorSession()
        self._to_predictor, self._to_sidecar = Decoder(), Decoder()

    def down(self, message: Message) -> None:
        for received in self._to_predictor.feed(self.sidecar.send(message)):
            self.predictor.receive(received)

    def up(self, message: Message) -> None:
        for received in self._to_sidecar.feed(self.predictor.send(message)):
            self.sidecar.receive(received)

    def states(self) -> tuple[str, str]:
        return self.sidecar.state, self.predictor.state


@pytest.fixture
def both() -> Both:
    return Both()


@pytest.fixture
def ready(both: Both) -> Both:
    both.up(Hello(3, 100, "embed"))
    both.down(Arena(ARENA_BYTES))
    both.down(Load("{}"))
    both.up(READY)
    return both


def test_a_session_goes_from_hello_to_closing(both: Both) -> None:
    seen = [both.states()]
    both.up(Hello(3, 100, "embed"))
    seen.append(both.states())
    both.down(Arena(ARENA_BYTES))
    seen.append(both.states())
    both.down(Load("{}"))
    seen.append(both.states())
    both.up(READY)
    seen.append(both.states())
    both.down(Closing())
    seen.append(both.states())
    names = ("STARTING", "GREETED", "MAPPED", "LOADING", "READY", "CLOSED")
    assert seen == [(name, name) for name in names]


def test_a_failed_load_closes_both_ends(both: Both) -> None:
    both.up(Hello(3, 100, "embed"))
    both.down(Arena(ARENA_BYTES))
    both.down(Load("{}"))
    both.up(Failed(StageError("ValueError", "no", "")))
    assert both.states() == ("CLOSED", "CLOSED")


def test_a_predictor_holds_as_many_batches_as_it_has_credits(ready: Both) -> None:
    assert ready.sidecar.credits == CREDITS == 2
    ready.down(batch(1))
    ready.down(batch(2))
    assert (ready.sidecar.credits, ready.sidecar.executing) == (0, (1, 2))
    with pytest.raises(AssertionError):
        ready.sidecar.send(batch(3))
    ready.up(Result(1, 0.5, {"y": column(4096)}))
    assert (ready.sidecar.credits, ready.sidecar.executing) == (1, (2,))
    ready.up(Error(2, StageError("ValueError", "no", "")))
    assert ready.sidecar.credits == 2


def test_a_larger_result_gets_its_space_and_then_lies_there(ready: Both) -> None:
    ready.down(batch(1))
    ready.up(NeedSpace(1, 8192))
    ready.down(Space(1, 16384, 8192))
    ready.up(Result(1, 0.5, {"y": column(16384)}))
    assert ready.sidecar.executing == ()


def test_no_batch_is_sent_before_ready(both: Both) -> None:
    assert both.sidecar.credits == 0
    with pytest.raises(AssertionError):
        both.sidecar.send(batch(1))


@pytest.mark.parametrize(
    "message",
    [
        Result(9, 0.1, {}),  # a batch it doesn't have
        Error(9, StageError("E", "", "")),
        NeedSpace(9, 1 << 16),
        NeedSpace(1, 64),  # it has as much already
        Result(1, 0.1, {"y": column(0)}),  # outside its region
        Result(1, 0.1, {"y": column(4096 + 64)}),
        Result(1, 0.1, {"y": column(4096, rows=3)}),  # another number of rows
        Hello(3, 1, "embed"),
        READY,
        Failed(StageError("E", "", "")),
        Control("embed"),
        Closing(),
    ],
)
def test_the_sidecar_refuses_what_has_no_place(ready: Both, message: Message) -> None:
    ready.down(batch(1))
    with pytest.raises(ProtocolError):
        ready.sidecar.receive(message)


def test_the_sidecar_refuses_an_answer_before_the_space_it_was_asked_for(ready: Both) -> None:
    ready.down(batch(1))
    ready.up(NeedSpace(1, 8192))
    with pytest.raises(ProtocolError):
        ready.sidecar.receive(Result(1, 0.1, {}))


@pytest.mark.parametrize("hello", [Hello(4, 1, "embed"), Hello(3, 1, "other")])
def test_the_sidecar_refuses_another_predictor_than_it_asked_for(both: Both, hello: Hello) -> None:
    with pytest.raises(ProtocolError):
        both.sidecar.receive(hello)


@pytest.mark.parametrize(
    "message",
    [
        batch(1),  # twice
        Batch(2, 4, ARENA_BYTES - 32, 64, {}),  # its region lies beyond the arena
        Batch(2, 4, 0, 64, {"x": (column(ARENA_BYTES - 8),)}),
        Space(1, 0, 64),  # not asked for
        Arena(ARENA_BYTES),
        Load("{}"),
        READY,
        Control("embed"),
    ],
)
def test_the_predictor_refuses_what_has_no_place(ready: Both, message: Message) -> None:
    ready.down(batch(1))
    with pytest.raises(ProtocolError):
        ready.predictor.receive(message)


def test_the_predictor_refuses_a_batch_beyond_its_credits(ready: Both) -> None:
    ready.down(batch(1))
    ready.down(batch(2))
    with pytest.raises(ProtocolError):
        ready.predictor.receive(batch(3))


def test_space_smaller_than_asked_for_is_never_given(ready: Both) -> None:
    ready.down(batch(1))
    ready.up(NeedSpace(1, 8192))
    with pytest.raises(AssertionError):
        ready.sidecar.send(Space(1, 0, 4096))
