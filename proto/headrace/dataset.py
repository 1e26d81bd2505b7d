"""The dataset as the plan knows it: files laid end to end, so that a shard is one range of units.

Units are rows (Parquet, Arrow), bytes (CSV, JSONL) or files (a listing). File i covers the dataset's units
``[origins[i], origins[i + 1])``; a shard ``[begin, end)`` may lie in one file or span consecutive ones, and any cut of
it is again two such ranges. Files of zero units are listed and belong to no shard.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Slice:
    """Units ``[begin, end)`` of one input file."""

    path: str
    size: int  # bytes of the file when it was planned
    version: str  # mtime in ns, or an ETag
    begin: int
    end: int
    units: int  # units of the whole file
    origin: int  # the dataset unit at which the file begins


@dataclass(frozen=True, slots=True)
class CorruptUnits:
    """Dataset units ``[begin, end)`` that could not be read, listed because the job says `onCorrupt: reject`."""

    begin: int
    end: int
    reason: str


def corrupt_rows(unit: str, ranges: Iterable[CorruptUnits]) -> int:
    """Rows that the budget of rejects counts for `ranges`: their units where these are rows or files, else 1 each.

    How many rows were in a range of bytes that can't be read nobody knows.
    """
    return sum(1 if unit == "byte" else found.end - found.begin for found in ranges)


def corrupt_fault(begin: int, end: int, ranges: Iterable[CorruptUnits]) -> str:
    """Why `ranges` can't be what was corrupt in the units ``[begin, end)``; "" if they can."""
    done = begin
    for found in ranges:
        if not done <= found.begin < found.end <= end:
            return f"the corrupt range [{found.begin}, {found.end}) isn't one of its own, in [{done}, {end})"
        done = found.end
    return ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The planned input: parallel columns, one entry per file, in input order.

    Shapes: `paths`, `sizes`, `versions` have n entries, `origins` (int64) n + 1. `cuts` (int64, sorted, unique) are
    the units at which cutting costs nothing (ends of row groups, of files); cutting elsewhere is allowed only if
    `divisible`.
    """

    unit: str  # row | byte | file
    paths: tuple[str, ...]
    sizes: npt.NDArray[np.int64]
    versions: tuple[str, ...]
    origins: npt.NDArray[np.int64]
    cuts: npt.NDArray[np.int64]
    divisible: bool
    bytes_total: int  # of the columns that are read, where a footer tells
    rows_total: int | None  # None where only reading tells (bytes)
    rows_estimated: bool = False

    @property
    def units_total(self) -> int:
        """Units of the whole dataset."""
        return int(self.origins[-1]) if len(self.origins) else 0

    def slices(self, begin: int, end: int) -> Iterator[Slice]:
        """The files' parts that make up ``[begin, end)``, in order; none for an empty range."""
        if begin >= end:
            return
        i = int(np.searchsorted(self.origins, begin, side="right")) - 1
        while i < len(self.paths) and self.origins[i] < end:
            origin, stop = int(self.origins[i]), int(self.origins[i + 1])
            if stop > origin:
                yield Slice(
                    path=self.paths[i],
                    size=int(self.sizes[i]),
                    version=self.versions[i],
                    begin=max(begin, origin) - origin,
                    end=min(end, stop) - origin,
                    units=stop - origin,
                    origin=origin,
                )
            i += 1
