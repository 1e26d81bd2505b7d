"""One forked predictor as its host sees it: its process group, its standard error, its end.

The group is the predictor and whatever its code starts. It counts as gone when the predictor has been reaped and no
process of the group is left; only then may others use the memory that it was granted.

Not here: the loop that waits (`host`), what a predictor does (`serving`).
"""

import contextlib
import ctypes
import faulthandler
import os
import random
import signal
import socket
import sys
from typing import Callable, Iterable, NoReturn, Optional, Set

STDERR_TAIL_BYTES = 8192
LAST_READS_MAX = 64
"""Of a predictor that has ended; a daemon that it left may write for ever."""
LEAVE_GRACE_S = 0.1
"""From the end of its connection, which a predictor between two batches notices by itself, to SIGTERM."""
TERM_GRACE_S = 0.5
"""From SIGTERM to SIGKILL. With LEAVE_GRACE_S well below the second in which a predictor that hangs is replaced."""
OOM_SCORE = "500"
"""Of 1000: where the machine's memory ends, the kernel ends a predictor rather than who could replace it."""
KILL_EVERY_S = 0.02
"""Between one SIGKILL and the next, until the whole group is gone: it may be forking meanwhile."""
NOT_BEGUN = 70
"""Exit status of a child that never came to its work."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)


def adopt_orphans() -> None:
    """Makes this process the parent of every orphan below it, so that it can reap whole process groups."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent dies; a parent that is dead already goes unnoticed."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_all() -> None:
    """Kills every process below this one, which has adopted orphans: also what user code put into sessions of its own.

    A process that can't be killed (it runs as another user) is left; so are all where the kernel lists no children.
    """
    unkillable: Set[int] = set()
    while True:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as listing:
                pids = {int(word) for word in listing.read().split()} - unkillable
        except OSError:
            return  # the container's end takes them
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except OSError:
                unkillable.add(pid)


class Child:
    """A forked predictor. Made by `start`."""

    def __init__(self, number: int, pid: int, connection: socket.socket, stderr: int, label: str) -> None:
        self.number = number
        self.pid = pid
        # Never read here: held to see the sidecar's hang-up while the predictor is busy.
        self.connection = connection
        self.stderr = stderr
        self.status: Optional[int] = None  # as waitpid gave it
        self.kill_at: Optional[float] = None  # next signal, on the monotonic clock
        self._signal = signal.SIGTERM
        self._label = label.encode()
        self._tail = b""
        self._line = b""

    @property
    def is_gone(self) -> bool:
        """Whether nothing of its process group is left."""
        if self.status is None:
            return False
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it lives, under another user
            return False
        return False

    def end(self, now: float, grace_s: float = LEAVE_GRACE_S) -> None:
        """Asks for its end: SIGTERM after `grace_s`, later SIGKILL."""
        if self.kill_at is None:
            self.kill_at = now + grace_s

    def signal_due(self, now: float) -> None:
        """Sends the next signal when its time has come; after the predictor's own end always SIGKILL."""
        if self.kill_at is None or now < self.kill_at:
            return
        if self.status is not None:
            self._signal = signal.SIGKILL
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, self._signal)
        if self.status is None:  # before it made its group there is only itself
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, self._signal)
        self.kill_at = now + (KILL_EVERY_S if self._signal == signal.SIGKILL else TERM_GRACE_S)
        self._signal = signal.SIGKILL

    def kill(self, now: float, why: str) -> None:
        """Ends it at once; `why` stands at the end of what it wrote."""
        line = why.encode() + b"\n"
        self._tail = (self._tail + line)[-STDERR_TAIL_BYTES:]
        self._forward(line)
        self.kill_at, self._signal = now, signal.SIGKILL
        self.signal_due(now)

    def read_stderr(self) -> bool:
        """Forwards what it wrote, each line under its name, and keeps the tail; False where nothing more comes now."""
        try:
            data = os.read(self.stderr, 65536)
        except BlockingIOError:
            return False
        self._tail = (self._tail + data)[-STDERR_TAIL_BYTES:]
        lines, newline, self._line = (self._line + data).rpartition(b"\n")
        # At its end, or for a progress bar that never ends its line, what is there is a line.
        if self._line and (not data or len(self._line) > STDERR_TAIL_BYTES):
            lines, newline, self._line = lines + newline + self._line, b"\n", b""
        if lines:
            self._forward(lines + newline)
        return bool(data)

    def tail(self) -> str:
        """The last bytes of its standard error, those unread until now included."""
        reads = 0
        while self.read_stderr() and reads < LAST_READS_MAX:
            reads += 1
        return self._tail.decode(errors="replace")

    def close(self) -> None:
        """Lets go of its connection and its pipe."""
        self.connection.close()
        os.close(self.stderr)

    def _forward(self, text: bytes) -> None:
        labelled = b"".join(self._label + line for line in text.splitlines(keepends=True))
        with contextlib.suppress(OSError):  # nobody reads our standard error any more; we don't end for that
            os.write(2, labelled)


def start(
    number: int,
    connection: socket.socket,
    label: str,
    close_in_child: Iterable[int],
    serve: Callable[[int], int],
) -> Child:
    """Forks a predictor that runs `serve(pid)` and exits with what it returns.

    Args:
        close_in_child: descriptors of the host that a predictor must not hold, such as others' connections.
    """
    stderr_read, stderr_write = os.pipe()
    os.set_blocking(stderr_read, False)
    host = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        run_forked(host, [stderr_read, *close_in_child], lambda: _serve(stderr_write, serve))
    os.close(stderr_write)
    return Child(number, pid, connection, stderr_read, label)


def _serve(stderr: int, serve: Callable[[int], int]) -> int:
    # What the user's code prints is a log; standard output is nobody's protocol here.
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    os.close(stderr)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(OOM_SCORE)
    faulthandler.enable(2)  # a crash in C leaves the Python lines it came from in the tail
    _reseed()
    return serve(os.getpid())


def run_forked(parent: int, to_close: Iterable[int], work: Callable[[], int]) -> NoReturn:
    """What a forked child does: leaves all that is its parent's, and exits with what `work` returns.

    Args:
        parent: whose end ends this process too.
        to_close: descriptors of the parent.
    """
    status = NOT_BEGUN
    try:
        os.setsid()  # a signal to the parent's group isn't for us
        end_with_parent()
        if os.getppid() != parent:  # it died before the line above
            os._exit(status)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for fd in to_close:
            os.close(fd)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        status = work()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001 - this is the process's outermost frame
        sys.excepthook(*sys.exc_info())
    finally:
        # Neither the parent's stack nor anybody's threads or exit functions keep us.
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _reseed() -> None:
    """Forks would all draw the same numbers: Python reseeds its own generator, numpy doesn't."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(random.SystemRandom().getrandbits(32))
