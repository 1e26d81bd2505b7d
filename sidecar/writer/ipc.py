"""Arrow IPC files (Feather 2). Dictionaries are decoded: a file can't hold batches with different ones."""

import pyarrow as pa

from headrace.arrow_types import stored_schema
from sidecar.writer.row_groups import RowGroups
from sidecar.writer.staged import Growing


class IpcFormat:
    """Writes one Arrow IPC file, a record batch per row group."""

    def __init__(self, file: Growing, schema: pa.Schema, compression: str) -> None:
        self._schema = stored_schema(schema, "arrow")
        self._groups = RowGroups()
        options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
        self._writer = pa.ipc.new_file(file, self._schema, options=options)

    def write(self, rows: pa.RecordBatch) -> None:
        """Adds rows; writes the record batches that are full."""
        columns = [
            column if column.type == field.type else column.dictionary_decode()
            for column, field in zip(rows.columns, self._schema, strict=True)
        ]
        for group in self._groups.add(pa.RecordBatch.from_arrays(columns, schema=self._schema)):
            self._write(group)

    def close(self) -> None:
        """Writes the last record batch and the footer."""
        for group in self._groups.rest():
            self._write(group)
        self._writer.close()

    def _write(self, group: pa.Table) -> None:
        for batch in group.combine_chunks().to_batches():
            self._writer.write_batch(batch)
