"""What stores behind a network share: work for several at once, files that grow, whose fault an error is."""

import contextlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from headrace.errors import SinkError, SinkUnavailable
from headrace.retries import Patience
from headrace.stores.port import Growing, StoreUnavailable

T = TypeVar("T")

UPLOADERS = 16
"""Requests of uploads and of publishing under way at once in one process."""
PUBLISHES_AHEAD = 32
"""Requests asked for beyond the one that is waited for."""
READ_BYTES = 4 << 20
"""Of one ranged read."""
PATIENCE = Patience(tries=8, first_s=0.1)
"""Of an output's requests: more tries than a reader's, the first of them sooner."""


@cache
def uploaders() -> ThreadPoolExecutor:
    """Threads of this process that wait for answers of stores."""
    return ThreadPoolExecutor(UPLOADERS, "upload")


def each(work: Callable[[T], None], items: Iterable[T]) -> None:
    """Does `work` for all items, several at once; the first error is raised when those under way have ended."""
    running: deque[Future[None]] = deque()
    try:
        for item in items:
            running.append(uploaders().submit(work, item))
            if len(running) > PUBLISHES_AHEAD:
                running.popleft().result()
        while running:
            running.popleft().result()
    finally:
        for future in running:
            future.cancel()
        for future in running:
            if not future.cancelled():
                future.exception()


class GrowingSink(io.RawIOBase):
    """A file object over something that grows."""

    def __init__(self, growing: Growing) -> None:
        super().__init__()
        self._growing = growing
        self._size = 0

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes written."""
        return self._size

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Adds bytes."""
        view = memoryview(data).cast("B")
        self._growing.append(view)
        self._size += len(view)
        return len(view)


@contextlib.contextmanager
def sink_errors(what: str) -> Iterator[None]:
    """A store's OSErrors as the output's: what couldn't be done, and why."""
    try:
        yield
    except StoreUnavailable as error:
        raise SinkUnavailable(f"{what}: {error}") from error
    except OSError as error:
        raise SinkError(f"{what}: {error}") from error
