"""Whether what a stage's input gets is what its model wants, as far as types tell before the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.planning.column_types import TEXTS, Unfit, array_type, is_bytes, itemsize, leaf_type, plain_type, shown
from coordinator.spec import CastSpec
from headrace.errors import Fault
from headrace.local.casts import common_dtype, is_castable, is_lossless, is_number
from headrace.local.messages import TensorSpec

if TYPE_CHECKING:
    import pyarrow as pa

UNKNOWN = TensorSpec(None, None)
"""Of a python stage's output before its first batch."""

_NO_CAST = CastSpec()


@dataclass(frozen=True, slots=True)
class Given:
    """One referenced column: of the source (then `arrow` is its type) or of an earlier stage."""

    field: str  # of the reference in the job file
    reference: str
    arrow: "pa.DataType | None" = None
    spec: TensorSpec = UNKNOWN


def check_input(
    field: str, cast_field: str, given: Sequence[Given], *, stacked: bool, cast: CastSpec | None, wanted: TensorSpec
) -> list[Fault]:
    """Faults of one input: its columns as arrays, stacked, cast by the job, then against what the model wants."""
    cast = cast or _NO_CAST
    faults: list[Fault] = []
    parts: list[TensorSpec] = []
    for part in given:
        made = _array(part, cast, wanted, stacked=stacked)
        if isinstance(made, Unfit):
            faults.append(Fault(part.field, f"{part.reference}: {made.found}", made.expected))
        else:
            parts.append(made)
    if faults:
        return faults
    spec = _stacked(field, cast_field, given, parts, cast) if stacked else parts[0]
    if isinstance(spec, TensorSpec):
        spec = _cast(cast_field, spec, cast)
    if isinstance(spec, Fault):
        return [spec]
    faults = _against(field, cast_field, spec, cast, wanted, stackable=not stacked)
    return faults or _fill_faults(cast_field, cast, wanted.dtype or spec.dtype)


def _array(given: Given, cast: CastSpec, wanted: TensorSpec, *, stacked: bool) -> TensorSpec | Unfit:
    import pyarrow as pa

    if given.arrow is None:
        return given.spec
    kind = plain_type(given.arrow)
    if is_bytes(kind) and (cast.shape or cast.dtype) and not stacked:
        return _bytes(kind, cast, wanted)
    is_number_filled = cast.fill is not None and (
        not isinstance(cast.fill, str) or cast.dtype is not None or wanted.dtype not in (None, *TEXTS)
    )
    if pa.types.is_null(leaf_type(kind)[0]) and not is_number_filled:
        return Unfit("all its values are null", "cast: {INPUT: {fill: NUMBER}}, or batch: {as: arrow}")
    return array_type(given.arrow, cast.dtype)


