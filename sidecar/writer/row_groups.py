"""Rows held back until there are enough of them for a row group (Parquet) or a record batch (Arrow)."""

import pyarrow as pa

ROWS_MAX = 128 * 1024
"""Large enough that encodings and headers cost nothing per row, small enough to be read in parallel."""

BYTES_MAX = 64 * 1024 * 1024
"""Of one group in memory: it counts towards what a worker holds besides its arena."""


class RowGroups:
    """Collects batches; what is ready comes out as a table of one group."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._nbytes = 0

    def add(self, rows: pa.RecordBatch) -> list[pa.Table]:
        """Takes rows, of which there may be more than a group's worth, and gives back the groups that are full."""
        full: list[pa.Table] = []
        row_bytes = rows.nbytes / max(rows.num_rows, 1)
        begin = 0
        while begin < rows.num_rows:
            room = int((BYTES_MAX - self._nbytes) / max(row_bytes, 1e-9))
            # A row larger than a whole group is a group of its own.
            count = min(rows.num_rows - begin, ROWS_MAX - self._rows, max(room, 0 if self._rows else 1))
            if count:
                self._batches.append(rows.slice(begin, count))
                self._rows += count
                self._nbytes += int(count * row_bytes)
                begin += count
            if self._rows >= ROWS_MAX or self._nbytes >= BYTES_MAX or count == 0:
                full.extend(self.rest())
        return full

    def rest(self) -> list[pa.Table]:
        """What is held, as one group; none if there is nothing."""
        batches, self._batches = self._batches, []
        self._rows = self._nbytes = 0
        return [pa.Table.from_batches(batches)] if batches else []
