"""Runs the user's code in a child process and ends whatever that leaves behind: for a probe, which loads it once.

::

    who asked ──lifeline──▶ this process, parent of every orphan below it ──▶ the child, in a session of its own
                                                                                └─ what user code starts, wherever

User code may start processes that outlive it, in sessions of their own: they are killed before this process ends.
"""

import os
import resource
import select
import signal
from typing import Callable, NoReturn, Optional

from . import children


def run_apart(work: Callable[[], int], lifeline: Optional[int]) -> NoReturn:
    """Ends as a forked child ends that runs `work`: with its exit status, or by its signal.

    The end of file of `lifeline` ends all of it at once.
    """
    children.adopt_orphans()
    wake_read, wake_write = os.pipe()
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    asked = os.getpid()
    pid = os.fork()
    if pid == 0:
        children.run_forked(asked, (wake_read, wake_write), work)
    status = _wait(pid, wake_read, lifeline)
    children.end_all()
    if status is not None and os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child's core is enough
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(children.NOT_BEGUN if status is None else os.WEXITSTATUS(status))


def _wait(pid: int, wake: int, lifeline: Optional[int]) -> Optional[int]:
    """The child's status as waitpid gives it; None where the lifeline ended before."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        ready, _, _ = select.select([wake] if lifeline is None else [wake, lifeline], [], [])
        if wake in ready:
            os.read(wake, 4096)
        if lifeline in ready and not os.read(lifeline, 4096):
            return None
