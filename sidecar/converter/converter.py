"""A record batch of the source to columns in the arena.

    block = converter.read(rows)               once per block: finds every value, checks it, copies nothing it needn't
    block.measure(begin, end)                  bytes that a batch of its rows takes in the arena
    block.write(begin, end, view, offset)      copies, casts and transposes, each value once

A row that can't be converted stays where it is, holding zeros, empty text or its own values; the caller rejects it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from headrace.errors import BadJob, Fault
from headrace.local.columns import Column, aligned
from sidecar.converter import dtypes
from sidecar.converter.flaws import BadValue
from sidecar.converter.nested import plain_type
from sidecar.converter.numeric import numeric_recipe
from sidecar.converter.raw_bytes import bytes_recipe
from sidecar.converter.region import Region
from sidecar.converter.stacked import stacked_recipe
from sidecar.converter.stream import StreamRecipe
from sidecar.converter.tensors import SourceTensor
from sidecar.converter.text import text_recipe


class ReadColumn(Protocol):
    """One tensor's values of a block, checked."""

    @property
    def bad(self) -> Mapping[int, BadValue]:
        """Rows of the block that can't be converted."""

    def measure(self, begin: int, end: int) -> int:
        """Bytes that rows ``[begin, end)`` take in the arena, before the last alignment."""

    def write(self, begin: int, end: int, region: Region) -> Column:
        """Copies rows ``[begin, end)`` into the arena."""


class Recipe(Protocol):
    """How one tensor is made of a record batch."""

    def read(self, rows: pa.RecordBatch) -> ReadColumn:
        """Finds and checks all values."""


@dataclass(frozen=True, slots=True)
class Converted:
    """Columns in the arena by `SourceTensor.key`, and by row number in the batch why a row is to be rejected."""

    columns: dict[str, Column]
    bad: dict[int, BadValue]


class ReadBlock:
    """A block's rows, found and checked. Holds on to Arrow's memory, not to the arena's; threads may share it."""

    def __init__(self, tensors: Sequence[ReadColumn], number_of: Mapping[str, int]) -> None:
        """`number_of`: the index in `tensors` by `SourceTensor.key`."""
        self._tensors = tensors
        self._number_of = number_of
        self._bad: dict[int, BadValue] = {}
        for tensor in tensors:
            for row, flaw in tensor.bad.items():
                self._bad.setdefault(row, flaw)

    def measure(self, begin: int, end: int) -> int:
        """Exact bytes that `write` takes for rows ``[begin, end)``."""
        return sum(aligned(tensor.measure(begin, end)) for tensor in self._tensors)

    def write(self, begin: int, end: int, view: memoryview, offset: int) -> Converted:
        """Writes rows ``[begin, end)``.

        Args:
            view: the whole arena, writable.
            offset: where to begin in it, a multiple of `headrace.local.columns.ALIGNMENT`.
        """
        region = Region(view, offset)
        columns = [tensor.write(begin, end, region) for tensor in self._tensors]
        bad = {row - begin: self._bad[row] for row in sorted(self._bad) if begin <= row < end} if self._bad else {}
        return Converted({key: columns[number] for key, number in self._number_of.items()}, bad)


class Converter:
    """Conversion of one job's source rows. Stateless after construction: threads may share it.

    Raises:
        BadJob: a column isn't there or can't become what is wanted of it; all faults are named.
    """

    def __init__(self, schema: pa.Schema, tensors: Sequence[SourceTensor]) -> None:
        numbers: dict[Recipe, int] = {}
        self._number_of: dict[str, int] = {}  # keys that come to the same thing share a recipe
        faults: list[Fault] = []
        for tensor in tensors:
            try:
                recipe = _recipe(schema, tensor)
            except BadJob as error:
                faults.extend(error.faults)
            else:
                self._number_of[tensor.key] = numbers.setdefault(recipe, len(numbers))
        if faults:
            raise BadJob(faults)
        self._recipes = tuple(numbers)

    def read(self, rows: pa.RecordBatch) -> ReadBlock:
        """Finds and checks all values of `rows`, whose schema is the converter's."""
        return ReadBlock([recipe.read(rows) for recipe in self._recipes], self._number_of)

    def measure(self, rows: pa.RecordBatch) -> int:
        """Bytes that `convert` takes for `rows`."""
        return self.read(rows).measure(0, rows.num_rows)

    def convert(self, rows: pa.RecordBatch, view: memoryview, offset: int) -> Converted:
        """Reads and writes all of `rows`; for many small batches `read` their block once."""
        return self.read(rows).write(0, rows.num_rows, view, offset)


def _recipe(schema: pa.Schema, tensor: SourceTensor) -> Recipe:
    missing = [name for name in tensor.columns if schema.get_field_index(name) < 0]
    if missing:
        there = f"one of {', '.join(schema.names)}"
        raise BadJob([Fault(f"column {name!r}", "the source has no such column", there) for name in missing])
    if tensor.ipc:
        return StreamRecipe(tuple(schema.get_field_index(name) for name in tensor.columns), tensor.names)
    if tensor.stacked:
        return stacked_recipe(schema, tensor)
    (name,) = tensor.columns
    kind, cast = schema.field(name).type, tensor.cast
    is_untyped_text = pa.types.is_null(plain_type(kind)) and tensor.dtype in dtypes.TEXT_DTYPES
    if _is_text(plain_type(kind)) or is_untyped_text:
        wants_tensor = cast.dtype is not None or cast.shape is not None
        if not wants_tensor and (tensor.dtype is None or tensor.dtype in dtypes.TEXT_DTYPES):
            return text_recipe(schema, tensor)
        if _is_bytes(plain_type(kind)) and wants_tensor:
            return bytes_recipe(schema, tensor)
        expected = "strings can't be cast" if wants_tensor else f"the model takes {tensor.dtype}"
        raise BadJob([Fault(f"column {name!r}", f"{kind} can't become a tensor", expected)])
    if tensor.dtype in dtypes.TEXT_DTYPES:
        raise BadJob([Fault(f"column {name!r}", f"{kind} where the model takes strings", "a string column")])
    return numeric_recipe(name, schema.get_field_index(name), kind, cast, tensor.dtype, tensor.shape)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind)) or _is_bytes(kind)
