"""One file on its way: written to staging, hashed as it is written, durable once closed.

StagedFile ──write──▶ staging/NAME ──close: fsync──▶ Staged (size, digest)
           └─an OSError, or abort──▶ nothing
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from headrace.errors import SinkError
from headrace.publish import staged_name


@dataclass(frozen=True, slots=True)
class Staged:
    """A finished file that nobody sees yet."""

    name: str  # final name, relative to the output
    path: Path  # where it lies now
    kind: Literal["data", "rejects"]
    size: int  # bytes
    digest: str  # blake2b-128, hex
    rows: int


class Growing(Protocol):
    """A binary file object as pyarrow writes to it."""

    def write(self, data: bytes, /) -> int:
        """Adds `data`."""


class StagedFile:
    """A binary file object, for pyarrow to write to, that only grows.

    Raises:
        SinkError: the file can't be made: the folder is gone or not writable.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """`name` is the final one, relative to the output."""
        self.name = name
        self.path = folder / staged_name(name)
        self.size = 0
        self.failure: OSError | None = None  # the first one: pyarrow doesn't always hand on what it ran into
        self._digest = hashlib.blake2b(digest_size=16)
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _sink_error(self.path, error) from error

    @property
    def closed(self) -> bool:
        """What pyarrow asks before it writes; also then it must not fail."""
        return False

    @property
    def has_ended(self) -> bool:
        """Finished or removed."""
        return self._fd < 0

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
        if self._fd < 0:
            return len(memoryview(data).cast("B"))
        rest = memoryview(data).cast("B")
        nbytes = len(rest)
        self._digest.update(rest)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
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
        os.fsync(self._fd)
        self._close()
        return Staged(self.name, self.path, kind, self.size, self._digest.hexdigest(), rows)

    def remove(self) -> None:
        """Closes and removes the file, whatever state it is in."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


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
            raise _sink_error(file.path, failure) from error
        raise


def _sink_error(path: Path, error: OSError) -> SinkError:
    return SinkError(f"{path} can't be written: {error.strerror or error}")
