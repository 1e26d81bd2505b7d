"""Which numpy dtype an Arrow type becomes, and which casts may change a value.

A cast that the job didn't ask for is done only where no value of the source type can change (`headrace.local.casts`).
One that it asked for (`cast: {dtype: ...}`) may round (to a float, or a fraction towards zero, or a time to a coarser
unit), but a value outside the target's range is bad, as is NaN or infinity for an integer: see `find_out_of_range`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.local.casts import is_lossless
from headrace.local.columns import DTYPES

DType = np.dtype[Any]
AnyArray = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

TEXT_DTYPES = frozenset({"utf8", "binary"})
"""What a model's string input is declared with (`headrace.local.messages.TensorSpec`): the column stays text."""

_PLAIN = {
    pa.bool_(): "bool",
    pa.int8(): "int8",
    pa.int16(): "int16",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.uint8(): "uint8",
    pa.uint16(): "uint16",
    pa.uint32(): "uint32",
    pa.uint64(): "uint64",
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.date32(): "datetime64[D]",
    pa.date64(): "datetime64[ms]",
}
_TICKS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def leaf_dtype(kind: pa.DataType) -> DType | None:
    """The dtype of a column of fixed-width values; None for any other type (text, lists, decimals, structs).

    Times of day become the time since midnight (timedelta64), zoned timestamps the instant in UTC.
    """
    if pa.types.is_timestamp(kind):
        return np.dtype(f"datetime64[{kind.unit}]")
    if pa.types.is_duration(kind) or pa.types.is_time(kind):
        return np.dtype(f"timedelta64[{kind.unit}]")
    name = _PLAIN.get(kind)
    return None if name is None else np.dtype(name)


def dtype_index(dtype: DType) -> int:
    """Index of `dtype` in `headrace.local.columns.DTYPES`.

    Raises:
        ValueError: the arena has no such dtype.
    """
    return DTYPES.index(dtype.name)


def copy_cast(target: AnyArray, source: AnyArray) -> None:
    """Writes `source` into `target` of the same shape. Values out of range were found before."""
    # Nulls hold arbitrary bytes, which may not be values of the target.
    with np.errstate(invalid="ignore", over="ignore"):
        np.copyto(target, as_castable(source, target.dtype), casting="unsafe")


def join_cast(target: AnyArray, sources: Sequence[AnyArray]) -> None:
    """Writes `sources`, each ``[rows, 1]``, side by side into `target` ``[rows, k]``, like `copy_cast`."""
    with np.errstate(invalid="ignore", over="ignore"):
        np.concatenate(sources, axis=1, out=target, casting="unsafe")


def as_castable(source: AnyArray, target: DType) -> AnyArray:
    """`source`, with times as their ticks or ticks as times where numpy's own cast would mean something else."""
    if source.dtype.kind in "mM" and target.kind in "iu":
        return source.view(np.int64)
    if source.dtype.kind in "iu" and target.kind in "mM":
        return source.astype(np.int64).view(target)
    return source


def find_out_of_range(source: AnyArray, target: DType) -> Mask | None:
    """Which values `target` can't hold, nulls' arbitrary bytes included; None where all fit, which is found fast."""
    if not source.size or is_lossless(source.dtype.name, target.name) or target.kind == "b":
        return None
    if source.dtype.kind in "mM":
        return _find_time_out_of_range(source, target)
    if target.kind in "mM":
        target = np.dtype(np.int64)
    if target.kind in "iu":
        return _find_integer_out_of_range(source, target)
    with np.errstate(invalid="ignore", over="ignore"):
        limit = float(np.finfo(target).max)
        extreme = max(abs(float(np.fmax.reduce(source))), abs(float(np.fmin.reduce(source))))
        if not extreme > limit:
            return None
        return _some(np.isinf(source.astype(target)) & ~np.isinf(source))


def _find_integer_out_of_range(source: AnyArray, target: DType) -> Mask | None:
    info = np.iinfo(target)
    if source.dtype.kind in "iu":
        if int(source.min()) >= info.min and int(source.max()) <= info.max:
            return None
        # Bounds beyond the source's own type can't be passed, and can't be compared in it either.
        own = np.iinfo(source.dtype)
        return _some((source < max(info.min, own.min)) | (source > min(info.max, own.max)))
    with np.errstate(invalid="ignore"):
        # The bounds as powers of two, which every float type holds or exceeds: int64's largest value isn't a float64.
        values = np.trunc(source.astype(np.float64))
        return _some(~((values >= float(info.min)) & (values < float(info.max + 1))))


def _find_time_out_of_range(source: AnyArray, target: DType) -> Mask | None:
    if target.kind in "iu":
        return _find_integer_out_of_range(source.view(np.int64), target)
    factor = _ticks(target) / _ticks(source.dtype)
    if factor <= 1:
        return None
    ticks = source.view(np.int64)
    bound = int(np.iinfo(np.int64).max / factor)
    return _some((ticks > bound) | (ticks < -bound))


def _ticks(dtype: DType) -> float:
    unit = np.datetime_data(dtype)[0]
    return 1 / 86400 if unit == "D" else _TICKS_PER_SECOND[unit]


def _some(mask: Mask) -> Mask | None:
    return mask if mask.any() else None
