"""The predictor host: listens on a Unix socket, forks a predictor for each connection that asks, sees each of them end.

::

    first connection whose first frame is Control ──▶ the sidecar's control connection: its end is the end of everything
    any other, first frame Predictor ───────────────▶ handed to a forked predictor; its end is the end of that predictor

One thread, so that forking is safe, and already through the imports (numpy, ONNX Runtime), so that a new predictor
serves in milliseconds. No user code runs here.

Not here: a predictor's own life (`serving`), how one is forked and ended (`children`).
"""

import contextlib
import os
import select
import signal
import socket
import time
from typing import Dict, List, Optional

from . import children
from .children import Child
from .local import frames, messages
from .memory import CHECK_EVERY_S, MemoryWatch
from .serving import Serving

BACKLOG = 128
FIRST_FRAME_BYTES = 4096
_UNIX_PATH_BYTES_MAX = 107


def listen(path: str) -> socket.socket:
    """A listening Unix socket of mode 0600, also where its path is longer than the kernel's 107 bytes.

    Raises:
        OSError: the folder doesn't exist, or can't be written.
    """
    folder, name = os.path.split(os.path.abspath(path))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    umask = os.umask(0o177)
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        is_short = len(os.fsencode(path)) <= _UNIX_PATH_BYTES_MAX
        listener.bind(path if is_short else f"/proc/self/fd/{opened}/{name}")
        listener.listen(BACKLOG)
    finally:
        os.umask(umask)
        os.close(opened)
    return listener


