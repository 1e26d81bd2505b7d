"""From a column of any nesting to its leaves: one flat Arrow array and the shape that every row has.

    list<list<float>> of n rows, each [2][3]   ->   leaves: n * 6 floats, dims (2, 3)

A tensor has rows of one shape. Rows of another length than the model's shape or `cast.shape` says are bad; where
lengths differ and nothing says which is right, that is the job's mistake and no row's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import InferredWrong
from sidecar.converter.buffers import array_values
from sidecar.converter.flaws import NULL_VALUE, WRONG_SHAPE, Flaws


@dataclass(frozen=True, slots=True)
class Leaves:
    """`array` has ``rows * prod(physical)`` values; `axes`, if any, permutes a row's axes into their logical order."""

    array: pa.Array
    physical: tuple[int, ...]
    axes: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape of one row."""
        return self.physical if self.axes is None else tuple(self.physical[axis] for axis in self.axes)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type below extension types, dictionaries, run-end encodings and views."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        elif kind == pa.string_view():
            return pa.large_string()
        elif kind == pa.binary_view():
            return pa.large_binary()
        else:
            return kind


def plain(array: pa.Array) -> pa.Array:
    """`array` without extension types, dictionaries, run-end encodings and views at its top level."""
    while True:
        kind = array.type
        if isinstance(kind, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(kind):
            array = array.dictionary_decode()
        elif pa.types.is_run_end_encoded(kind):
            array = pc.run_end_decode(array)
        elif plain_type(kind) != kind:
            array = array.cast(plain_type(kind))
        else:
            return array


def is_list(kind: pa.DataType) -> bool:
    """Whether a plain type is a list of any sort."""
    is_contiguous = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_contiguous or is_list_view(kind))


def is_list_view(kind: pa.DataType) -> bool:
    """Whether a plain type is a list whose rows lie anywhere in its values."""
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def leaf_type(kind: pa.DataType) -> tuple[pa.DataType, tuple[int | None, ...]]:
    """The type below all lists, and the logical shape of one row with None where only the data tell."""
    if isinstance(kind, pa.FixedShapeTensorType):
        axes = kind.permutation or range(len(kind.shape))
        return plain_type(kind.value_type), tuple(kind.shape[axis] for axis in axes)
    dims: list[int | None] = []
    kind = plain_type(kind)
    while is_list(kind):
        dims.append(kind.list_size if pa.types.is_fixed_size_list(kind) else None)
        kind = plain_type(kind.value_type)
    return kind, tuple(dims)


def unnest(array: pa.Array, want: Sequence[int | None], column: str, flaws: Flaws, *, filled: bool) -> Leaves:
    """Peels all list levels off `array`, of any type.

    Args:
        want: length wanted per level, None or missing: that of all rows.
        column: its name, for messages.
        flaws: rows whose lengths differ, or (unless `filled`) with a null list, are added; their leaves are null.
        filled: null lists become lists of nulls, for the caller to fill.

    Raises:
        InferredWrong: lengths differ where `want` says none.
    """
    if isinstance(array.type, pa.FixedShapeTensorType):
        # The storage is one fixed-size list over the row's values in physical order.
        kind = array.type
        storage = unnest(array.storage, (None,), column, flaws, filled=filled)
        permutation = tuple(kind.permutation) if kind.permutation else None
        return Leaves(storage.array, tuple(kind.shape), permutation)
    dims: list[int] = []
    array = plain(array)
    per_row = 1  # elements of the level at hand per row
    while is_list(array.type):
        level = len(dims)
        array, dim = _peel(array, want[level] if level < len(want) else None, per_row, column, flaws, filled=filled)
        array = plain(array)
        dims.append(dim)
        per_row *= dim
    return Leaves(array, tuple(dims))


def _peel(
    array: pa.Array, want: int | None, per_row: int, column: str, flaws: Flaws, *, filled: bool
) -> tuple[pa.Array, int]:
    """One list level off: the children, ``len(array) * dim`` of them, and dim."""
    count = len(array)
    if pa.types.is_fixed_size_list(array.type):
        dim = array.type.list_size
        begins = (np.arange(count, dtype=np.int64) + array.offset) * dim
        lengths = np.full(count, dim, dtype=np.int64)
    else:
        begins, lengths = list_rows(array)
        dim = -1
    valid = array_values(array.is_valid()) if array.null_count else None
    present = lengths if valid is None else lengths[valid]
    if want is not None:
        dim = want
    elif dim < 0:
        dim = common_length(present, column)
    wrong = lengths != dim
    if valid is not None:
        wrong &= valid
        if not filled and (nulls := np.flatnonzero(~valid)).size:
            flaws.add(nulls // max(per_row, 1), column, NULL_VALUE, null_message(column, "holds a null list"))
    if wrong.any():
        for length in np.unique(lengths[wrong]).tolist():
            rows = np.flatnonzero(wrong & (lengths == length)) // max(per_row, 1)
            message = f"column {column!r}: a list of {length} where this column needs {dim}"
            flaws.add(rows, column, WRONG_SHAPE, message)
    elif valid is None and (not is_list_view(array.type) or (np.diff(begins) == dim).all()):
        first = int(begins[0]) if count else 0
        return array.values.slice(first, count * dim), dim
    return _gather(array.values, begins, dim, wrong if valid is None else wrong | ~valid), dim


def list_rows(array: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each row of a list array that isn't of fixed size begins in its `values`, and how long it is."""
    offsets = array_values(array.offsets).astype(np.int64, copy=False)
    if is_list_view(array.type):
        return offsets, array_values(array.sizes).astype(np.int64, copy=False)
    return offsets[:-1], np.diff(offsets)


def _gather(values: pa.Array, begins: npt.NDArray[np.int64], dim: int, absent: npt.NDArray[np.bool_]) -> pa.Array:
    """`dim` values from each of `begins`, nulls where `absent`."""
    indices = begins[:, None] + np.arange(dim, dtype=np.int64)
    mask = np.repeat(absent, dim)
    return values.take(pa.array(np.where(mask, 0, indices.reshape(-1)), mask=mask))


def common_length(lengths: npt.NDArray[np.int64], column: str) -> int:
    """The length that all rows have where the job doesn't say one; 0 for none.

    Raises:
        InferredWrong: they differ. Which row is right can't be left to which rows came together.
    """
    if not lengths.size:
        return 0
    least, most = int(lengths.min()), int(lengths.max())
    if least < most:
        raise InferredWrong(
            f"column {column!r} holds {least} values in some rows and {most} in others, and rows of a tensor have one "
            "shape: say which with `cast: {INPUT: {shape: [...]}}` (others are rejected), or let the stage take Arrow"
        )
    return least


def null_message(column: str, what: str = "is null") -> str:
    """What the user is told about a null, with the two ways out."""
    return f"column {column!r} {what}; give `cast: {{INPUT: {{fill: VALUE}}}}`, or let the stage take Arrow"
