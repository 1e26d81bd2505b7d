"""Text files, compressed as a whole where the sink says so."""

from collections.abc import Iterator

import pyarrow as pa

from sidecar.writer.staged import Growing

PIECE_BYTES = 16 * 1024 * 1024
"""Of rows turned to text at a time: numbers take several times as much as text, and Arrow's strings end at 2 GiB."""


def open_text(file: Growing, compression: str) -> pa.NativeFile:
    """A stream into `file`; closing it completes the compression and leaves `file` open."""
    whole = pa.PythonFile(file, mode="w")
    return whole if compression == "none" else pa.CompressedOutputStream(whole, compression)


def pieces(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Runs of `rows` of about PIECE_BYTES each."""
    if rows.num_rows:
        step = max(1, int(PIECE_BYTES / max(rows.nbytes / rows.num_rows, 1)))
        for begin in range(0, rows.num_rows, step):
            yield rows.slice(begin, step)
