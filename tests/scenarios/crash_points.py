"""Kills a part of this process at a chosen step: from there on, nothing it does to its output or journal happens.

A step is a change of the file system below one folder, or a request that changes a bucket below one prefix (both seen
through Python's audit events, before they happen), or a write of the journal (before it, and after it). Threads of a
dead part run on, but every further step of theirs fails too: what lies on the disk or in the bucket is what a `kill -9`
at that point leaves.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from coordinator.core.facts import Fact
from coordinator.journal import Journal

CHANGES = ("os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "open")


class Killed(Exception):
    """The part that made this step is dead."""


@dataclass
class Part:
    """A part of the system that can be killed: dies at the step numbered `dies_at`, the first being 0."""

    dies_at: int | None = None
    steps: list[str] = field(default_factory=list)
    on_death: Callable[[], None] = lambda: None
    is_dead: bool = False
    _stepping: threading.Lock = field(default_factory=threading.Lock)

    def step(self, what: str) -> None:
        """Notes that a step is about to be made.

        Raises:
            Killed: it isn't made.
        """
        with self._stepping:
            if not self.is_dead:
                self.steps.append(what)
                if len(self.steps) - 1 == self.dies_at:
                    self.is_dead = True
                    self.on_death()
            if self.is_dead:
                raise Killed(what)


@dataclass
class Watch:
    """Whose steps below `place` are counted: a folder, or ``/BUCKET/PREFIX`` of an S3 server."""

    place: str
    coordinator: Part
    worker: Part


_watches: list[Watch] = []  # the one in force; empty: nothing is watched
_is_worker: ContextVar[bool] = ContextVar("is_worker", default=False)


@contextlib.contextmanager
def watching(place: str, coordinator: Part, worker: Part) -> Iterator[None]:
    """Counts the steps of both parts below a folder, or below ``s3://BUCKET/PREFIX``."""
    _install()
    _watches.append(Watch(place.replace("s3:/", "", 1), coordinator, worker))
    try:
        yield
    finally:
        _watches.clear()


@contextlib.contextmanager
def as_worker() -> Iterator[None]:
    """Steps inside are the worker's, all others the coordinator's."""
    token = _is_worker.set(True)
    try:
        yield
    finally:
        _is_worker.reset(token)


class KillableJournal(Journal):
    """A journal whose writes are steps: killed before one, or after it, when it is durable and nobody knows."""

    part: Part
    _writing = threading.Lock()

    def append(self, facts: Iterable[Fact]) -> int:
        with self._writing:
            self.part.step("append")
            last = super().append(facts)
            self.part.step("appended")
            return last

    def close(self) -> None:
        # The writer's thread outlives its killed part; its transaction must not outlive the lock.
        with self._writing:
            super().close()


@cache
def _install() -> None:
    sys.addaudithook(_hear)  # for the life of the process; silent unless something is watched


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if not _watches:
        return
    (watch,) = _watches
    if event == "http.client.send" and isinstance(args[1], bytes):
        _hear_request(watch, args[1])
    if event not in CHANGES:
        return
    if event == "open" and (isinstance(args[0], int) or not args[2] & os.O_CREAT):
        return
    path = os.fsdecode(args[0])
    if os.path.isabs(path) and not path.startswith(watch.place):
        return
    part = watch.worker if _is_worker.get() else watch.coordinator
    part.step(f"{event} {os.path.basename(path)}")


def _hear_request(watch: Watch, head: bytes) -> None:
    method, _, rest = head.partition(b" ")
    if method not in (b"PUT", b"POST", b"DELETE"):
        return
    target = rest.partition(b" ")[0].decode()
    path, _, query = target.partition("?")
    if not path.startswith(f"{watch.place}/") and not (query == "delete" and watch.place.startswith(f"{path}/")):
        return
    # Parts are sent by threads that don't know for whom; only workers send those of data and rejects.
    is_worker = _is_worker.get() or ("/part-" in path and "partNumber=" in query)
    (watch.worker if is_worker else watch.coordinator).step(f"{method.decode()} {target.rpartition('/')[2]}")
