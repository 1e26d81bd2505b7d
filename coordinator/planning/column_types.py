"""What an Arrow column is to a stage that takes arrays, as far as its type tells."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.local.casts import is_number
from headrace.local.columns import DTYPES, ITEMSIZES
from headrace.local.messages import TensorSpec

if TYPE_CHECKING:
    import pyarrow as pa

# pyarrow is imported within functions: it is loaded already where a schema exists, and costs 0.3 s where none does.

TEXTS = ("utf8", "binary")
"""dtypes of a `TensorSpec` that are no numpy dtypes: text stays text."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """A column that isn't an array as it is, and what to do about it."""

    found: str
    expected: str = "batch: {as: arrow} on a python stage"


def array_type(kind: "pa.DataType", cast_dtype: str | None = None) -> TensorSpec | Unfit:
    """Type of the column's array, rows first: ``int64 [None]``, ``float32 [None, 3]``; None for what varies by row.

    `cast_dtype` is what the job casts to: decimals have no dtype but that.
    """
    import pyarrow as pa

    leaf, sizes = leaf_type(kind)
    if pa.types.is_decimal(leaf):
        if cast_dtype is None or cast_dtype == "bool" or not is_number(cast_dtype):
            return Unfit(f"{leaf} has no dtype that holds every value", "cast: {INPUT: {dtype: float64}}")
        return TensorSpec("float64", (None, *sizes))
    if pa.types.is_null(leaf):
        return TensorSpec(None, (None, *sizes))
    dtype = _dtype(leaf)
    if dtype is None or (dtype in TEXTS and sizes):
        return Unfit(f"{kind} has no array type")
    return TensorSpec(dtype, (None, *sizes))


def leaf_type(kind: "pa.DataType") -> tuple["pa.DataType", tuple[int | None, ...]]:
    """The type below all lists, and the shape of one row with None where only the data tell."""
    import pyarrow as pa

    if isinstance(kind, pa.FixedShapeTensorType):
        order = kind.permutation or range(len(kind.shape))
        return plain_type(kind.value_type), tuple(kind.shape[axis] for axis in order)
    sizes: list[int | None] = []
    plain: Any = plain_type(kind)
    while _is_list(plain):
        sizes.append(plain.list_size if pa.types.is_fixed_size_list(plain) else None)
        plain = plain_type(plain.value_type)
    return plain, tuple(sizes)


def plain_type(kind: "pa.DataType") -> "pa.DataType":
    """The type below extension types, dictionaries and run-end encodings."""
    import pyarrow as pa

    plain: Any = kind
    while True:
        if isinstance(plain, pa.BaseExtensionType):
            plain = plain.storage_type
        elif pa.types.is_dictionary(plain) or pa.types.is_run_end_encoded(plain):
            plain = plain.value_type
        else:
            return plain


def is_bytes(kind: "pa.DataType") -> bool:
    """Whether a plain type holds bytes, of fixed size or not."""
    import pyarrow as pa

    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or kind == pa.binary_view()
    )


def itemsize(dtype: str) -> int:
    """Bytes of one value of a numpy dtype."""
    return ITEMSIZES[DTYPES.index(dtype)]


def shown(spec: TensorSpec) -> str:
    """A type as faults show it: ``float32 [rows, 3, ?]``."""
    if spec.shape is None:
        return spec.dtype or "unknown"
    rows = ["rows" if size is None else str(size) for size in spec.shape[:1]]
    sizes = ["?" if size is None else str(size) for size in spec.shape[1:]]
    return f"{spec.dtype or 'unknown'} [{', '.join(rows + sizes)}]"


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _dtype(leaf: Any) -> str | None:
    import pyarrow as pa

    if pa.types.is_string(leaf) or pa.types.is_large_string(leaf) or leaf == pa.string_view():
        return "utf8"
    if is_bytes(leaf):
        return "binary"
    if pa.types.is_timestamp(leaf):
        return f"datetime64[{leaf.unit}]"
    if pa.types.is_duration(leaf) or pa.types.is_time(leaf):
        return f"timedelta64[{leaf.unit}]"
    named = {
        pa.float16(): "float16",
        pa.float32(): "float32",
        pa.float64(): "float64",
        pa.date32(): "datetime64[D]",
        pa.date64(): "datetime64[ms]",
    }
    name = named.get(leaf, str(leaf))
    return name if name in DTYPES else None
