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
import sys
from typing import Callable, Iterable, NoReturn, Optional

from . import children

FAILED = 70
"""Exit status of a child that never came to its work."""


def run_apart(work: Callable[[], None], lifeline: Optional[int]) -> NoReturn:
    """Ends as a forked child ends that runs `work`: with its exit status (0 after `work`), or by its signal.

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
        _run_child(asked, (wake_read, wake_write), work)
    status = _wait(pid, wake_read, lifeline)
    children.end_all()
    if status is not None and os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child's core is enough
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(FAILED if status is None else os.WEXITSTATUS(status))


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


def _run_child(asked: int, to_close: Iterable[int], work: Callable[[], None]) -> NoReturn:
    status = FAILED
    try:
        os.setsid()  # a signal to its own group isn't for us
        children.end_with_parent()
        if os.getppid() != asked:  # it died before the line above
            os._exit(status)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in to_close:
            os.close(fd)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - this is the process's outermost frame
        sys.excepthook(*sys.exc_info())
    finally:
        # Threads or exit functions of the user's code don't keep us.
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
