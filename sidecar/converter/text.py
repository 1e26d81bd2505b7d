"""Strings and bytes: the values one after another in the arena, and 64-bit offsets to them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.errors import BadJob, Fault
from headrace.local.columns import BINARY, UTF8, Column, aligned
from sidecar.converter.buffers import array_values
from sidecar.converter.dtypes import AnyArray
from sidecar.converter.flaws import NULL_VALUE, BadValue, Flaws
from sidecar.converter.nested import null_message, plain, plain_type
from sidecar.converter.raw_bytes import Bytes, byte_rows
from sidecar.converter.region import Region
from sidecar.converter.tensors import SourceTensor


@dataclass(frozen=True, slots=True)
class ReadText:
    """A block's values, ready to be copied: row i is ``data[offsets[i]:offsets[i + 1]]``. Bad rows are empty."""

    kind: int
    data: Bytes
    offsets: AnyArray  # as wide as Arrow has them
    bad: dict[int, BadValue]

    def measure(self, begin: int, end: int) -> int:
        """Bytes of offsets and values of rows ``[begin, end)``, each aligned."""
        return aligned(8 * (end - begin + 1)) + int(self.offsets[end]) - int(self.offsets[begin])

    def write(self, begin: int, end: int, region: Region) -> Column:
        """Copies rows ``[begin, end)`` into the arena."""
        first, last = int(self.offsets[begin]), int(self.offsets[end])
        nbytes = 8 * (end - begin + 1)
        offset = region.take(nbytes)
        into = region.array(offset, np.int64, end - begin + 1)
        np.subtract(self.offsets[begin : end + 1], first, out=into)
        data_offset = region.take(last - first)
        np.copyto(region.array(data_offset, np.uint8, last - first), self.data[first:last])
        return Column(
            kind=self.kind,
            rows=end - begin,
            offset=offset,
            nbytes=nbytes,
            data_offset=data_offset,
            data_nbytes=last - first,
        )


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """How one string or binary column becomes text in the arena."""

    column: str
    index: int
    kind: int
    fill: str  # in place of nulls
    is_filled: bool  # the job says so; else nulls are bad, and empty text

    def read(self, rows: pa.RecordBatch) -> ReadText:
        """Checks nulls."""
        flaws = Flaws()
        array = plain(rows.column(self.index))
        if array.null_count:
            if not self.is_filled:
                flaws.add(
                    np.flatnonzero(array_values(array.is_null())), self.column, NULL_VALUE, null_message(self.column)
                )
            if pa.types.is_fixed_size_binary(array.type):
                array = array.cast(pa.large_binary())
            fill = self.fill if self.kind == UTF8 else self.fill.encode()
            array = array.fill_null(pa.scalar(fill, array.type))
        data, offsets, _ = byte_rows(array)
        return ReadText(self.kind, data, offsets, flaws.found)


def text_recipe(schema: pa.Schema, tensor: SourceTensor) -> TextRecipe:
    """Resolves one string or binary column that stays one.

    Raises:
        BadJob: the fill value is no text.
    """
    (name,) = tensor.columns
    kind, fill = plain_type(schema.field(name).type), tensor.cast.fill
    if fill is not None and not isinstance(fill, str):
        raise BadJob([Fault(f"column {name!r}", f"fill {fill!r} for {kind}", "a string")])
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    index = schema.get_field_index(name)
    return TextRecipe(name, index, UTF8 if is_text else BINARY, fill or "", is_filled=fill is not None)
