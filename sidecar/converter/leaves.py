"""Plain fixed-width values: from Arrow's memory to numpy, checked against what they are to become."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import BadJob, Fault
from headrace.local import casts
from headrace.program import Cast, Scalar
from sidecar.converter import dtypes
from sidecar.converter.buffers import array_values
from sidecar.converter.dtypes import AnyArray, DType, Mask
from sidecar.converter.flaws import NULL_VALUE, OUT_OF_RANGE, Flaws
from sidecar.converter.nested import null_message


@dataclass(frozen=True, slots=True)
class Target:
    """What values become. `steps`: the dtypes they go through, the job's and then the model's."""

    steps: tuple[DType, ...]
    fill: Any  # a numpy scalar of the last step's dtype; None: nulls are bad

    @property
    def dtype(self) -> DType:
        """What the tensor holds in the end."""
        return self.steps[-1]


def read_leaf(array: pa.Array, target: Target, column: str, per_row: int, flaws: Flaws) -> tuple[AnyArray, Mask | None]:
    """Values of a plain array, `per_row` of them in each row, and where the fill value goes (None: nowhere)."""
    nulls = array_values(array.is_null()) if array.null_count else None
    if nulls is not None and target.fill is None:
        rows = np.flatnonzero(nulls) // max(per_row, 1)
        flaws.add(rows, column, NULL_VALUE, null_message(column, "is null" if per_row == 1 else "holds a null"))
    if pa.types.is_decimal(array.type):
        values = _read_decimals(array, target, column, per_row, flaws)
    else:
        values = array_values(array)
    outside = dtypes.find_out_of_range(values, target.steps[0])
    if outside is not None:
        if nulls is not None:
            outside &= ~nulls
        for position in np.flatnonzero(outside).tolist():
            message = f"column {column!r}: {values[position]!s} doesn't fit {target.steps[0].name}"
            flaws.add_one(position // max(per_row, 1), column, OUT_OF_RANGE, message)
    if len(target.steps) > 1 and values.dtype != target.steps[0]:
        # What the job's cast cuts off must not come back in the model's dtype.
        between = np.empty(values.shape, target.steps[0])
        dtypes.copy_cast(between, values)
        values = between
    return dtypes.as_castable(values, target.dtype), nulls if target.fill is not None else None


def _read_decimals(array: pa.Array, target: Target, column: str, per_row: int, flaws: Flaws) -> AnyArray:
    """Decimals as float64, or as 64-bit integers with the fraction cut off; those beyond 64 bits are flaws."""
    step = target.steps[0]
    if step.kind == "f":
        return array_values(array.cast(pa.string()).cast(pa.float64()))  # Arrow's own cast doesn't round correctly
    wide = pa.uint64() if step == np.dtype(np.uint64) else pa.int64()
    options = pc.CastOptions(wide, allow_decimal_truncate=True)
    try:
        return array_values(pc.cast(array, options=options))
    except pa.ArrowInvalid:
        values = np.zeros(len(array), wide.to_pandas_dtype())
        bounds = np.iinfo(values.dtype)
        for position, value in enumerate(array.to_pylist()):
            if value is None:
                continue
            if bounds.min <= int(value) <= bounds.max:
                values[position] = int(value)
            else:
                message = f"column {column!r}: {value} doesn't fit {step.name}"
                flaws.add_one(position // max(per_row, 1), column, OUT_OF_RANGE, message)
        return values


def resolve_target(column: str, leaf: pa.DataType, cast: Cast, dtype: str | None) -> Target:
    """The dtypes that values of a plain type go through.

    Raises:
        BadJob: the cast isn't possible, or it may change values and the job doesn't ask for it.
    """
    where = f"column {column!r}"
    steps = tuple(np.dtype(name) for name in (cast.dtype, dtype) if name is not None)
    if pa.types.is_null(leaf):
        guess = "bool" if isinstance(cast.fill, bool) else "int64" if isinstance(cast.fill, int) else "float64"
        steps = steps or (np.dtype(guess),)
        return Target(steps[-1:], _fill_value(where, cast.fill, steps[-1]))
    source = np.dtype(np.float64) if pa.types.is_decimal(leaf) else dtypes.leaf_dtype(leaf)
    if pa.types.is_decimal(leaf) and (cast.dtype is None or steps[0].kind not in "iuf"):
        expected = "cast: {dtype: float64}, or another number's"
        raise BadJob([Fault(where, f"{leaf} has no dtype of its own", expected)])
    if source is None:
        raise BadJob([Fault(where, f"{leaf} can't become a tensor", "let the stage take Arrow (batch: {as: arrow})")])
    steps = steps or (source,)
    if cast.dtype is not None and not casts.is_castable(source.name, steps[0].name):
        raise BadJob([Fault(where, f"{leaf} can't be cast to {steps[0].name}")])
    if cast.dtype is None and not casts.is_lossless(source.name, steps[0].name):
        expected = f"cast: {{dtype: {steps[0].name}}} if that is meant"
        raise BadJob([Fault(where, f"{leaf} to {steps[0].name} may change values", expected)])
    if len(steps) == 2 and not casts.is_lossless(steps[0].name, steps[1].name):
        raise BadJob([Fault(where, f"cast to {steps[0].name}, but the model takes {steps[1].name}")])
    if len(steps) == 2 and steps[0] == steps[1]:
        steps = steps[:1]
    return Target(steps, _fill_value(where, cast.fill, steps[-1]))


def _fill_value(where: str, fill: Scalar, dtype: DType) -> Any:
    if fill is None:
        return None
    fault = Fault(where, f"fill {fill!r} is no {dtype.name}")
    try:
        with np.errstate(all="ignore"):
            value: Any = np.asarray(fill).astype(dtype)[()]
    except (ValueError, OverflowError, TypeError) as error:
        raise BadJob([fault]) from error
    # A float may be rounded (0.1 in float32), but an integer or boolean must be exactly what the job says.
    if isinstance(fill, str) != (dtype.kind in "mM") or (dtype.kind in "biu" and value.item() != fill):
        raise BadJob([fault])
    return value