def sweep(path: str) -> None:
    """Removes a socket that is this host's alone, and its folder if nothing else is in it: the sidecar may be dead."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(os.path.abspath(path)))


class Host:
    """The host's loop."""

    def __init__(
        self, stage: str, listener: socket.socket, lifeline: Optional[int], memory_bytes: Optional[int] = None
    ) -> None:
        """`memory_bytes` is what all predictors together may hold; None: what the machine or the container has."""
        self._stage = stage
        self._memory = MemoryWatch(memory_bytes)
        self._memory_check_at = 0.0
        self._listener = listener
        self._lifeline = lifeline
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe()
        self._new: Dict[int, socket.socket] = {}  # connections before their first frame
        self._control: Optional[socket.socket] = None
        self._unsent = b""
        self._children: Dict[int, Child] = {}  # by predictor number
        self._is_ending = False
        self._is_terminated = False

    def run(self) -> int:
        """Serves until the control connection or the lifeline ends or SIGTERM comes; then ends all predictors."""
        children.adopt_orphans()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the sidecar to answer
        for fd in (self._listener.fileno(), self._wake_read):
            self._epoll.register(fd, select.EPOLLIN)
        if self._lifeline is not None:
            self._epoll.register(self._lifeline, select.EPOLLIN)
        while not self._is_ending or self._children:
            for fd, events in self._epoll.poll(self._timeout_s()):
                self._ready(fd, events)
            if self._is_terminated:
                self._end_all()
            self._reap()
            self._advance()
        children.end_all()
        return 0

    def _terminate(self, *_: object) -> None:
        self._is_terminated = True  # the loop was woken and looks

    def _timeout_s(self) -> float:
        due = [child.kill_at for child in self._children.values() if child.kill_at is not None]
        if self._children:
            due.append(self._memory_check_at)
        return max(min(due) - time.monotonic(), 0) if due else -1

    def _check_memory(self, now: float) -> None:
        """Ends the largest predictor where memory runs out; one at a time, since its end changes everything."""
        if now < self._memory_check_at:
            return
        self._memory_check_at = now + CHECK_EVERY_S
        if any(child.kill_at is not None for child in self._children.values()):
            return
        by_pid = {child.pid: child for child in self._children.values()}
        found = self._memory.too_large(by_pid)
        if found is not None:
            by_pid[found[0]].kill(now, found[1])

    def _ready(self, fd: int, events: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
        elif fd == self._wake_read:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        elif fd == self._lifeline:
            self._epoll.unregister(fd)
            self._end_all()
        elif self._control is not None and fd == self._control.fileno():
            self._serve_control(events)
        elif fd in self._new:
            self._first_frame(self._new[fd])
        else:
            self._serve_child(fd)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        self._new[connection.fileno()] = connection
        self._epoll.register(connection, select.EPOLLIN)

    def _first_frame(self, connection: socket.socket) -> None:
        # Small enough to come in one piece over a Unix socket; what isn't whole is no sidecar of ours.
        try:
            found = frames.Decoder().feed(connection.recv(FIRST_FRAME_BYTES))
            message = found[0] if found else None
        except (frames.ProtocolError, OSError):
            message = None
        del self._new[connection.fileno()]
        self._epoll.unregister(connection)
        if isinstance(message, messages.Control) and message.stage == self._stage and self._control is None:
            self._control = connection
            self._epoll.register(connection, select.EPOLLIN)
        elif (
            isinstance(message, messages.Predictor) and message.predictor not in self._children and not self._is_ending
        ):
            self._fork(message.predictor, connection)
        else:
            connection.close()

    def _fork(self, number: int, connection: socket.socket) -> None:
        held: List[int] = [self._listener.fileno(), self._epoll.fileno(), self._wake_read, self._wake_write]
        held += [each.fileno() for each in self._new.values()]
        if self._control is not None:
            held.append(self._control.fileno())
        for other in self._children.values():
            held += [other.connection.fileno(), other.stderr]

        def serve(pid: int) -> int:
            connection.setblocking(True)
            return Serving(connection, number, self._stage).run(pid)

        child = children.start(number, connection, f"[{self._stage}/{number}] ", held, serve)
        self._children[number] = child
        self._epoll.register(connection, select.EPOLLRDHUP)
        self._epoll.register(child.stderr, select.EPOLLIN)

    def _serve_control(self, events: int) -> None:
        assert self._control is not None
        if events & select.EPOLLOUT:
            self._send_control(b"")
        if not events & ~select.EPOLLOUT:
            return
        try:
            is_open = bool(self._control.recv(FIRST_FRAME_BYTES))
        except BlockingIOError:
            return
        except OSError:
            is_open = False
        if not is_open:
            self._epoll.unregister(self._control)
            self._control.close()
            self._control = None
            self._end_all()

    def _serve_child(self, fd: int) -> None:
        for child in self._children.values():
            if fd == child.connection.fileno():
                self._epoll.unregister(fd)  # it would report the hang-up for ever
                child.end(time.monotonic())
                return
            if fd == child.stderr:
                if not child.read_stderr():
                    self._epoll.unregister(fd)
                return

    def _reap(self) -> None:
        """Collects what has ended: predictors, and orphans of theirs that became ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._children.values():
                if child.pid == pid:
                    child.status = status
                    child.kill_at = time.monotonic()  # the rest of its group follows at once

    def _advance(self) -> None:
        """Sends the signals that are due and reports the predictors whose whole group is gone."""
        now = time.monotonic()
        self._check_memory(now)
        for child in list(self._children.values()):
            if child.is_gone:
                self._report(child)
            else:
                child.signal_due(now)

    def _report(self, child: Child) -> None:
        assert child.status is not None
        tail = child.tail()
        for fd in (child.connection.fileno(), child.stderr):
            with contextlib.suppress(FileNotFoundError):  # it had ended before
                self._epoll.unregister(fd)
        child.close()
        del self._children[child.number]
        is_signal = os.WIFSIGNALED(child.status)
        exited = messages.Exited(
            child.number,
            None if is_signal else os.WEXITSTATUS(child.status),
            os.WTERMSIG(child.status) if is_signal else None,
            tail,
        )
        self._send_control(frames.encode(exited))

    def _send_control(self, data: bytes) -> None:
        if self._control is None:
            return
        self._unsent += data
        try:
            self._unsent = self._unsent[self._control.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = b""  # its end is read as an event of its own
        self._epoll.modify(self._control, select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0))

    def _end_all(self) -> None:
        self._is_ending = True
        now = time.monotonic()
        for child in self._children.values():
            child.end(now)
