"""Between Arrow's buffers and numpy, without `to_numpy` and `pyarrow.array`.

Those import pandas where it is installed, to see whether they were given something of its own: 0.2 s of a job's start.
"""

import numpy as np
import pyarrow as pa

from sidecar.converter.dtypes import AnyArray, Mask, leaf_dtype


def array_values(array: pa.Array) -> AnyArray:
    """The values of a plain fixed-width array, over its own memory where the layouts agree; nulls hold anything."""
    kind, count = array.type, len(array)
    dtype = leaf_dtype(kind)
    if dtype is None:  # the null type, of which no value is ever looked at
        return np.zeros(count, np.bool_)
    data = array.buffers()[1]
    if count == 0 or data is None:
        return np.zeros(count, dtype)
    if dtype.kind == "b":
        first = array.offset // 8
        bits = np.frombuffer(data, np.uint8)[first : (array.offset + count + 7) // 8]
        skip = array.offset - first * 8
        return np.unpackbits(bits, bitorder="little")[skip : skip + count].view(np.bool_)
    stored = np.dtype(f"i{kind.bit_width // 8}") if dtype.kind in "mM" else dtype
    values: AnyArray = np.frombuffer(data, stored, count, array.offset * stored.itemsize)
    if dtype.kind in "mM":
        return values.astype(np.int64, copy=False).view(dtype)
    return values


def arrow_mask(mask: Mask) -> pa.BooleanArray:
    """Booleans as Arrow has them: bits, the lowest first."""
    return pa.Array.from_buffers(pa.bool_(), len(mask), [None, pa.py_buffer(np.packbits(mask, bitorder="little"))])


def arrow_text(text: str) -> pa.StringScalar:
    """A string as an Arrow scalar."""
    data = text.encode()
    offsets = np.array([0, len(data)], np.int32)
    return pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])[0]
