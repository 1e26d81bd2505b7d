"""Calls that change disks step by step, so that they can be cut off or held up between any two steps.

A call that is held up runs in a real thread, which waits at a step while the world goes on, and goes on when it is let:
one of the two runs at any time, so the order of everything stays the same.

Not here: when a call is held up (`world`), in which process (`processes`).
"""

import threading
from collections.abc import Callable
from typing import Any


class Killed(Exception):
    """The process that wanted this is dead: it didn't happen."""


class Steps:
    """Hears each change that a call is about to make to a disk."""

    def __init__(self) -> None:
        self.acting: Any = None  # the process whose call runs; None: the world's own
        self._left: int | None = None
        self._wait: Callable[[], None] | None = None

    def step(self) -> None:
        """A change is about to be made; returns when it may be.

        Raises:
            Killed: it may not.
        """
        if self._left is None:
            return
        if self._left <= 0:
            if self._wait is None:
                raise Killed
            self._wait()
            self.step()
            return
        self._left -= 1

    def act(self, process: object, function: Callable[[], Any], left: int | None, wait: Any = None) -> Any:
        """Runs a call, which makes `left` steps (None: all) and is then killed, or waits."""
        self.acting, self._left, self._wait = process, left, wait
        try:
            return function()
        finally:
            self.acting, self._left, self._wait = None, None, None


class HeldUp:
    """One call that waits at a step until it is let go on."""

    def __init__(self, steps: Steps, process: object, function: Callable[[], Any], after: int) -> None:
        """Runs the call up to its step number `after`, or to its end."""
        self._steps = steps
        self._process = process
        self._function = function
        self._world_runs = threading.Semaphore(0)
        self._call_runs = threading.Semaphore(0)
        self._is_over = False
        self._result: Any = None
        self._error: Exception | None = None
        threading.Thread(target=self._run, daemon=True).start()
        self._go(after, self._wait)

    def finish(self, left: int | None) -> Any:
        """Lets the call make its other steps, `left` of them at most; gives its result or raises its error."""
        if not self._is_over:
            self._go(left, None)
        if self._error is not None:
            raise self._error
        return self._result

    def _go(self, left: int | None, wait: Callable[[], None] | None) -> None:
        def run() -> None:
            self._call_runs.release()
            self._world_runs.acquire()

        self._steps.act(self._process, run, left, wait)

    def _wait(self) -> None:
        self._world_runs.release()
        self._call_runs.acquire()

    def _run(self) -> None:
        self._call_runs.acquire()
        try:
            self._result = self._function()
        except Exception as error:  # noqa: BLE001  is the call's outcome
            self._error = error
        self._is_over = True
        self._world_runs.release()
