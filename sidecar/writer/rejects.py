"""Rejected rows of one lease: where each came from, who refused it and why, and the row itself if it is to be kept."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.publish import REJECTED
from headrace.rejects import ADDRESS, CLASS, FILE, MESSAGE, STAGE, kept_name
from headrace.stores.port import WorkerStore
from sidecar.writer.parquet import ParquetFormat, is_storable
from sidecar.writer.staged import Staged, StagedFile, removed_on_error

FIELDS = (
    pa.field(FILE, pa.string()),
    pa.field(ADDRESS, pa.int64()),  # row number in the file, byte offset of the record, or 0
    pa.field(STAGE, pa.string()),  # "source" where reading or converting failed
    pa.field(CLASS, pa.string()),
    pa.field(MESSAGE, pa.string()),
)


class Blame(Protocol):
    """Why a row is rejected."""

    @property
    def stage(self) -> str:
        """Who refused it."""

    @property
    def kind(self) -> str:
        """Class of the error."""

    @property
    def message(self) -> str:
        """For the user."""


class RejectsWriter:
    """Writes the rejects file of one lease, always Parquet: FIELDS, then the source's columns."""

    def __init__(self, store: WorkerStore, stem: str, *, keep_rows: bool) -> None:
        """`store` is the output's, `stem` the file's final name without its suffix."""
        self._store = store
        self._name = f"{REJECTED}/{stem}.parquet"
        self._keep_rows = keep_rows
        self._schema: pa.Schema | None = None
        self._kept: list[str] = []  # columns of the source that are written
        self._pending: list[pa.RecordBatch] = []  # without source columns, whose types aren't known yet
        self._file: StagedFile | None = None
        self._writer: ParquetFormat | None = None
        self._rows = 0

    def write(
        self, path: str, addresses: npt.NDArray[np.int64], blames: Sequence[Blame], rows: pa.RecordBatch | None
    ) -> None:
        """Adds rejected rows of one file.

        Args:
            addresses: one per row, of the unit that the source counts in.
            blames: one per row.
            rows: the source's columns of these rows; None where they could not even be read.

        Raises:
            SinkError: the store failed; the file is gone.
        """
        assert len(addresses) == len(blames), "every rejected row has an address and a reason"
        described = pa.RecordBatch.from_arrays(
            [
                pa.array([path] * len(blames), pa.string()),
                pa.array(addresses, pa.int64()),
                pa.array([blame.stage for blame in blames], pa.string()),
                pa.array([blame.kind for blame in blames], pa.string()),
                pa.array([blame.message for blame in blames], pa.string()),
            ],
            schema=pa.schema(FIELDS),
        )
        self._rows += len(blames)
        if not self._keep_rows:
            rows = None
            self._schema = self._schema or pa.schema(FIELDS)
        elif self._schema is None and rows is not None:
            # What Parquet doesn't know is left out: a reject without one column is better than a failed shard.
            source = [field for field in rows.schema if is_storable(field)]
            self._kept = [field.name for field in source]
            names = map(kept_name, self._kept)
            renamed = [field.with_name(name) for field, name in zip(source, names, strict=True)]
            self._schema = pa.schema([*FIELDS, *renamed])
        if self._schema is None:
            self._pending.append(described)
            return
        for pending in self._pending:
            self._add(pending, None)
        self._pending.clear()
        self._add(described, rows)

    def close(self) -> tuple[Staged, ...]:
        """Completes the file and makes it durable; nothing if no row was rejected.

        Raises:
            SinkError: the store failed; the file is gone.
        """
        if self._pending:
            self._schema = pa.schema(FIELDS)
            for pending in self._pending:
                self._add(pending, None)
            self._pending.clear()
        if self._file is None or self._writer is None:
            return ()
        with removed_on_error(self._file):
            self._writer.close()
            return (self._file.finish(self._rows, "rejects"),)

    def abort(self) -> None:
        """Removes what is there, also after `close`."""
        if self._file is not None:
            self._file.remove()

    def _add(self, described: pa.RecordBatch, rows: pa.RecordBatch | None) -> None:
        assert self._schema is not None
        if self._file is None:
            self._file = StagedFile(self._store, self._name)
        kept = self._schema.types[len(FIELDS) :]
        if rows is None:
            source = [pa.nulls(len(described), kind) for kind in kept]
        else:
            source = [rows.column(name) for name in self._kept]
        with removed_on_error(self._file):
            if self._writer is None:
                self._writer = ParquetFormat(self._file, self._schema, "zstd")
            self._writer.write(pa.RecordBatch.from_arrays([*described.columns, *source], schema=self._schema))
