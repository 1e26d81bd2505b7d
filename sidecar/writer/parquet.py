"""Parquet, with the encodings that suit results of models.

Measured (benchmarks): dictionaries of unique values or floats cost six times the plain write and save nothing, so only
text is tried with one. Floats are split into byte streams, which compress; integers are stored as differences.
"""

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from sidecar.converter.nested import is_list
from sidecar.writer.row_groups import RowGroups
from sidecar.writer.staged import Growing

ZSTD_LEVEL = 1
"""Higher levels cost several times the time for a few percent of the size."""


class ParquetFormat:
    """Writes one Parquet file, a row group at a time."""

    def __init__(self, file: Growing, schema: pa.Schema, compression: str) -> None:
        leaves = list(_leaves(schema))
        self._groups = RowGroups()
        self._writer = pq.ParquetWriter(
            file,
            schema,
            compression=compression,
            compression_level=ZSTD_LEVEL if compression == "zstd" else None,
            use_dictionary=[path for path, kind in leaves if _is_text(kind)],
            column_encoding={path: encoding for path, kind in leaves if (encoding := _encoding(kind)) is not None},
            # Smallest and largest values help to skip row groups by a column's value, never by a vector's elements.
            write_statistics=[path for path, _ in leaves if "." not in path],
        )

    def write(self, rows: pa.RecordBatch) -> None:
        """Adds rows; writes the row groups that are full."""
        for group in self._groups.add(rows):
            self._write(group)

    def close(self) -> None:
        """Writes the last row group and the footer."""
        for group in self._groups.rest():
            self._write(group)
        self._writer.close()

    def _write(self, group: pa.Table) -> None:
        self._writer.write_table(group, row_group_size=group.num_rows)


def is_storable(field: pa.Field) -> bool:
    """Whether Parquet knows the field's type."""
    try:
        pq.ParquetWriter(io.BytesIO(), pa.schema([field])).close()
    except pa.ArrowNotImplementedError:
        return False
    return True


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Parquet's path and Arrow's type of every leaf."""
    for field in schema:
        yield from _leaves_below(field.name, field.type)


def _leaves_below(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    if isinstance(kind, pa.BaseExtensionType):
        yield from _leaves_below(path, kind.storage_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves_below(f"{path}.{field.name}", field.type)
    elif pa.types.is_map(kind):
        yield from _leaves_below(f"{path}.key_value.key", kind.key_type)
        yield from _leaves_below(f"{path}.key_value.value", kind.item_type)
    elif is_list(kind):
        yield from _leaves_below(f"{path}.list.element", kind.value_type)
    else:
        yield path, kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _encoding(kind: pa.DataType) -> str | None:
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return "BYTE_STREAM_SPLIT"
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        return "DELTA_BINARY_PACKED"
    return None
