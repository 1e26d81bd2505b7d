"""Rows of one lease to one file of the sink's format.

The first rows fix the columns and their types; the file is made then.
"""

import io
import threading
from collections.abc import Mapping

import pyarrow as pa

from headrace.arrow_types import columns_text, stored_schema
from headrace.errors import BadJob, Fault, HeadraceError
from headrace.program import SinkProgram
from headrace.stores.port import WorkerStore
from sidecar.writer.formats import Format, open_format, suffix
from sidecar.writer.staged import Staged, StagedFile, removed_on_error


class SchemaChanged(HeadraceError):
    """Rows came with other columns or types than the rows before them: the stage's fault."""

    kind = "SchemaMismatch"


class AgreedSchema:
    """The columns and types that all files of a worker have: a reader takes them for one table.

    The coordinator holds all workers to one schema, by the text that comes with each commit.
    """

    def __init__(self, format_name: str) -> None:
        """`format_name` is that of the files."""
        self._format = format_name
        self._first: pa.Schema | None = None
        self._seen: dict[str, pa.DataType] = {}  # until the first file
        self._text = ""
        self._lock = threading.Lock()

    def agree(self, schema: pa.Schema) -> None:
        """Takes those of the first file.

        Raises:
            SchemaChanged: they aren't those of the files before.
        """
        with self._lock:
            if self._first is None:
                self._first = schema
        _check_same(self._first, schema)

    def known(self, column: str) -> pa.DataType | None:
        """The type of a column, None before the first file or where there is no such column."""
        with self._lock:
            at = -1 if self._first is None else self._first.get_field_index(column)
            return None if self._first is None or at < 0 else self._first.field(at).type

    def see(self, types: Mapping[str, pa.DataType]) -> None:
        """A batch came through whole with columns of these types: what later batches are likely to have."""
        with self._lock:
            if self._first is None:
                self._seen = {**types, **self._seen}

    def likely(self, column: str) -> pa.DataType | None:
        """As `known`, before the first file the type of a batch that came through whole."""
        return self.known(column) or self._seen.get(column)

    @property
    def text(self) -> str:
        """The agreed columns as readers of the files find them; to be asked for once a file was written."""
        with self._lock:
            assert self._first is not None, "the first file's schema was agreed"
            self._text = self._text or columns_text(stored_schema(self._first, self._format))
            return self._text


class ShardWriter:
    """Writes the data file of one lease."""

    def __init__(self, sink: SinkProgram, store: WorkerStore, stem: str) -> None:
        """`store` is the output's, `stem` the file's final name without its suffix.

        Raises:
            BadJob: the format can't be compressed that way.
        """
        self._format = sink.format
        self._compression = sink.compression
        self._name = stem + suffix(sink.format, sink.compression)
        self._store = store
        self._schema: pa.Schema | None = None
        self._file: StagedFile | None = None
        self._writer: Format | None = None
        self._rows = 0

    def write(self, rows: pa.RecordBatch) -> None:
        """Adds rows, in output order. No rows are fine: they fix the columns and make a valid, empty file.

        Raises:
            SchemaChanged: their columns or types aren't those of the first rows.
            BadJob: the format doesn't know a column's type.
            SinkError: the store failed. After any of the last two the file is gone.
        """
        if self._file is None or self._schema is None:
            self._schema = rows.schema.remove_metadata()
            self._file = StagedFile(self._store, self._name)
        assert not self._file.has_ended, "a writer that was closed or aborted takes no more rows"
        _check_same(self._schema, rows.schema)
        with removed_on_error(self._file):
            try:
                if self._writer is None:
                    self._writer = open_format(self._format, self._compression, self._schema, self._file)
                if not rows.schema.equals(self._schema, check_metadata=True):
                    rows = pa.RecordBatch.from_arrays(rows.columns, schema=self._schema)
                self._writer.write(rows)
            except pa.ArrowNotImplementedError as error:
                raise BadJob(self._unwritable(rows)) from error
        self._rows += rows.num_rows

    def close(self) -> tuple[Staged, ...]:
        """Completes the file and makes it durable; nothing if nothing was ever written.

        Raises:
            SinkError: the store failed; the file is gone.
        """
        if self._file is None or self._writer is None:
            return ()
        with removed_on_error(self._file):
            self._writer.close()
            return (self._file.finish(self._rows, "data"),)

    def abort(self) -> None:
        """Removes what is there, also after `close`."""
        if self._file is not None:
            self._file.remove()

    def _unwritable(self, rows: pa.RecordBatch) -> list[Fault]:
        """The columns that the format refuses, each tried alone."""
        faults = []
        for name in rows.schema.names:
            column = rows.select([name])
            try:
                open_format(self._format, "none", column.schema, io.BytesIO()).write(column)
            except pa.ArrowNotImplementedError:
                kind = column.schema.field(name).type
                faults.append(Fault(f"spec.sink.columns.{name}", f"{kind} can't be written as {self._format}"))
        return faults


def _check_same(first: pa.Schema, now: pa.Schema) -> None:
    if first.equals(now):
        return
    if first.names != now.names:
        raise SchemaChanged(f"Output columns are {', '.join(now.names)}; they were {', '.join(first.names)}.")
    for name, was, comes in zip(first.names, first.types, now.types, strict=True):
        if was != comes:
            is_shape = pa.types.is_fixed_size_list(was) and pa.types.is_fixed_size_list(comes)
            remedy = "Return a list of arrays, one for each row," if is_shape else "Cast it"
            raise SchemaChanged(
                f"Output column {name!r} comes as {comes}; it was {was} in the rows before. "
                f"{remedy} in its stage, whatever the data, then start anew with --again."
            )
