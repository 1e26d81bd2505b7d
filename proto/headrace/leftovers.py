"""Processes that nobody was left to end, known by a mark in their environment.

What a run or a sidecar starts ends with it: by a lifeline or by a socket. Left is what user code put into sessions of
its own, if who would have ended it was killed. All of it has inherited the mark of its run, and of its sidecar; nothing
else has it. A process that is adopted but isn't marked is somebody else's and never touched.

A `headrace run` that a stage starts has the outer marks and ends with that stage; what it starts in turn has its own
mark in the place of the outer run's. A run that must outlive a stage has to be started from elsewhere.

Not here: what predictors leave to a host that lives (`predictor.children`, copied into users' images without this
package), and processes that have wiped their environment.
"""

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

RUN_MARK = "HEADRACE_RUN"
"""Variable of all that a run starts; its value is the lock's (`coordinator.cli.state`)."""
SIDECAR_MARK = "HEADRACE_SIDECAR"
"""Variable of all that a sidecar starts; its value is drawn by lot."""

END_S = 2.0
"""For marked processes to die of SIGKILL: milliseconds, but for ever where the kernel waits for a disk."""
_PAUSE_S = 0.01
"""Between two passes, for those that were killed to die."""
_PR_SET_CHILD_SUBREAPER = 36


class Leftovers:
    """The processes with one mark."""

    def __init__(self, variable: str, value: str) -> None:
        self.environment: Mapping[str, str] = {variable: value}
        """For all that is started."""
        self._mark = os.fsencode(f"{variable}={value}")

    def adopt(self) -> None:
        """Makes this process the parent of every orphan below it, where the kernel can."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def kill_orphans(self, but: Collection[int]) -> None:
        """Kills those that have become children of this process; what they leave is for the next call.

        Args:
            but: children that this process has started.
        """
        pids = _children().difference(but)
        self._kill(pids)
        _reap(pids)

    def end(self) -> None:
        """Kills all but this process, and what they leave in turn; returns within END_S, also if some can't die.

        To be called when all children that were started have been reaped.
        """
        deadline = time.monotonic() + END_S
        while self._kill(_all()) and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
            _reap(_children())

    def _kill(self, pids: Iterable[int]) -> int:
        """How many of these have the mark, each of which has been sent SIGKILL."""
        killed = 0
        for pid in pids:
            with suppress(OSError):  # it has ended, or is another user's
                pidfd = os.pidfd_open(pid)  # the number may be another process's by the time of the kill
                try:
                    if self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        killed += 1
                finally:
                    os.close(pidfd)
        return killed


def _all() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if int(entry.name) != os.getpid()]


def _children() -> set[int]:
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found.update(map(int, listing.read_text().split()))
    return found


def _reap(pids: Iterable[int]) -> None:
    """Collects those that have ended; waits for none, since one that is killed may take as long as its disk."""
    for pid in pids:
        with suppress(OSError):
            os.waitpid(pid, os.WNOHANG)
