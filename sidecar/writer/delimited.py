"""CSV with a header. Strings are quoted, so that "" is an empty string and nothing at all is null.

Lists and structs are JSON, bytes base64, times ISO 8601; NaN is nan.
"""

import pyarrow as pa
import pyarrow.csv as pa_csv

from sidecar.converter.nested import plain, plain_type
from sidecar.writer.staged import Growing
from sidecar.writer.text_file import open_text, pieces
from sidecar.writer.texts import base64_texts, is_binary, iso_texts, json_texts, with_nulls_of


class CsvFormat:
    """Writes one CSV file."""

    def __init__(self, file: Growing, schema: pa.Schema, compression: str) -> None:
        self._stream = open_text(file, compression)
        self._schema = pa.schema([pa.field(field.name, _cell_type(field.type)) for field in schema])
        self._writer = pa_csv.CSVWriter(self._stream, self._schema)

    def write(self, rows: pa.RecordBatch) -> None:
        """Writes rows."""
        for piece in pieces(rows):
            cells = [_cells(column) for column in piece.columns]
            self._writer.write_batch(pa.RecordBatch.from_arrays(cells, schema=self._schema))

    def close(self) -> None:
        """Completes the compression."""
        self._writer.close()
        self._stream.close()


def _cell_type(kind: pa.DataType) -> pa.DataType:
    kind = plain_type(kind)
    if _is_native(kind):
        return kind
    return pa.int64() if pa.types.is_duration(kind) else pa.string()


def _is_native(kind: pa.DataType) -> bool:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return (pa.types.is_primitive(kind) and not pa.types.is_temporal(kind)) or is_text or pa.types.is_null(kind)


def _cells(column: pa.Array) -> pa.Array:
    column = plain(column)
    kind = column.type
    if _is_native(kind):
        return column
    if pa.types.is_duration(kind):
        return column.cast(pa.int64())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return iso_texts(column)
    if is_binary(kind):
        return base64_texts(column)
    if pa.types.is_decimal(kind):
        return column.cast(pa.string())
    return with_nulls_of(column, json_texts(column))