def _bytes(kind: "pa.DataType", cast: CastSpec, wanted: TensorSpec) -> TensorSpec | Unfit:
    """Raw bytes as an array: a row is the elements' bytes, or one uint8 for each element, cast on the way."""
    import pyarrow as pa

    dtype = cast.dtype or wanted.dtype or "uint8"
    if dtype in TEXTS:
        return Unfit("bytes aren't text", "a column of text")
    shape: tuple[int | None, ...] | None = None if cast.shape is None else tuple(cast.shape)
    if shape is None and wanted.shape and None not in wanted.shape[1:]:
        shape = wanted.shape[1:]
    if pa.types.is_fixed_size_binary(kind):
        width = kind.byte_width
        if shape is None and width % itemsize(dtype) == 0:
            shape = (width // itemsize(dtype),)
        elements = math.prod(size or 0 for size in shape or ())
        if shape is None or width not in (elements * itemsize(dtype), elements):
            return Unfit(f"{width} bytes a row", f"{elements * itemsize(dtype)} of {dtype} {list(shape or ())}")
    return TensorSpec(dtype, (None, *shape) if shape else (None, None))


def _stacked(
    field: str, cast_field: str, given: Sequence[Given], parts: Sequence[TensorSpec], cast: CastSpec
) -> TensorSpec | Fault:
    for part, spec in zip(given, parts, strict=True):
        if spec.dtype is not None and not is_number(spec.dtype):
            return Fault(part.field, f"{part.reference} is {shown(spec)}", "a numeric column: only these are stacked")
        if spec.shape is not None and len(spec.shape) != 1:
            return Fault(part.field, f"{part.reference} is {shown(spec)}", "one number a row: only these are stacked")
    if any(spec.dtype is None for spec in parts):
        return TensorSpec(cast.dtype, (None, len(parts)))
    dtype = common_dtype([spec.dtype for spec in parts if spec.dtype is not None])
    if dtype is None:
        if cast.dtype is None:
            found = f"no dtype holds all values of {', '.join(sorted({str(spec.dtype) for spec in parts}))}"
            return Fault(field, found, f"{cast_field}: {{dtype: ...}} to say which")
        dtype = cast.dtype
    return TensorSpec(dtype, (None, len(parts)))


def _cast(cast_field: str, spec: TensorSpec, cast: CastSpec) -> TensorSpec | Fault:
    dtype, shape = spec.dtype, spec.shape
    if cast.dtype is not None and dtype is not None and (dtype in TEXTS or not is_castable(dtype, cast.dtype)):
        expected = "a python stage that parses it" if dtype in TEXTS else "a dtype of the same kind"
        return Fault(f"{cast_field}.dtype", f"{dtype} can't be cast to {cast.dtype}", expected)
    if cast.shape is not None:
        if dtype in TEXTS:
            return Fault(f"{cast_field}.shape", f"{dtype} has no shape", "numbers or bytes")
        elements = None if shape is None else _elements(shape)
        if elements is not None and elements != math.prod(cast.shape):
            return Fault(f"{cast_field}.shape", f"{elements} values a row don't fill {cast.shape}", "as many values")
        shape = (None, *cast.shape)
    return TensorSpec(cast.dtype or dtype, shape)


def _elements(shape: tuple[int | None, ...]) -> int | None:
    sizes = [size for size in shape[1:] if size is not None]
    return math.prod(sizes) if len(sizes) == len(shape) - 1 else None


def _against(
    field: str, cast_field: str, spec: TensorSpec, cast: CastSpec, wanted: TensorSpec, *, stackable: bool
) -> list[Fault]:
    faults = []
    if spec.dtype is not None and wanted.dtype is not None and not _fits(spec.dtype, wanted.dtype):
        found = f"found {shown(spec)}, and the model takes {wanted.dtype}"
        if wanted.dtype in TEXTS:
            faults.append(Fault(field, found, "a column of text" if wanted.dtype == "utf8" else "a column of bytes"))
        elif spec.dtype in TEXTS:
            remedy = f"a numeric column, or {cast_field}: {{shape: [...]}} for raw bytes"
            faults.append(Fault(field, found, remedy if spec.dtype == "binary" else "a numeric column"))
        elif cast.dtype is not None:
            faults.append(Fault(f"{cast_field}.dtype", found, wanted.dtype))
        else:
            remedy = f"{cast_field}: {{dtype: {wanted.dtype}}} to accept that"
            faults.append(Fault(field, f"{found}: values could change", remedy))
    if faults and spec.dtype in TEXTS:
        return faults  # its shape is that of another kind of column
    if spec.shape is not None and wanted.shape is not None and not _same_shape(spec.shape, wanted.shape):
        rows = (None, *wanted.shape[1:])
        found = f"found {shown(spec)}, and the model takes {shown(TensorSpec(wanted.dtype, rows))}"
        faults.append(Fault(field, found, _shape_remedy(cast_field, spec.shape, wanted.shape, stackable=stackable)))
    return faults


def _fits(dtype: str, wanted: str) -> bool:
    return dtype == wanted or (dtype not in TEXTS and wanted not in TEXTS and is_lossless(dtype, wanted))


def _same_shape(shape: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    """Equal but for the rows and for what one of the two leaves open."""
    return len(shape) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(shape[1:], wanted[1:], strict=True)
    )


def _shape_remedy(
    cast_field: str, shape: tuple[int | None, ...], wanted: tuple[int | None, ...], *, stackable: bool
) -> str:
    elements, target = _elements(shape), _elements(wanted)
    if stackable and len(shape) == 1 and len(wanted) == 2:
        size = wanted[1]
        return "a list with the one column" if size == 1 else f"a list of {size or 'the'} columns, or a column of lists"
    if elements is not None and elements == target:
        return f"{cast_field}: {{shape: {list(wanted[1:])}}}"
    return "columns of that shape"


def _fill_faults(cast_field: str, cast: CastSpec, dtype: str | None) -> list[Fault]:
    """A fill value stands where a value would, so it must be one, exactly; only floats may be rounded."""
    fill = cast.fill
    if fill is None or dtype is None:
        return []
    if dtype in TEXTS:
        fits = isinstance(fill, str)
    elif not is_number(dtype):
        fits = isinstance(fill, str) and _is_time(fill, dtype)
    elif dtype == "bool":
        fits = isinstance(fill, bool) or fill in (0, 1)
    elif isinstance(fill, str):
        fits = False
    elif dtype.startswith("float"):
        fits = True
    else:
        bits = 8 * itemsize(dtype)
        low, high = (0, 2**bits) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        fits = fill == int(fill) and low <= fill < high if math.isfinite(fill) else False
    return [] if fits else [Fault(f"{cast_field}.fill", f"found {fill!r}", f"a value of {dtype}")]


def _is_time(text: str, dtype: str) -> bool:
    import numpy as np  # pyarrow has loaded it

    try:
        np.asarray(text).astype(dtype)
    except (ValueError, OverflowError):
        return False
    return True
