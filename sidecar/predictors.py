"""The sidecar's end of one stage: starts its predictor host, adds and ends predictors, sends batches, hears results.

Everything runs on the event loop and never blocks it. A predictor's life here::

    add_predictor → connecting → session (headrace.local.session) → ended once the host says that its whole process
    group is gone (Exited), or, when the host itself is gone, once the predictor's own socket is closed

A predictor's number is never used again, and each has a connection of its own, so no late reply can be taken for
another predictor's.

Not here: which batch goes where and when a predictor hangs (the driver and `sidecar.core`), the memory
(`sidecar.arena`).
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.local import session
from headrace.local.columns import Column
from headrace.local.frames import ProtocolError, encode
from headrace.local.messages import Arena as ArenaMessage
from headrace.local.messages import (
    Batch,
    Closing,
    Control,
    Error,
    Exited,
    Failed,
    Hello,
    Load,
    Message,
    NeedSpace,
    Predictor,
    Ready,
    Result,
    Space,
    Specs,
    StageError,
)
from headrace.program import StageProgram
from sidecar.arena import Arena
from sidecar.links import Link, connect

CREDITS = session.CREDITS

LAUNCHER = str(Path(__file__).resolve().parent.parent / "predictor" / "launcher.py")
"""Run by its path and never imported, so that a user's own module named `predictor` is neither found nor in the way."""

START_TIMEOUT_S = 30.0
"""For the host to listen: it does so before it imports anything heavy."""
HELLO_TIMEOUT_S = 60.0
"""For the fork and the first frame, the host's imports included, on a machine that is busy."""
LOAD_TIMEOUT_S = 1800.0
"""For loading and warm-up: a bound, not an estimate; large models come over networks."""
CLOSE_TIMEOUT_S = 4.0
"""The host ends within two seconds of losing its control connection; twice that, and it is killed."""
EXITED_TIMEOUT_S = 10.0
"""From the end of a predictor's connection to the host's word that its group is gone."""
LAST_READ_TIMEOUT_S = 1.0
"""From the host's word to the end of the predictor's socket, which a daemon that the user's code left may hold."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a predictor ended. Its whole process group is gone: all that it was granted may be used again."""

    status: int | None  # one of status and signal is set; neither when the host itself is gone
    signal: int | None
    stderr_tail: str
    load_error: StageError | None  # it failed before READY, by an exception
    reason: str  # why the connection ended where it wasn't the process that did: garbage, a deadline; else ""
    executing: tuple[int, ...]  # batches it had not answered, in order: only the first is suspect
    asked: bool  # end_predictor was called

    def __str__(self) -> str:
        if self.load_error is not None:
            return str(self.load_error)
        how = f"signal {self.signal}" if self.signal is not None else f"status {self.status}"
        return self.reason or f"it ended with {how}"


class Events(Protocol):
    """What the sidecar's driver hears. Called on the loop, never from inside a call to Host."""

    def predictor_ready(self, predictor: int, specs: Specs) -> None:
        """It is loaded and warmed up, and may be sent CREDITS batches."""

    def batch_done(self, predictor: int, batch: int, columns: dict[str, Column], busy_s: float) -> None:
        """The outputs lie in the batch's region; `busy_s` is the time inside the stage's own code."""

    def batch_failed(self, predictor: int, batch: int, error: StageError) -> None:
        """The stage raised, or what it returned can't be used; the predictor lives and takes the next batch."""

    def space_needed(self, predictor: int, batch: int, nbytes: int) -> None:
        """The result is kept until `give_space` gives it a region of at least `nbytes`."""

    def predictor_ended(self, predictor: int, ended: Ended) -> None:
        """Nothing more comes from it, and nothing of it runs any more."""

    def host_ended(self, reason: str) -> None:
        """The host is gone and this Host of no more use; predictor_ended follows for each predictor that it had."""


class _Predictor:
    """What is known of one predictor."""

    __slots__ = ("asked", "deadline", "exited", "has_process", "link", "load_error", "number", "reason", "session")

    def __init__(self, number: int, session: session.SidecarSession) -> None:
        self.number = number
        self.session = session
        self.link: Link | None = None  # None before it is connected and after the end of the connection
        self.deadline: asyncio.TimerHandle | None = None
        self.exited: Exited | None = None
        self.load_error: StageError | None = None
        self.reason = ""
        self.asked = False
        self.has_process = False  # the host may have one for it, and then reports its end

    def set_deadline(self, deadline: asyncio.TimerHandle | None) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = deadline


