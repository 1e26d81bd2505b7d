"""What a stage returned, checked, laid out and written into the batch's region.

::

    values of any kind --check--> Tensor | Text | Stream | Nulls --lay out--> bytes needed --write--> columns

A tensor that a loader let the model write in place is already there, and only its column is told.

Not here: asking for more space (`serving`), Arrow arrays and rows of any length (`arrow_outputs`).
"""

import math
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from .local import columns, messages
from .mapping import DTYPE_INDEX, ArenaMap

OUTPUTS_MAX = 10_000
NAME_CHARS_MAX = 1_000
DIMENSIONS_MAX = 32
"""With the two above, what keeps a result within one frame."""
_KINDS_SHOWN = 3


class BadOutput(ValueError):
    """What the stage returned can't be a column."""

    __module__ = "headrace"  # in tracebacks, in place of our private name


class WrongRows(ValueError):
    """An output's leading dimension isn't the batch's number of rows; by its name the sidecar knows."""

    __module__ = "headrace"


WrongRows.__name__ = messages.WRONG_ROWS


@dataclass(frozen=True)
class Tensor:
    """A C-contiguous array of a dtype that columns have."""

    array: np.ndarray
    is_null: Optional[np.ndarray]  # bool [rows]


@dataclass(frozen=True)
class Text:
    """Encoded strings or bytes: row i is ``data[offsets[i]:offsets[i + 1]]``."""

    kind: int
    offsets: np.ndarray
    data: Union[bytes, memoryview]
    is_null: Optional[np.ndarray]


@dataclass(frozen=True)
class Stream:
    """An Arrow IPC stream of one record batch with one column, whose type the other forms can't hold."""

    rows: int
    data: np.ndarray  # uint8
    dtype: Optional[str]  # of the numbers in lists of numbers
    shape: Tuple[Optional[int], ...]  # of the whole batch then: every axis is open


@dataclass(frozen=True)
class Nulls:
    """Nothing but nulls: of a type that other batches know."""

    rows: int


Output = Union[Tensor, Text, Stream, Nulls]


class Region:
    """A batch's place for outputs, filled from its beginning."""

    def __init__(self, arena: ArenaMap, offset: int, nbytes: int) -> None:
        self._arena = arena
        self._next = offset
        self._end = offset + nbytes
        self.placed: Dict[str, Tuple[np.ndarray, columns.Column]] = {}

    def fits(self, sizes: Iterable[int]) -> bool:
        """Whether arrays of so many bytes, in this order, have room."""
        at = self._next
        for nbytes in sizes:
            at = columns.aligned(at) + nbytes
        return at <= self._end

    def place(self, name: str, dtype: np.dtype, shape: Tuple[int, ...]) -> np.ndarray:
        """An array in the region for output `name`, to be written by the model; there must be room for it."""
        offset = self._take(math.prod(shape) * dtype.itemsize)
        array = self._arena.writable(dtype, shape, offset)
        column = columns.Column(columns.TENSOR, shape[0], offset, array.nbytes, DTYPE_INDEX[dtype], shape)
        self.placed[name] = (array, column)
        return array

    def write(self, name: str, output: Output) -> columns.Column:
        """Copies an output into the region, unless it is there already; there must be room for it."""
        validity = -1
        if isinstance(output, Tensor):
            placed = self.placed.get(name)
            if placed is not None and placed[0] is output.array:
                return placed[1]
            array = self.place(name, output.array.dtype, output.array.shape)
            array[...] = output.array
            column = self.placed[name][1]
            if output.is_null is None:
                return column
            validity = self._validity(output.is_null)
            return columns.Column(
                column.kind, column.rows, column.offset, column.nbytes, column.dtype, column.shape,
                validity_offset=validity,
            )  # fmt: skip
        if isinstance(output, Stream):
            return columns.Column(columns.IPC, output.rows, self._bytes(output.data), output.data.nbytes)
        if isinstance(output, Nulls):
            return columns.Column(columns.NULL, output.rows, self._take(0), 0)
        offset = self._bytes(output.offsets.view(np.uint8))
        data_offset = self._bytes(np.frombuffer(output.data, np.uint8))
        if output.is_null is not None:
            validity = self._validity(output.is_null)
        return columns.Column(
            output.kind, len(output.offsets) - 1, offset, output.offsets.nbytes, data_offset=data_offset,
            data_nbytes=len(output.data), validity_offset=validity,
        )  # fmt: skip

    def _validity(self, is_null: np.ndarray) -> int:
        return self._bytes((~is_null).view(np.uint8))

    def _bytes(self, data: np.ndarray) -> int:
        offset = self._take(data.nbytes)
        self._arena.writable(data.dtype, data.shape, offset)[...] = data
        return offset

    def _take(self, nbytes: int) -> int:
        offset = columns.aligned(self._next)
        assert offset + nbytes <= self._end, "an output beyond its region"
        self._next = offset + nbytes
        return offset


