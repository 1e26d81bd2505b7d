"""Casts of what an earlier stage returned: silently only where no value can change, else as the job says.

A cast that the job asked for may round (to a float, a fraction towards zero, a time to a coarser unit); a value that
the target can't hold is an error that names its row, so that bisection rejects that row and no other. The sidecar's
converter has the same rule for columns of the source.
"""

from typing import Any, Optional

import numpy as np

from .local import casts


class BadInput(ValueError):
    """What an earlier stage returned doesn't fit this one: the job's fault, said with the input's name."""

    __module__ = "headrace"  # in tracebacks, in place of our private name


def fit(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """`array` as the model takes it, where the job says nothing.

    Raises:
        BadInput: a value could change.
    """
    if array.dtype == dtype:
        return array
    if not casts.is_lossless(array.dtype.name, dtype):
        found = "text" if array.dtype == object else array.dtype.name
        advice = f"; say cast: {{{name}: {{dtype: {dtype}}}}} if values may change"
        is_castable = found != "text" and casts.is_castable(found, dtype)
        raise BadInput(f"input {name}: the model takes {dtype}, it is {found}{advice if is_castable else ''}")
    return array.astype(dtype)


def cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """`array` as the job says.

    Raises:
        BadInput: a value is beyond what the target holds (NaN and infinity beyond any integer), or no cast exists.
    """
    if array.dtype == dtype:
        return array
    if array.dtype == object or not casts.is_castable(array.dtype.name, dtype):
        raise BadInput(f"input {name}: {array.dtype.name} can't be cast to {dtype}")
    target = np.dtype(dtype)
    if array.dtype.kind in "mM" and target.kind in "iu":
        array = array.view(np.int64)
    elif array.dtype.kind in "iu" and target.kind in "mM":
        array = array.astype(np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        found = array.astype(target)
    if not casts.is_lossless(array.dtype.name, dtype):
        beyond = _beyond(array, found)
        if beyond is not None and beyond.any():
            row = int(np.argwhere(beyond)[0][0])
            value: Any = array[beyond][0]
            raise BadInput(f"input {name}: {value} at row {row} of the batch is beyond {dtype}")
    return found


def _beyond(array: np.ndarray, found: np.ndarray) -> Optional[np.ndarray]:
    """bool like `array`: which values came out as something else than a rounded one."""
    if found.dtype.kind in "iu" and array.dtype.kind == "f":
        info = np.iinfo(found.dtype)
        whole = np.trunc(array.astype(np.float64))
        # Powers of two, which floats hold exactly: int64's largest value isn't a float64.
        outside: np.ndarray = ~((whole >= float(info.min)) & (whole < float(info.max + 1)))
        return outside
    if found.dtype.kind in "iu" and array.dtype.kind in "iu":
        changed: np.ndarray = (found.astype(array.dtype) != array) | ((found < 0) != (array < 0))
        return changed
    if found.dtype.kind == "f":
        grown: np.ndarray = np.isinf(found) & ~np.isinf(array)
        return grown
    return None
