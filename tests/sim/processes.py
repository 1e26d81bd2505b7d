"""Processes on virtual time: each has an event loop of its own that only runs when the world lets it.

    running ──pause──▶ paused ──resume──▶ running        late: every timer that fell due meanwhile fires at once
       └──────kill──────┴────▶ dead                      nothing of it has an effect any more

The loop is asyncio's own, without a selector: its clock is the world's, and its threads are calls that take virtual
time and then run at once. The code under test can't tell.

Not here: when which process runs (`world`), what it runs (`coordinator_actor`, `worker_actor`).
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from tests.sim.stalls import HeldUp, Killed, Steps

T = TypeVar("T")

ROUNDS_MAX = 50
"""Turns of a loop in one step; as many are enough for all tasks of a dying one to hear that they are cancelled."""


class Surroundings(Protocol):
    """What a process needs of the world."""

    now: float

    def call_at(self, at: float, callback: Callable[[], None]) -> None:
        """Calls back at that time."""

    def disk_s(self, process: "Process") -> float:
        """How long this process's next call in a thread takes."""

    def held_up(self, process: "Process") -> int | None:
        """Steps that a call in a thread makes before something keeps it waiting until its end; None: nothing does."""

    def cut_off(self, process: "Process") -> int | None:
        """Steps that a call in a thread still makes when its process dies; None: all of them."""


@dataclass
class _Call:
    """A call in a thread."""

    function: Callable[[], Any]
    future: "asyncio.Future[Any]"
    begins_at: float
    is_due: bool = False
    held_up: HeldUp | None = None  # it has begun, and waits between two steps


class Process:
    """One process; `name` is its role's, another one with it may follow when this one is dead."""

    def __init__(self, name: str, world: Surroundings, steps: Steps) -> None:
        self.name = name
        self.world = world
        self.is_dead = False
        self.is_paused = False
        self.exit: BaseException | None = None  # the error that ended it
        self.loop = _Loop(self)
        self._steps = steps
        self._calls: list[_Call] = []  # in threads, not done yet
        self._free_at: dict[int, float] = {}  # executors of one thread, by id: when the thread is free
        self._inbox: list[Callable[[], None]] = []  # what arrived while it was paused

    # ------------------------------------------------------------------ life

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        """Begins to run `main`; the process is dead when it ends."""
        with self._running():
            task = self.loop.create_task(main)
        task.add_done_callback(self._main_ended)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a task; the process must be alive. Its error ends the process."""
        with self._running():
            self.loop.create_task(work).add_done_callback(self._ended)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Calls back in its loop."""
        with self._running():
            self.loop.call_soon(callback)

    def wake_at(self) -> float | None:
        """When its loop next has something to do; None: never, as things are."""
        return None if self.is_dead or self.is_paused else self.loop.wake_at()

    def turn(self) -> None:
        """Runs its loop until it has nothing to do now."""
        asyncio._set_running_loop(self.loop)
        try:
            for _ in range(ROUNDS_MAX):
                self.loop.run_once()
                if not self.loop.is_ready:
                    return
        finally:
            asyncio._set_running_loop(None)

    def deliver(self, message: Callable[[], None]) -> None:
        """Something arrives; a paused process gets it when it goes on, a dead one never."""
        if self.is_paused:
            self._inbox.append(message)
        elif not self.is_dead:
            message()

    def pause(self) -> None:
        """SIGSTOP, which may find threads between any two steps."""
        self.is_paused = not self.is_dead
        for call in self._calls:
            if call.begins_at <= self.world.now:
                self._hold_up(call)

    def resume(self) -> None:
        """SIGCONT."""
        if not self.is_paused or self.is_dead:
            return
        self.is_paused = False
        for call in [call for call in self._calls if call.is_due]:
            self._finish(call)
        inbox, self._inbox = self._inbox, []
        for message in inbox:
            self.deliver(message)

    def kill(self) -> None:
        """SIGKILL: calls in threads are cut off wherever they are, tasks never run again."""
        if self.is_dead:
            return
        self.is_dead, self.is_paused = True, False
        calls, self._calls = self._calls, []
        for call in calls:
            left = self.world.cut_off(self)
            with contextlib.suppress(Exception):
                self._act(call, left)
        self._bury()

    def _bury(self) -> None:
        """Lets every task end where its `finally` clauses can't do anything any more."""
        with self._running():
            for _ in range(ROUNDS_MAX):
                tasks = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
                if not tasks:
                    break
                for task in tasks:
                    task.cancel()
                self.loop.run_once()
        self.loop.close()

    def _main_ended(self, task: "asyncio.Task[None]") -> None:
        self._ended(task)
        if not self.is_dead:
            self.world.call_at(self.world.now, self.kill)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.is_dead:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """An error that nobody expects ends the process."""
        self.exit = error
        self.world.call_at(self.world.now, self.kill)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    # ------------------------------------------------------------------ threads

    def in_thread(self, executor: object | None, function: Callable[[], T]) -> "asyncio.Future[T]":
        """The result of a call that another thread makes; those of one executor are made one at a time."""
        future: asyncio.Future[T] = self.loop.create_future()
        if self.is_dead:
            future.set_exception(Killed())
            return future
        begins_at = max(self.world.now, self._free_at.get(id(executor), 0.0) if executor else 0.0)
        call = _Call(function, future, begins_at)
        self._calls.append(call)
        done_at = begins_at + self.world.disk_s(self)
        if executor:
            self._free_at[id(executor)] = done_at
        self.world.call_at(begins_at, partial(self._begun, call))
        self.world.call_at(done_at, partial(self._due, call))
        return future

    def _begun(self, call: _Call) -> None:
        if not self.is_paused and not self.is_dead:
            self._hold_up(call)

    def _hold_up(self, call: _Call) -> None:
        after = self.world.held_up(self)
        if after is not None and call.held_up is None:
            call.held_up = HeldUp(self._steps, self, call.function, after)

    def _due(self, call: _Call) -> None:
        call.is_due = True
        if not self.is_paused and not self.is_dead:
            self._finish(call)

    def _finish(self, call: _Call) -> None:
        self._calls.remove(call)
        try:
            result = self._act(call, None)
        except Exception as error:  # noqa: BLE001  becomes the call's outcome, as in a real thread
            if not call.future.done():
                call.future.set_exception(error)
        else:
            if not call.future.done():
                call.future.set_result(result)

    def _act(self, call: _Call, left: int | None) -> Any:
        if call.held_up is not None:
            return call.held_up.finish(left)
        return self._steps.act(self, call.function, left) if left != 0 else None


@dataclass
class _NoSelector:
    """Nothing comes from outside."""

    nothing: list[Any] = field(default_factory=list)

    def select(self, timeout: float | None) -> list[Any]:
        return self.nothing


class _Loop(asyncio.BaseEventLoop):
    """asyncio's loop on the world's clock."""

    _ready: Any
    _scheduled: Any
    _run_once: Callable[[], None]

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._selector = _NoSelector()
        self.set_exception_handler(lambda *_: None)  # errors of tasks are their process's

    def time(self) -> float:
        return self._process.world.now

    def wake_at(self) -> float | None:
        if self._ready:
            return self._process.world.now
        while self._scheduled and self._scheduled[0]._cancelled:
            self._run_once()
        return float(self._scheduled[0]._when) if self._scheduled else None

    @property
    def is_ready(self) -> bool:
        return bool(self._ready)

    def run_once(self) -> None:
        self._run_once()

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]
        return self._process.in_thread(executor, partial(func, *args))

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