def nbytes_needed(outputs: Mapping[str, Output]) -> int:
    """Bytes of a region that begins at an aligned offset and holds all of `outputs`."""
    needed = 0
    for output in outputs.values():
        if isinstance(output, Stream):
            needed += columns.aligned(output.data.nbytes)
            continue
        if isinstance(output, Nulls):
            continue
        if isinstance(output, Tensor):
            needed += columns.aligned(output.array.nbytes)
        else:
            needed += columns.aligned(output.offsets.nbytes) + columns.aligned(len(output.data))
        if output.is_null is not None:
            needed += columns.aligned(len(output.is_null))
    return needed


def checked(returned: Any, rows: int) -> Dict[str, Output]:
    """The outputs of a batch in the forms that columns have.

    Raises:
        BadOutput: not a mapping of names to arrays, or an array of a dtype that no column has.
        WrongRows: an output has another number of rows.
    """
    if not isinstance(returned, Mapping):
        raise BadOutput(f"the stage returned {_kind(returned)}, not a dict of arrays")
    if len(returned) > OUTPUTS_MAX:
        raise BadOutput(f"the stage returned {len(returned)} outputs, more than {OUTPUTS_MAX}")
    found = {}
    for name, value in returned.items():
        if not isinstance(name, str):
            raise BadOutput(f"an output's name is {name!r}, not a string")
        if len(name) > NAME_CHARS_MAX or not (name.isascii() or _is_unicode(name)):
            raise BadOutput(f"an output's name is no Unicode of at most {NAME_CHARS_MAX} characters: {name[:50]!r}")
        output = _output(name, value)
        have = _rows(output)
        if have != rows:
            raise WrongRows(f"output {name} has {have} rows, the batch has {rows}")
        found[name] = output
    return found


def _rows(output: Output) -> int:
    if isinstance(output, Tensor):
        return len(output.array)
    return len(output.offsets) - 1 if isinstance(output, Text) else output.rows


def _output(name: str, value: Any) -> Output:
    if (
        type(value) is np.ndarray
        and value.dtype in DTYPE_INDEX
        and 0 < value.ndim <= DIMENSIONS_MAX
        and value.flags.c_contiguous
    ):
        return Tensor(value, None)
    if type(value).__module__ == "pyarrow.lib" and hasattr(value, "null_count"):
        from .arrow_outputs import from_arrow

        return from_arrow(name, value)
    is_null = None
    if isinstance(value, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(value)
        if mask.ndim > 1:
            raise BadOutput(f"output {name}: a masked array of rank {mask.ndim}; only rank 1 can have nulls")
        is_null, value = mask, value.filled()
    if isinstance(value, (list, tuple)) and _is_row(next((item for item in value if item is not None), None)):
        return _lists(name, value)
    array = _array(name, value)
    if array.ndim == 0:
        raise WrongRows(f"output {name} is a single value, not one per row")
    if array.dtype.kind in "OUS":
        return _objects(name, array, is_null)
    if array.ndim > DIMENSIONS_MAX:
        raise BadOutput(f"output {name} is of rank {array.ndim}, more than {DIMENSIONS_MAX}")
    array = np.ascontiguousarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype not in DTYPE_INDEX:
        raise BadOutput(f"output {name}: no column has dtype {array.dtype}")
    return Tensor(array, is_null if is_null is not None and is_null.any() else None)


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, (str, bytes, Mapping)) or value is None:
        raise BadOutput(f"output {name} is {_kind(value)}, not an array")
    if isinstance(value, (list, tuple)) and any(isinstance(item, (str, bytes)) or item is None for item in value):
        array = np.empty(len(value), object)  # numpy would pad strings, and drop trailing zero bytes
        array[:] = value
        return array
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise BadOutput(f"output {name} is no array: {error}") from error


