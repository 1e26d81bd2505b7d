"""Processes whose parent died: adopted by this process and ended with it, whatever session they are in.

A predictor host adopts and ends what its predictors leave; whoever started the host does so for what a killed host
leaves. (`predictor.children` has the same of its own: it is copied into users' images without this package.)

Not here: processes that this one knows of, each of which is its starter's to end.
"""

import ctypes
import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS_MAX = 1000
"""Ends a race against processes that fork faster than they are killed."""


class Orphans:
    """What becomes a child of this process from now on."""

    def __init__(self) -> None:
        """Makes this process the parent of every orphan below it; where the kernel can't, nothing is adopted."""
        self._before = _children()
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def kill(self, but: Collection[int]) -> None:
        """Kills those that are there now, and reaps those that have ended; what they leave is for the next call.

        Args:
            but: children that this process has started.
        """
        for pid in _children().difference(self._before, but):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)

    def end(self) -> None:
        """Kills them, and what they leave in turn. To be called when all children that were started have been reaped.

        A process that can't be killed (it runs as another user) is left; so are all where the kernel lists no children.
        """
        kept = set(self._before)
        for _ in range(_ROUNDS_MAX):
            pids = _children() - kept
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                except OSError:
                    kept.add(pid)


def _children() -> set[int]:
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found.update(map(int, listing.read_text().split()))
    return found
