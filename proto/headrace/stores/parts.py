"""A file that leaves this process part by part while it grows."""

import contextlib
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future

from headrace.stores.writing import uploaders

PARTS_AHEAD = 2
"""Of one file, under way at once while the next one fills."""


class Parts(ABC):
    """Used by one thread at a time; parts go out in others."""

    def __init__(self, part_bytes: int, parts_ahead: int = PARTS_AHEAD) -> None:
        """`part_bytes` is the size of the first parts."""
        self._part_bytes = part_bytes
        self._parts_ahead = parts_ahead
        self._buffer = bytearray()
        self._running: deque[tuple[int, Future[str]]] = deque()
        self._number = 0  # of the next part

    def _begin(self) -> None:  # noqa: B027
        """Before the first part goes out."""

    @abstractmethod
    def _put(self, number: int, body: bytes) -> str:
        """Sends a part, in another thread; gives what the store calls it."""

    @abstractmethod
    def _arrived(self, number: int, called: str) -> None:
        """The store has this part and all before it."""

    def _size_of(self, number: int) -> int:
        """Bytes of a part that isn't the last."""
        return self._part_bytes

    def append(self, data: memoryview) -> None:
        """Adds bytes; waits while enough of them are under way."""
        while data:
            size = self._size_of(self._number)
            room = size - len(self._buffer)
            self._buffer += data[:room]
            data = data[room:]
            if len(self._buffer) == size:
                self._send()

    def unsent(self) -> bytes | None:
        """All bytes, if none of them has been sent."""
        return None if self._number else bytes(self._buffer)

    def _flush(self) -> None:
        """Waits until the store has all parts."""
        if self._buffer or not self._number:  # a file of no bytes is one part of none
            self._send()
        while self._running:
            self._collect()

    def _cancel(self) -> None:
        """Waits until nothing is under way."""
        for _, running in self._running:
            running.cancel()
        for _, running in self._running:
            with contextlib.suppress(OSError):
                if not running.cancelled():
                    running.result()
        self._running.clear()

    def _send(self) -> None:
        if not self._number:
            self._begin()
        while len(self._running) >= self._parts_ahead:
            self._collect()
        body, self._buffer = bytes(self._buffer), bytearray()
        self._running.append((self._number, uploaders().submit(self._put, self._number, body)))
        self._number += 1

    def _collect(self) -> None:
        number, running = self._running.popleft()
        self._arrived(number, running.result())