class Host:
    """One stage's predictor host and its predictors. Made by `start`."""

    def __init__(self, stage: StageProgram, arena: Arena, path: Path, events: Events) -> None:
        self.stage = stage
        self._arena = arena
        self._path = path
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._load = json.dumps(dataclasses.asdict(stage), ensure_ascii=False)
        self._predictors: dict[int, _Predictor] = {}
        self._next = 0
        self._host: subprocess.Popen[bytes] | None = None
        self._control: Link | None = None

    @classmethod
    async def start(
        cls,
        stage: StageProgram,
        arena: Arena,
        socket_folder: Path,
        events: Events,
        env: Mapping[str, str],
        *,
        python: str = sys.executable,
        memory_bytes: int | None = None,
    ) -> "Host":
        """Starts the host process and connects to it; it goes on importing while predictors are added.

        Args:
            socket_folder: where the socket ``<stage>.sock`` is made, of mode 0700; this sidecar's alone, and removed
                by the last host to end if nothing else is in it.
            env: added to this process's own environment (HEADRACE_JOB, HEADRACE_WORKER).
            memory_bytes: what all predictors of the stage may hold; None: what the machine or the container has.

        Raises:
            OSError: it couldn't be started, or ended at once.
            TimeoutError: it doesn't listen after START_TIMEOUT_S.
        """
        host = cls(stage, arena, socket_folder / f"{stage.name}.sock", events)
        command = [python, LAUNCHER, "host", "--socket", str(host._path), "--stage", stage.name, "--kind", stage.kind]
        if memory_bytes is not None:
            command += ["--memory-bytes", str(memory_bytes)]
        # Popen takes a millisecond; asyncio's own way would start a thread to wait for the end.
        host._host = subprocess.Popen(  # noqa: ASYNC220
            [*command, "--lifeline", "--sweep"],
            env={**os.environ, **env, "HEADRACE_STAGE": stage.name},
            stdin=subprocess.PIPE,  # the lifeline: it ends with this process, even if the host isn't connected yet
            stdout=2,  # a log: our own standard output may be a document
            start_new_session=True,  # Ctrl-C is for us: a drain needs the predictors
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await host._connect_control()
        except BaseException:
            host._host.kill()
            host._host.wait()
            raise
        return host

    @property
    def pid(self) -> int:
        """The host process; its children are the predictors."""
        assert self._host is not None
        return self._host.pid

    def add_predictor(self) -> int:
        """Asks for one more predictor; `predictor_ready` or `predictor_ended` follows with the number returned."""
        assert self._control is not None, "the host is gone"
        number = self._next
        self._next += 1
        added = _Predictor(number, session.SidecarSession(self.stage.name, number, self._arena.size))
        self._predictors[number] = added
        added.set_deadline(self._loop.call_later(HELLO_TIMEOUT_S, self._cut, added, "no Hello within its deadline"))
        self._loop.call_soon(self._connect, added)
        return number

    def end_predictor(self, predictor: int, reason: str = "") -> None:
        """Ends it, whatever it does: SIGTERM, then SIGKILL. Until `predictor_ended` follows its regions are its own."""
        ending = self._predictors.get(predictor)
        if ending is None or ending.asked:
            return
        ending.asked = True
        ending.reason = reason
        if ending.link is not None:
            ending.link.send(ending.session.send(Closing()))
        self._loop.call_soon(self._cut, ending, reason)

    def credits(self, predictor: int) -> int:
        """How many batches it may be sent now; 0 before it is ready and after its end."""
        known = self._predictors.get(predictor)
        return known.session.credits if known is not None and known.link is not None else 0

    def send_batch(
        self,
        predictor: int,
        batch: int,
        rows: int,
        inputs: Mapping[str, Sequence[Column]],
        out_offset: int,
        out_nbytes: int,
    ) -> None:
        """Sends a batch; exactly one of batch_done, batch_failed and predictor_ended answers it.

        Args:
            inputs: per input of the stage one column, or the several that the predictor stacks; for a stage that
                takes Arrow, the source's part under `headrace.local.messages.ARROW_INPUT`.
            out_offset, out_nbytes: the region for all outputs. It is the predictor's until the answer.
        """
        to = self._predictors[predictor]
        data = to.session.send(Batch(batch, rows, out_offset, out_nbytes, {k: tuple(v) for k, v in inputs.items()}))
        if to.link is not None:
            to.link.send(data)

    def give_space(self, predictor: int, batch: int, offset: int, nbytes: int) -> None:
        """Answers `space_needed`: the whole result goes here; with no bytes it is forgotten and never answered.

        The first region stays granted until the answer.
        """
        to = self._predictors.get(predictor)
        if to is not None and to.link is not None:
            to.link.send(to.session.send(Space(batch, offset, nbytes)))

    async def close(self) -> None:
        """Ends all predictors and the host, and returns when they are gone. No event follows."""
        for predictor in self._predictors.values():
            predictor.set_deadline(None)
            if predictor.link is not None:
                predictor.link.close()
        self._predictors.clear()
        if self._control is not None:
            self._control.close()
            self._control = None
        host = self._host
        assert host is not None
        assert host.stdin is not None
        host.stdin.close()
        deadline = self._loop.time() + CLOSE_TIMEOUT_S
        while host.poll() is None:
            if self._loop.time() > deadline:
                host.kill()  # its predictors die with it: PR_SET_PDEATHSIG
            await asyncio.sleep(0.005)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _connect_control(self) -> None:
        assert self._host is not None
        while True:
            try:
                sock = connect(self._path)
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                if self._host.poll() is not None:
                    raise OSError(f"the host of stage {self.stage.name} ended with {self._host.returncode}") from None
                await asyncio.sleep(0.003)
            else:
                break
        self._control = Link(self._loop, sock, self._control_received, self._control_closed)
        self._control.send(encode(Control(self.stage.name)))

    def _connect(self, added: _Predictor) -> None:
        if added.asked or self._predictors.get(added.number) is not added:
            return
        try:
            sock = connect(self._path)
        except BlockingIOError:  # its queue is full: it is importing, and its deadline bounds this
            self._loop.call_later(0.01, self._connect, added)
            return
        except OSError as error:
            self._closed(added, f"no connection: {error}")
            return
        added.has_process = True
        added.link = Link(
            self._loop,
            sock,
            lambda message: self._received(added, message),
            lambda reason: self._closed(added, reason),
        )
        added.link.send(encode(Predictor(added.number)))

    def _received(self, sender: _Predictor, message: Message) -> None:
        """Takes one message of a predictor; its Link turns a ProtocolError into the end of the connection."""
        sender.session.receive(message)
        match message:
            case Result():
                self._events.batch_done(sender.number, message.batch, message.columns, message.busy_s)
            case Error():
                self._events.batch_failed(sender.number, message.batch, message.error)
            case NeedSpace():
                self._events.space_needed(sender.number, message.batch, message.nbytes)
            case Hello():
                assert sender.link is not None
                sender.set_deadline(self._loop.call_later(LOAD_TIMEOUT_S, self._cut, sender, "not loaded in time"))
                sender.link.send_with_fd(sender.session.send(ArenaMessage(self._arena.size)), self._arena.fd)
                sender.link.send(sender.session.send(Load(self._load)))
            case Ready():
                sender.set_deadline(None)
                self._events.predictor_ready(sender.number, message.specs)
            case Failed():
                sender.load_error = message.error
            case _:
                raise ProtocolError(f"{type(message).__name__} from a predictor")

    def _cut(self, predictor: _Predictor, reason: str) -> None:
        """Closes the connection; the host takes that as the order to end the predictor."""
        if predictor.link is not None:
            predictor.link.close()
            self._closed(predictor, reason)
        elif not predictor.has_process and self._predictors.get(predictor.number) is predictor:
            self._forget(predictor)

    def _closed(self, predictor: _Predictor, reason: str) -> None:
        was_connected = predictor.link is not None
        predictor.link = None
        predictor.reason = predictor.reason or reason
        if predictor.exited is not None or self._control is None or not was_connected:
            self._forget(predictor)
        else:
            predictor.set_deadline(
                self._loop.call_later(EXITED_TIMEOUT_S, self._lose_host, "it doesn't report the end of a predictor")
            )

    def _control_received(self, message: Message) -> None:
        if not isinstance(message, Exited):
            raise ProtocolError(f"{type(message).__name__} from a host")
        predictor = self._predictors.get(message.predictor)
        if predictor is None:
            raise ProtocolError(f"the end of predictor {message.predictor}, which it doesn't have")
        predictor.exited = message
        if predictor.link is None:
            self._forget(predictor)
        else:  # what it sent before its end may still be unread; its socket closes behind that
            predictor.set_deadline(self._loop.call_later(LAST_READ_TIMEOUT_S, self._cut, predictor, ""))

    def _control_closed(self, reason: str) -> None:
        self._control = None
        self._events.host_ended(reason or "its host ended")
        for predictor in list(self._predictors.values()):
            if predictor.link is None:
                self._forget(predictor)

    def _lose_host(self, reason: str) -> None:
        """A host that doesn't do its part is ended: its predictors die with it, and their sockets close."""
        assert self._host is not None
        self._host.kill()
        if self._control is not None:
            self._control.close()
            self._control_closed(reason)

    def _forget(self, predictor: _Predictor) -> None:
        predictor.set_deadline(None)
        if self._predictors.pop(predictor.number, None) is None:  # `close` came between
            return
        exited = predictor.exited
        ended = Ended(
            status=exited.status if exited else None,
            signal=exited.signal if exited else None,
            stderr_tail=exited.stderr_tail if exited else "",
            load_error=predictor.load_error,
            reason=predictor.reason or ("" if exited else "its host ended"),
            executing=predictor.session.executing,
            asked=predictor.asked,
        )
        self._events.predictor_ended(predictor.number, ended)
