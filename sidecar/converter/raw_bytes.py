"""Binary columns that hold tensors as raw bytes (images), one copy from Arrow's memory into the arena.

A row of ``n`` elements is either n times the dtype's size, then its bytes are the elements, little-endian; or n bytes
long, then they are uint8 values that are cast on the way.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.errors import BadJob, Fault
from headrace.local.columns import Column
from sidecar.converter import dtypes
from sidecar.converter.buffers import array_values
from sidecar.converter.dtypes import AnyArray, DType
from sidecar.converter.flaws import NULL_VALUE, WRONG_SHAPE, BadValue, Flaws
from sidecar.converter.leaves import Target, resolve_target
from sidecar.converter.nested import common_length, null_message, plain, plain_type
from sidecar.converter.numeric import tensor_column
from sidecar.converter.region import Region
from sidecar.converter.tensors import SourceTensor

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReadBytes:
    """A block's raw rows, checked and ready to be copied."""

    data: Bytes
    begins: Offsets  # of each row in `data`
    lengths: Offsets  # of each row in bytes; -1 for null
    bad: dict[int, BadValue]
    element: DType  # of raw rows
    shape: tuple[int, ...]
    target: Target

    def measure(self, begin: int, end: int) -> int:
        """Bytes of the tensor of rows ``[begin, end)``."""
        return (end - begin) * math.prod(self.shape) * self.target.dtype.itemsize

    def write(self, begin: int, end: int, region: Region) -> Column:
        """Copies and casts rows ``[begin, end)`` into the arena; bad rows hold zeros."""
        rows, per_row, dtype = end - begin, math.prod(self.shape), self.target.dtype
        offset = region.take(self.measure(begin, end))
        matrix = region.array(offset, dtype, rows * per_row).reshape(rows, per_row)
        begins, lengths = self.begins[begin:end], self.lengths[begin:end]
        if rows and not self.bad and (lengths == lengths[0]).all() and (np.diff(begins) == lengths[0]).all():
            raw = self.data[int(begins[0]) : int(begins[-1]) + int(lengths[0])]
            self._copy(matrix.reshape(-1), raw, int(lengths[0]))
        else:
            for row in range(rows):
                first, length = int(begins[row]), int(lengths[row])
                if begin + row in self.bad:
                    matrix[row] = 0
                elif length < 0:
                    matrix[row] = self.target.fill
                else:
                    self._copy(matrix[row], self.data[first : first + length], length)
        return tensor_column(offset, dtype, (rows, *self.shape))

    def _copy(self, into: AnyArray, raw: Bytes, length: int) -> None:
        is_raw = length == math.prod(self.shape) * self.element.itemsize
        dtypes.copy_cast(into, raw.view(self.element) if is_raw else raw)


@dataclass(frozen=True, slots=True)
class BytesRecipe:
    """How one binary column becomes a tensor."""

    column: str
    index: int
    target: Target
    element: DType
    shape: tuple[int, ...] | None  # of one row; None: one axis, as long as all rows are

    def read(self, rows: pa.RecordBatch) -> ReadBytes:
        """Checks nulls and lengths."""
        flaws = Flaws()
        array = plain(rows.column(self.index))
        data, offsets, is_fixed = byte_rows(array)
        begins = offsets[:-1].astype(np.int64, copy=False)
        lengths = np.diff(offsets).astype(np.int64, copy=False)
        if array.null_count:
            nulls = array_values(array.is_null())
            if self.target.fill is None:
                flaws.add(np.flatnonzero(nulls), self.column, NULL_VALUE, null_message(self.column))
            lengths = np.where(nulls, -1, lengths)
        present = lengths[lengths >= 0]
        itemsize = self.element.itemsize
        shape = (common_length(present, self.column) // itemsize,) if self.shape is None else self.shape
        count = math.prod(shape)
        right = {count * itemsize} if self.shape is None else {count * itemsize, count}
        for length in () if is_fixed else set(np.unique(present).tolist()) - right:
            message = f"column {self.column!r}: {length} bytes where {list(shape)} of {self.element.name} are wanted"
            flaws.add(np.flatnonzero(lengths == length), self.column, WRONG_SHAPE, message)
        return ReadBytes(data, begins, lengths, flaws.found, self.element, shape, self.target)


def byte_rows(array: pa.Array) -> tuple[Bytes, AnyArray, bool]:
    """The bytes of a plain string or binary array, the rows + 1 offsets in them, and whether all rows have one width.

    Offsets keep Arrow's width and need not begin at 0.
    """
    buffers, count = array.buffers(), len(array)
    if pa.types.is_fixed_size_binary(array.type):
        width = array.type.byte_width
        data = np.frombuffer(buffers[1], np.uint8) if buffers[1] is not None else np.zeros(0, np.uint8)
        return data, (np.arange(count + 1, dtype=np.int64) + array.offset) * width, True
    is_large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    kind = np.dtype(np.int64 if is_large else np.int32)
    # An empty array may come without any offsets.
    if buffers[1] is None or buffers[1].size == 0:
        offsets = np.zeros(count + 1, kind)
    else:
        offsets = np.frombuffer(buffers[1], kind, count + 1, array.offset * kind.itemsize)
    data = np.frombuffer(buffers[2], np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    return data, offsets, False


def bytes_recipe(schema: pa.Schema, tensor: SourceTensor) -> BytesRecipe:
    """Resolves one binary column with a `cast`.

    Raises:
        BadJob: width, shape and dtype don't go together.
    """
    (name,) = tensor.columns
    kind, cast = plain_type(schema.field(name).type), tensor.cast
    # Without a dtype of the job's own, the bytes are what the model takes, if its rows are as long as that.
    element = np.dtype(cast.dtype or tensor.dtype or "uint8")
    shape = cast.shape
    if shape is None and tensor.shape is not None and None not in tensor.shape[1:]:
        shape = tuple(int(dim or 0) for dim in tensor.shape[1:])
    target = resolve_target(name, pa.from_numpy_dtype(element), cast, tensor.dtype)
    if pa.types.is_fixed_size_binary(kind):
        width = kind.byte_width
        if shape is None and width % element.itemsize == 0:
            shape = (width // element.itemsize,)
        count = 0 if shape is None else math.prod(shape)
        if shape is None or width not in (count * element.itemsize, count):
            expected = f"{list(shape or ())} of {element.name} or of uint8"
            raise BadJob([Fault(f"column {name!r}", f"{width} bytes in a row", expected)])
    return BytesRecipe(name, schema.get_field_index(name), target, element, shape)
