"""One file on its way: written to its store's staging, hashed as it is written, durable once finished.

StagedFile ──write──▶ staging ──finish──▶ Staged (size, digest, where)
           └─an OSError, or abort──▶ nothing

Not here: what staging is in each store (`headrace.stores`).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from headrace.errors import SinkError, SinkUnavailable
from headrace.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from headrace.stores.port import Growing as GrowingInStore
    from headrace.stores.port import WorkerStore


@dataclass(frozen=True, slots=True)
class Staged:
    """A finished file that nobody sees yet."""

    name: str  # final name, relative to the output
    kind: Literal["data", "rejects"]
    size: int  # bytes
    digest: str  # blake2b-128, hex
    rows: int
    staged: str  # where it lies now, in its store's words


class Growing(Protocol):
    """A binary file object as pyarrow writes to it."""

    def write(self, data: bytes, /) -> int:
        """Adds `data`."""


class StagedFile:
    """A binary file object, for pyarrow to write to, that only grows.

    Raises:
        SinkError: the file can't be made: the store has no place for it, or doesn't let us write.
    """

    def __init__(self, store: "WorkerStore", name: str) -> None:
        """`name` is the final one, relative to the output."""
        self.name = name
        self.size = 0
        self.failure: OSError | None = None  # the first one: pyarrow doesn't always hand on what it ran into
        self._digest = hashlib.blake2b(digest_size=16)
        try:
            self._growing: GrowingInStore = store.stage(name)
        except OSError as error:
            raise _sink_error(name, error) from error
        self.has_ended = False  # finished or removed

    @property
    def closed(self) -> bool:
        """What pyarrow asks before it writes; also then it must not fail."""
        return False

    def writable(self) -> bool:
        """What pyarrow asks before it writes."""
        return True

    def readable(self) -> bool:
        """Never: what is written is hashed and gone."""
        return False

    def seekable(self) -> bool:
        """Never: bytes are hashed in the order in which they are written."""
        return False

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def flush(self) -> None:
        """Nothing is buffered here."""

    def write(self, data: bytes | memoryview) -> int:
        """Writes all of `data`. What comes after the end goes nowhere: pyarrow completes files it is done with."""
        rest = memoryview(data).cast("B")
        nbytes = len(rest)
        if self.has_ended:
            return nbytes
        self._digest.update(rest)
        try:
            self._growing.append(rest)
        except OSError as error:
            self.failure = self.failure or error
            raise
        self.size += nbytes
        return nbytes

    def close(self) -> None:
        """What pyarrow calls at its end, before the file is synced: nothing."""

    def finish(self, rows: int, kind: Literal["data", "rejects"]) -> Staged:
        """Makes the file durable.

        Raises:
            OSError: it can't be.
        """
        assert not self.has_ended, "a file is finished once"
        try:
            staged = self._growing.finish()
        except OSError as error:
            self.failure = self.failure or error
            raise
        self.has_ended = True
        return Staged(self.name, kind, self.size, self._digest.hexdigest(), rows, staged)

    def remove(self) -> None:
        """Removes the file, whatever state it is in; one that can't be is left to the job's finish."""
        self.has_ended = True
        self._growing.discard()


@contextmanager
def removed_on_error(file: StagedFile) -> Iterator[None]:
    """Removes the file when its writing fails, and says why in the user's words.

    Raises:
        SinkError: the store failed; the original is chained.
    """
    try:
        yield
    except BaseException as error:
        file.remove()
        # pyarrow wraps what a file object raises, or makes an error of its own of it.
        failure = file.failure or (error if isinstance(error, OSError) else None)
        if failure is not None:
            raise _sink_error(file.name, failure) from error
        raise


def _sink_error(name: str, error: OSError) -> SinkError:
    kind = SinkUnavailable if isinstance(error, StoreUnavailable) else SinkError
    return kind(f"{error.filename or name} can't be written: {error.strerror or error}")
