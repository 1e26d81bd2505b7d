"""Processes that killed runs of a job have left, known by a mark in their environment.

What a run starts ends with it: by its lifeline, by a socket, or adopted as an orphan. Left is what a stage put into a
session of its own, if all that would have adopted it was killed within moments.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

MARK = "HEADRACE_STATE"
"""Variable of all that a run starts: the job's folder of state."""


def end_leftovers(folder: Path) -> None:
    """Kills what carries the mark of this job's folder. Only whoever holds the folder's lock may."""
    mark = os.fsencode(f"{MARK}={folder}")
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        with suppress(OSError):  # it has ended, or is another user's
            pidfd = os.pidfd_open(int(entry.name))  # the number may be another process's by the time of the kill
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)