def _objects(name: str, array: np.ndarray, is_null: Optional[np.ndarray]) -> Output:
    """Strings, bytes, or numbers with None among them."""
    if array.ndim != 1:
        raise BadOutput(f"output {name}: strings and objects must be of rank 1, it is of rank {array.ndim}")
    items: List[Any] = array.tolist()
    null = np.fromiter((item is None for item in items), bool, len(items))
    if is_null is not None:
        null |= is_null
    nulls = null if null.any() else None
    present = [item for item, gone in zip(items, null.tolist()) if not gone] if nulls is not None else items
    if items and not present:
        return Nulls(len(items))
    if present and _is_row(present[0]):
        return _lists(name, [None if gone else item for item, gone in zip(items, null)])
    if all(isinstance(item, str) for item in present):
        return _text(columns.UTF8, [_encoded(name, item) for item in items], nulls)
    if all(isinstance(item, (bytes, bytearray, memoryview)) for item in present):
        return _text(columns.BINARY, [b"" if item is None else bytes(item) for item in items], nulls)
    numbers = np.asarray(present)
    if numbers.ndim != 1 or numbers.dtype not in DTYPE_INDEX:
        kinds = sorted({type(item).__name__ for item in present})
        raise BadOutput(f"output {name}: no column holds objects of {', '.join(kinds[:_KINDS_SHOWN])}")
    filled = np.zeros(len(items), numbers.dtype)
    filled[~null] = numbers
    return Tensor(filled, nulls)


def _is_row(item: Any) -> bool:
    """Whether the item of a list is a row of values rather than a value."""
    return isinstance(item, (list, tuple)) or (isinstance(item, np.ndarray) and item.ndim > 0)


def _lists(name: str, rows: Sequence[Any]) -> Output:
    try:
        from .arrow_outputs import from_rows
    except ImportError as error:
        raise BadOutput(f"output {name}: rows of lists need pyarrow beside the stage: {error}") from error
    return from_rows(name, rows)


def _encoded(name: str, item: Optional[str]) -> bytes:
    try:
        return b"" if item is None else item.encode()
    except UnicodeEncodeError as error:
        raise BadOutput(f"output {name}: a string that isn't Unicode: {error}") from error


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(kind: int, encoded: Sequence[bytes], is_null: Optional[np.ndarray]) -> Text:
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return Text(kind, offsets, b"".join(encoded), is_null)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def specs_of(outputs: Mapping[str, Output]) -> Dict[str, messages.TensorSpec]:
    """Their dtypes and shapes, the rows left open."""
    found = {}
    for name, output in outputs.items():
        if isinstance(output, Tensor):
            found[name] = messages.TensorSpec(str(output.array.dtype), (None, *output.array.shape[1:]))
        elif isinstance(output, Stream):
            found[name] = messages.TensorSpec(output.dtype, output.shape if output.dtype else None)
        elif isinstance(output, Nulls):
            found[name] = messages.TensorSpec(None, None)
        else:
            found[name] = messages.TensorSpec("utf8" if output.kind == columns.UTF8 else "binary", (None,))
    return found
