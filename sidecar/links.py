"""One connection to a predictor host or a predictor: a non-blocking socket on the event loop, frames in and out.

Raw sockets with `add_reader` because a batch crosses here twice: streams and futures cost twice the time of the whole
hand-over. All frames that one read brings are handed on in one wake-up.

Not here: what the frames mean (`sidecar.predictors`).
"""

import array
import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

from headrace.local.frames import Decoder, ProtocolError
from headrace.local.messages import Message

READ_BYTES = 64 << 10
"""Many frames; below what malloc would map and unmap for every read."""
UNSENT_BYTES_MAX = 16 << 20
"""More than two batch frames of the largest size: beyond it the other side has stopped reading."""

_UNIX_PATH_BYTES_MAX = 107

_GONE = (BrokenPipeError, ConnectionResetError)
"""The other side has ended. What it said before may still be unread, so only reading ends a connection for this."""


class Link:
    """A connected socket. `closed` is called once, with a reason, unless `close` ends it from this side."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        received: Callable[[Message], None],
        closed: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._received = received
        self._closed = closed
        self._decoder = Decoder()
        self._unsent = bytearray()
        self._is_open = True
        loop.add_reader(sock, self._read)

    def send(self, data: bytes) -> None:
        """Sends now what the kernel takes, and the rest as it becomes able to. After the end it does nothing."""
        if not self._is_open:
            return
        if not self._unsent:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except _GONE:
                return
            except OSError as error:
                # Reported later: the caller is in the middle of sending and must not be called back.
                self._loop.call_soon(self._end, f"sending: {error}")
                return
            if sent == len(data):
                return
            data = data[sent:]
            self._loop.add_writer(self._sock, self._write)
        self._unsent += data
        if len(self._unsent) > UNSENT_BYTES_MAX:
            self._loop.call_soon(self._end, "it stopped reading")

    def send_with_fd(self, data: bytes, fd: int) -> None:
        """Sends the first frame that carries a file descriptor; nothing may be unsent before it."""
        assert not self._unsent, "a file descriptor behind unsent bytes"
        try:
            sent = self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        except _GONE:
            return
        except OSError as error:
            self._loop.call_soon(self._end, f"sending the arena: {error}")
            return
        if sent < len(data):
            self.send(data[sent:])

    def close(self) -> None:
        """Ends the connection from this side; `closed` isn't called."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()

    def _end(self, reason: str) -> None:
        if self._is_open:
            self.close()
            self._closed(reason)

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it ended with frames of ours unread
            self._end("")
            return
        except OSError as error:
            self._end(f"reading: {error}")
            return
        if not data:
            self._end("")
            return
        try:
            for message in self._decoder.feed(data):
                self._received(message)
                if not self._is_open:
                    return
        except ProtocolError as error:
            self._end(f"it broke the protocol: {error}")

    def _write(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except _GONE:
            self._unsent.clear()
            self._loop.remove_writer(self._sock)
            return
        except OSError as error:
            self._end(f"sending: {error}")
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._sock)


def connect(path: Path) -> socket.socket:
    """A non-blocking connection to a Unix socket, also where its path is longer than the kernel's 107 bytes.

    Raises:
        FileNotFoundError, ConnectionRefusedError: nobody listens there yet.
        BlockingIOError: its queue of connections is full just now.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if len(os.fsencode(path)) <= _UNIX_PATH_BYTES_MAX:
            sock.connect(os.fspath(path))
        else:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.connect(f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)
    except OSError:
        sock.close()
        raise
    return sock
