"""Rows of a lease whose columns have no type yet: held back until a batch with values tells it.

A stage that returns nothing but None for a batch doesn't say what its values are. Such a column is of Arrow's null type
(or of lists of nulls), takes the type that other batches of this worker's leases have, and only where none of a whole
lease has a value stays as it is.

Not here: that all files of the output have the same types (`sidecar.writer`, and the coordinator for all workers).
"""

from collections.abc import Callable

import pyarrow as pa

HELD_BYTES_MAX = 64 << 20
"""Of rows held back by one lease; beyond it they are written as they are."""


class LateTypes:
    """The rows held back by one lease, in their order."""

    def __init__(self, known: Callable[[str], pa.DataType | None]) -> None:
        """`known` gives the type of a column in other files of this worker, None if there is none."""
        self._known = known
        self._types: dict[str, pa.DataType] = {}
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0

    def take(self, rows: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Adds rows; gives those that can be written now."""
        if not self._held and not any(map(_is_open, rows.schema.types)):
            return [rows]
        for field in rows.schema:
            if not _is_open(field.type):
                self._types.setdefault(field.name, field.type)
        self._held.append(rows)
        self._held_bytes += rows.nbytes
        if self._held_bytes <= HELD_BYTES_MAX and not all(map(self._is_known, rows.schema.names)):
            return []
        return self.rest()

    def rest(self) -> list[pa.RecordBatch]:
        """All that is still held, with the types that are known by now."""
        held, self._held, self._held_bytes = self._held, [], 0
        return [self._typed(rows) for rows in held]

    def _is_known(self, name: str) -> bool:
        return self._type(name) is not None

    def _type(self, name: str) -> pa.DataType | None:
        return self._types.get(name) or self._known(name)

    def _typed(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        columns = []
        for name, column in zip(rows.schema.names, rows.columns, strict=True):
            kind = self._type(name) if _is_open(column.type) else None
            columns.append(column if kind is None else _cast(column, kind))
        return pa.RecordBatch.from_arrays(columns, rows.schema.names)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column without values as one of `kind`; as it is where no such cast is: its type then contradicts the other."""
    try:
        return column.cast(kind)
    except pa.ArrowException:
        return column


def _is_open(kind: pa.DataType) -> bool:
    """Nulls, or lists of nothing."""
    while pa.types.is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_null(kind))
