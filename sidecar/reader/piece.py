"""What a format adapter yields, and the window of a lease through which it reads one file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import EACCES, EPERM
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.dataset import Slice
from headrace.errors import InputError, SourceRefused, SourceUnavailable
from sidecar.reader.block import BadRow
from sidecar.reader.cursor import Cursor

READ_ERRORS = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError)
"""What pyarrow and the file system raise for bytes that can't be read; pyarrow's lack of memory is among them."""


def read_error_text(error: BaseException) -> str:
    """The first line of what a READ_ERROR says. Lack of memory is no damage and is raised again."""
    if isinstance(error, MemoryError):
        raise error
    return (str(error) or type(error).__name__).splitlines()[0]


def unreadable(path: str, error: OSError) -> InputError:
    """The error of a file whose bytes can't be had; it isn't the bytes' fault, so no job says to go on without them."""
    made = SourceRefused if error.errno in (EACCES, EPERM) else SourceUnavailable
    return made(f"{path}: can't be read: {read_error_text(error)}")


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows decoded from file units up to `end`, from where the piece before ended; before filter and Hive keys.

    `address` is int64 ``[rows.num_rows]``. With `damage`, nothing up to `end` could be read.
    """

    rows: pa.RecordBatch | None  # the file's own columns, in any order; None: no rows
    address: npt.NDArray[np.int64]
    end: int
    bad: tuple[BadRow, ...] = ()
    skipped: int = 0  # rows that statistics say the filter drops
    damage: str = ""


NO_ADDRESS: npt.NDArray[np.int64] = np.empty(0, np.int64)


class Window:
    """One file's part of a lease, in the file's own units."""

    def __init__(self, part: Slice, cursor: Cursor) -> None:
        self.part = part
        self._cursor = cursor

    @property
    def begin(self) -> int:
        """First unit to read."""
        return self.part.begin

    @property
    def end(self) -> int:
        """Where to stop: the slice's end, or less once a split has lowered the lease's."""
        return min(self.part.end, self._cursor.end - self.part.origin)

    def claim(self, to: int) -> int:
        """Claims units up to `to`; returns how far may be read."""
        return self._cursor.claim(min(to, self.part.end) + self.part.origin) - self.part.origin

    def claim_whole(self) -> bool:
        """Claims all of the slice, or nothing: a split may have given a part of it away."""
        return self._cursor.claim_whole(self.part.end + self.part.origin)


class Format(Protocol):
    """Reads files of one format."""

    def pieces(self, window: Window) -> Iterator[Piece]:
        """Pieces that tile ``[window.begin, window.end)``, in order.

        Damage inside of a file is a piece; an exception of READ_ERRORS means that the rest of the file can't be read.
        """


@runtime_checkable
class SmallFiles(Protocol):
    """A format that can read many small files at once."""

    def together(self, files: Sequence[tuple[Slice, bytes]]) -> list[Piece] | None:
        """One piece for each file, given with all its bytes; None: these must be read one by one."""


Types = Mapping[str, pa.DataType]
"""The columns wanted from the files themselves (neither Hive keys nor filtered out), with their planned types."""
