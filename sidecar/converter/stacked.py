"""Several columns of numbers to one row-major matrix ``[rows, k]``, straight into the arena, block by block.

Writing a whole column into a row-major matrix touches each of its cache lines once per column. So the matrix is filled
in blocks of rows that stay in a core's own cache until their last column is written, each block in one call of numpy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from headrace.errors import BadJob, Fault
from headrace.local import casts
from headrace.local.columns import Column
from sidecar.converter import dtypes
from sidecar.converter.dtypes import AnyArray, Mask
from sidecar.converter.flaws import BadValue, Flaws
from sidecar.converter.leaves import Target, read_leaf, resolve_target
from sidecar.converter.nested import leaf_type, plain
from sidecar.converter.numeric import blank_rows, tensor_column
from sidecar.converter.region import Region
from sidecar.converter.tensors import SourceTensor

BLOCK_BYTES = 512 * 1024
"""Of the matrix: half of a small core's second-level cache. Smaller blocks cost calls: 50 ns per column and call."""


@dataclass(frozen=True, slots=True)
class ReadStack:
    """A block's columns, checked and ready to be transposed."""

    values: Sequence[AnyArray]  # each [rows, 1]
    nulls: Mapping[int, Mask]  # by number of the column: where the fill value goes
    bad: dict[int, BadValue]
    targets: Sequence[Target]  # parallel to `values`; all end in one dtype
    shape: tuple[int, ...]  # of one row in the tensor

    def measure(self, begin: int, end: int) -> int:
        """Bytes of the matrix of rows ``[begin, end)``."""
        return (end - begin) * len(self.values) * self.targets[0].dtype.itemsize

    def write(self, begin: int, end: int, region: Region) -> Column:
        """Transposes and casts rows ``[begin, end)`` into the arena; bad rows hold zeros."""
        dtype, width, rows = self.targets[0].dtype, len(self.values), end - begin
        offset = region.take(self.measure(begin, end))
        matrix = region.array(offset, dtype, rows * width).reshape(rows, width)
        block = max(1, BLOCK_BYTES // (width * dtype.itemsize))
        for first in range(begin, end, block):
            last = min(first + block, end)
            into = matrix[first - begin : last - begin]
            dtypes.join_cast(into, [values[first:last] for values in self.values])
            for column, nulls in self.nulls.items():
                into[nulls[first:last], column] = self.targets[column].fill
        blank_rows(matrix, self.bad, begin, end)
        return tensor_column(offset, dtype, (rows, *self.shape))


@dataclass(frozen=True, slots=True)
class StackedRecipe:
    """How several plain columns become one matrix."""

    columns: tuple[str, ...]
    indices: tuple[int, ...]
    targets: tuple[Target, ...]  # parallel to columns; all end in one dtype
    shape: tuple[int, ...]  # of one row

    def read(self, rows: pa.RecordBatch) -> ReadStack:
        """Checks all values."""
        flaws = Flaws()
        values: list[AnyArray] = []
        nulls: dict[int, Mask] = {}
        for column, index, target in zip(self.columns, self.indices, self.targets, strict=True):
            found, absent = read_leaf(plain(rows.column(index)), target, column, 1, flaws)
            if absent is not None:
                nulls[len(values)] = absent
            values.append(found[:, None])
        return ReadStack(values, nulls, flaws.found, self.targets, self.shape)


def stacked_recipe(schema: pa.Schema, tensor: SourceTensor) -> StackedRecipe:
    """Resolves a list of columns.

    Raises:
        BadJob: a column isn't a plain number, no dtype holds them all, or the shape doesn't fit.
    """
    width = len(tensor.columns)
    kinds = [schema.field(name).type for name in tensor.columns]
    faults = [
        Fault(f"column {name!r}", f"{kind} in a list of columns", "plain numbers")
        for name, kind in zip(tensor.columns, kinds, strict=True)
        if leaf_type(kind)[1]
    ]
    if faults:
        raise BadJob(faults)
    leaves = [leaf_type(kind)[0] for kind in kinds]
    dtype = tensor.dtype
    if dtype is None and tensor.cast.dtype is None:
        own = [found.name for leaf in leaves if (found := dtypes.leaf_dtype(leaf)) is not None]
        dtype = casts.common_dtype(own) if own else None
        if own and dtype is None:
            clash = f"no dtype holds {', '.join(sorted({str(leaf) for leaf in leaves}))}"
            raise BadJob([Fault(f"columns {', '.join(tensor.columns)}", clash, "cast: {dtype: ...} to say which")])
    targets = tuple(
        resolve_target(name, leaf, tensor.cast, dtype) for name, leaf in zip(tensor.columns, leaves, strict=True)
    )
    shape = tensor.cast.shape or (width,)
    if math.prod(shape) != width:
        raise BadJob([Fault("cast.shape", f"{list(shape)} for {width} stacked columns", f"{width} values in all")])
    indices = tuple(schema.get_field_index(name) for name in tensor.columns)
    return StackedRecipe(tensor.columns, indices, targets, shape)
