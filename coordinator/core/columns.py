"""The lease table's columns: about 40 bytes a shard, and their packed form in checkpoints and plans.

Scalar reads and writes go through memoryviews (three times faster than numpy scalars), whole columns through numpy;
both see the same memory. Not here: what the columns mean (`leases`).
"""

import struct
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

PAGE_SHARDS: Final = 65_536
"""Shards of one page of a checkpoint: about 2.6 MB before compression."""

_ZLIB_LEVEL: Final = 1  # differences of columns are mostly zeros: higher levels cost time and gain nothing
_SIZES: Final = struct.Struct("<9I")

Ints = npt.NDArray[np.int64]


def pack_column(values: npt.NDArray[np.generic]) -> bytes:
    """Compresses an integer column; neighbours are alike, so their differences are stored, byte plane by byte plane."""
    steps = np.empty_like(values)
    steps[:1] = values[:1]
    np.subtract(values[1:], values[:-1], out=steps[1:])  # wraps around, and back again
    planes = steps.view(np.uint8).reshape(len(values), values.dtype.itemsize).T
    return zlib.compress(np.ascontiguousarray(planes).data, _ZLIB_LEVEL)


def unpack_column(packed: bytes, dtype: np.dtype[np.generic], count: int) -> npt.NDArray[np.generic]:
    """The column that was packed.

    Raises:
        ValueError: the bytes are not a column of `count` values of this dtype.
    """
    try:
        raw = zlib.decompress(packed)
    except zlib.error as e:
        raise ValueError(f"a packed column is damaged: {e}") from e
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"a packed column has {len(raw)} bytes instead of {count * dtype.itemsize}")
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, count)
    steps = np.ascontiguousarray(planes.T).reshape(-1).view(dtype)
    return np.cumsum(steps, dtype=dtype)


class ShardColumns:
    """One entry per shard, by shard id; grows by appending."""

    _DTYPES: Final[tuple[tuple[str, np.dtype[Any]], ...]] = (
        ("begins", np.dtype(np.int64)),  # first unit
        ("ends", np.dtype(np.int64)),  # one past the last unit
        ("numbers", np.dtype(np.int64)),  # journal number of the winning commit, 0: none known
        ("epochs", np.dtype(np.uint32)),  # highest epoch ever granted
        ("won", np.dtype(np.uint32)),  # epoch of the commit that counts, 0: none
        ("owners", np.dtype(np.uint32)),  # index of the last grantee or the winner
        ("states", np.dtype(np.uint8)),  # headrace.words.ShardState
        ("attempts", np.dtype(np.uint8)),  # grants charged by the failure table
        ("tries", np.dtype(np.uint8)),  # grants without progress, charged or not
    )

    def __init__(self, ends: Ints) -> None:
        """`ends` are those of consecutive shards from unit 0 on; the array is kept, not copied."""
        self.count = len(ends)
        self._arrays: dict[str, npt.NDArray[np.generic]] = {
            name: np.zeros(self.count, dtype) for name, dtype in self._DTYPES if name != "ends"
        }
        self._arrays["ends"] = ends
        if self.count:
            self._arrays["begins"][1:] = ends[:-1]
        self.dirty = np.zeros(self.count // PAGE_SHARDS + 1, np.bool_)
        self._look()

    def _look(self) -> None:
        views = {name: memoryview(array) for name, array in self._arrays.items()}  # type: ignore[arg-type]
        self.begins, self.ends, self.numbers = views["begins"], views["ends"], views["numbers"]
        self.epochs, self.won, self.owners = views["epochs"], views["won"], views["owners"]
        self.states, self.attempts, self.tries = views["states"], views["attempts"], views["tries"]

    def array(self, name: str) -> npt.NDArray[np.generic]:
        """The whole column, shape ``[count]``; shares memory until the next `append`."""
        return self._arrays[name][: self.count]

    def touch(self, shard: int) -> None:
        """Marks the shard's page for the next checkpoint."""
        self.dirty[shard // PAGE_SHARDS] = True

    def append(self, begin: int, end: int, attempts: int) -> int:
        """Adds a shard and returns its id."""
        shard = self.count
        self._reserve(shard + 1)
        self.count = shard + 1
        self.begins[shard], self.ends[shard], self.attempts[shard] = begin, end, attempts
        self.touch(shard)
        return shard

    def _reserve(self, count: int) -> None:
        capacity = len(self._arrays["begins"])
        if count > capacity:
            # An eighth more: doubling ten million shards would cost the memory of another table.
            capacity = max(count, capacity + capacity // 8 + 64)
            for name, dtype in self._DTYPES:
                grown = np.zeros(capacity, dtype)
                grown[: self.count] = self._arrays[name][: self.count]
                self._arrays[name] = grown
            self._look()
        pages = count // PAGE_SHARDS + 1
        if pages > len(self.dirty):
            self.dirty = np.append(self.dirty, np.zeros(pages - len(self.dirty), np.bool_))

    def pack(self, first: int, count: int) -> bytes:
        """All columns of shards ``[first, first + count)``."""
        packed = [pack_column(self._arrays[name][first : first + count]) for name, _ in self._DTYPES]
        return _SIZES.pack(*map(len, packed)) + b"".join(packed)

    def unpack(self, first: int, count: int, packed: bytes) -> None:
        """Overwrites shards ``[first, first + count)`` with what `pack` made of them."""
        self._reserve(first + count)
        self.count = max(self.count, first + count)
        at = _SIZES.size
        for (name, dtype), size in zip(self._DTYPES, _SIZES.unpack_from(packed), strict=True):
            self._arrays[name][first : first + count] = unpack_column(packed[at : at + size], dtype, count)
            at += size
