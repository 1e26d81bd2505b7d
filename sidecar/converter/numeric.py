"""One column of numbers, times or booleans, plain or in lists of any depth, to a tensor."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.errors import BadJob, Fault
from headrace.local.columns import TENSOR, Column
from headrace.program import Cast
from sidecar.converter import dtypes
from sidecar.converter.dtypes import AnyArray, DType, Mask
from sidecar.converter.flaws import WRONG_SHAPE, BadValue, Flaws
from sidecar.converter.leaves import Target, read_leaf, resolve_target
from sidecar.converter.nested import leaf_type, unnest
from sidecar.converter.region import Region


@dataclass(frozen=True, slots=True)
class ReadTensor:
    """A block's values of one tensor, checked and ready to be copied."""

    values: AnyArray  # [rows, *physical], of the source's dtype, over Arrow's memory where it can be
    nulls: Mask | None  # of the same shape: where the fill value goes
    bad: dict[int, BadValue]
    axes: tuple[int, ...] | None  # permutes `values` into the logical order of axes
    shape: tuple[int, ...]  # of one row in the tensor
    target: Target

    def measure(self, begin: int, end: int) -> int:
        """Bytes of the tensor of rows ``[begin, end)``."""
        return (end - begin) * math.prod(self.shape) * self.target.dtype.itemsize

    def write(self, begin: int, end: int, region: Region) -> Column:
        """Copies and casts rows ``[begin, end)`` into the arena; bad rows hold zeros."""
        dtype, rows = self.target.dtype, end - begin
        offset = region.take(self.measure(begin, end))
        flat = region.array(offset, dtype, rows * math.prod(self.shape))
        source = self.values[begin:end]
        nulls = None if self.nulls is None else self.nulls[begin:end]
        if self.axes is not None:
            source = source.transpose(self.axes)
            nulls = None if nulls is None else nulls.transpose(self.axes)
        into = flat.reshape(source.shape)
        dtypes.copy_cast(into, source)
        if nulls is not None:
            into[nulls] = self.target.fill
        blank_rows(flat.reshape(rows, *self.shape), self.bad, begin, end)
        return tensor_column(offset, dtype, (rows, *self.shape))


def blank_rows(tensor: AnyArray, bad: dict[int, BadValue], begin: int, end: int) -> None:
    """Zeroes those of rows ``[begin, end)`` that are bad: what Arrow keeps under a null may be anything."""
    for row in bad:
        if begin <= row < end:
            tensor[row - begin] = 0


def tensor_column(offset: int, dtype: DType, shape: tuple[int, ...]) -> Column:
    """Describes a C-contiguous tensor at `offset`."""
    return Column(
        kind=TENSOR,
        rows=shape[0],
        offset=offset,
        nbytes=math.prod(shape) * dtype.itemsize,
        dtype=dtypes.dtype_index(dtype),
        shape=shape,
    )


@dataclass(frozen=True, slots=True)
class NumericRecipe:
    """How one column becomes a tensor."""

    column: str
    index: int
    target: Target
    want: tuple[int | None, ...]  # length per list level
    reshape: tuple[int, ...] | None  # a row's shape where the job or the model gives it

    def read(self, rows: pa.RecordBatch) -> ReadTensor:
        """Checks all values."""
        flaws, count = Flaws(), rows.num_rows
        filled = self.target.fill is not None
        leaves = unnest(rows.column(self.index), self.want, self.column, flaws, filled=filled)
        shape, axes = leaves.shape, leaves.axes
        if self.reshape is not None and math.prod(self.reshape) != math.prod(shape):
            message = f"column {self.column!r}: rows of shape {list(shape)} don't fill {list(self.reshape)}"
            flaws.add(np.arange(count), self.column, WRONG_SHAPE, message)
            blank = np.zeros((count, *self.reshape), self.target.steps[0])
            return ReadTensor(blank, None, flaws.found, None, self.reshape, self.target)
        values, nulls = read_leaf(leaves.array, self.target, self.column, math.prod(shape), flaws)
        physical = (count, *leaves.physical)
        return ReadTensor(
            values.reshape(physical),
            None if nulls is None else nulls.reshape(physical),
            flaws.found,
            None if axes is None else (0, *(axis + 1 for axis in axes)),
            shape if self.reshape is None else self.reshape,
            self.target,
        )


def numeric_recipe(
    column: str, index: int, kind: pa.DataType, cast: Cast, dtype: str | None, shape: tuple[int | None, ...] | None
) -> NumericRecipe:
    """Resolves one unstacked column whose leaves are numbers, times, booleans, decimals or nulls.

    Raises:
        BadJob: the types don't go together, or the fill value or the shape doesn't fit.
    """
    leaf, dims = leaf_type(kind)
    target = resolve_target(column, leaf, cast, dtype)
    row_shape = None if shape is None else shape[1:]
    want: tuple[int | None, ...] = ()
    reshape = cast.shape
    if reshape is None and row_shape is not None and len(row_shape) == len(dims):
        want = row_shape
    elif reshape is None and row_shape is not None and None not in row_shape:
        # One value per row for a model that takes [rows, 1], a flat list for one that takes a matrix per row.
        reshape = tuple(int(dim or 0) for dim in row_shape)
    if reshape is not None and len(dims) == 1:
        want = (math.prod(reshape),)
    if isinstance(kind, pa.FixedShapeTensorType):
        want = ()
    wrong = reshape is not None and None not in dims and math.prod(dim or 0 for dim in dims) != math.prod(reshape)
    if wrong or any(a is not None and b is not None and a != b for a, b in zip(dims, want, strict=False)):
        wanted = list(reshape if reshape is not None else want)
        raise BadJob([Fault(f"column {column!r}", f"rows of shape {list(dims)}", f"they must fill {wanted}")])
    return NumericRecipe(column, index, target, want, reshape)
