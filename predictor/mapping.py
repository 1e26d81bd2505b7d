"""The arena as a predictor sees it: mapped twice, once to read inputs, once to write outputs.

A stage that writes into an input by mistake gets numpy's ValueError (or, from C, a fault of its own) instead of
changing what another stage reads. Neither mapping is inherited by what the user's code forks.

Not here: which bytes are whose (the sidecar says so with each batch).
"""

import mmap
import os
from typing import List, Optional, Tuple

import numpy as np

from .local import columns


class ArenaMap:
    """Both mappings, and the views of columns over them."""

    def __init__(self, fd: int, nbytes: int) -> None:
        """Maps `fd` and closes it.

        Raises:
            OSError, ValueError: it is no file of `nbytes` bytes.
        """
        try:
            self.inputs = mmap.mmap(fd, nbytes, mmap.MAP_SHARED, mmap.PROT_READ)
            self.outputs = mmap.mmap(fd, nbytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(fd)
        for mapping in (self.inputs, self.outputs):
            mapping.madvise(mmap.MADV_DONTFORK)

    def tensor(self, column: columns.Column) -> np.ndarray:
        """A read-only array over a TENSOR column."""
        return np.ndarray(column.shape, _DTYPES[column.dtype], self.inputs, column.offset)

    def writable(self, dtype: np.dtype, shape: Tuple[int, ...], offset: int) -> np.ndarray:
        """An array to write a result into."""
        return np.ndarray(shape, dtype, self.outputs, offset)

    def is_null(self, column: columns.Column) -> Optional[np.ndarray]:
        """bool [rows], true for null; None where no row is null."""
        if column.validity_offset < 0:
            return None
        null = np.ndarray((column.rows,), np.uint8, self.inputs, column.validity_offset) == 0
        return null if null.any() else None

    def offsets(self, column: columns.Column) -> np.ndarray:
        """int64 [rows + 1] of a UTF8 or BINARY column."""
        return np.ndarray((column.rows + 1,), np.int64, self.inputs, column.offset)

    def objects(self, column: columns.Column) -> np.ndarray:
        """Object array of str (UTF8) or bytes (BINARY), None for null. Copies.

        Raises:
            UnicodeDecodeError: UTF8 that isn't.
        """
        ends: List[int] = self.offsets(column).tolist()
        begin = column.data_offset
        values: List[object]
        if column.kind == columns.BINARY:
            data = self.inputs[begin + ends[0] : begin + ends[-1]]
            values = [data[a - ends[0] : b - ends[0]] for a, b in zip(ends, ends[1:])]
        else:
            data = self.inputs[begin + ends[0] : begin + ends[-1]]
            if data.isascii():  # then bytes and characters count alike, and slicing is all
                text = data.decode("ascii")
                values = [text[a - ends[0] : b - ends[0]] for a, b in zip(ends, ends[1:])]
            else:
                values = [data[a - ends[0] : b - ends[0]].decode() for a, b in zip(ends, ends[1:])]
        found = np.empty(column.rows, object)
        found[:] = values
        null = self.is_null(column)
        if null is not None:
            found[null] = None
        return found


_DTYPES = tuple(np.dtype(name) for name in columns.DTYPES)
DTYPE_INDEX = {dtype: index for index, dtype in enumerate(_DTYPES)}
