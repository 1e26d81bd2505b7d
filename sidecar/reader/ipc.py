"""Arrow IPC files (Feather 2) and streams: record batches become blocks, only the wanted columns are read."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from headrace.errors import InputChanged
from sidecar.reader.block import BLOCK_BYTES, BLOCK_ROWS
from sidecar.reader.piece import NO_ADDRESS, READ_ERRORS, Piece, Types, Window, read_error_text

FILE_MAGIC = b"ARROW1"


class IpcFormat:
    """Reads Arrow IPC; a file's record batches are found by its footer, a stream's by reading from the start."""

    def __init__(self, types: Types) -> None:
        self._columns = frozenset(types)

    def pieces(self, window: Window) -> Iterator[Piece]:
        """Pieces of whole record batches, or of parts of them where they are large."""
        path = window.part.path
        with pa.OSFile(path, "rb") as raw:
            is_file = raw.read(len(FILE_MAGIC)) == FILE_MAGIC
            raw.seek(0)
            schema = (pa.ipc.open_file(raw) if is_file else pa.ipc.open_stream(raw)).schema
            raw.seek(0)
            fields = [i for i, name in enumerate(schema.names) if name in self._columns]
            options = pa.ipc.IpcReadOptions(included_fields=fields or None, use_threads=False)
            if not fields:  # an empty list means all of them to Arrow; one column is enough to count rows by
                options = pa.ipc.IpcReadOptions(included_fields=[0], use_threads=False)
            batches = (
                _batches_of_file(raw, options, window.begin)
                if is_file
                else _batches_of_stream(pa.ipc.open_stream(raw, options=options))
            )
            done = 0
            for begin, batch, damage in batches:
                done = begin + (batch.num_rows if batch is not None else 0)
                if damage:
                    yield Piece(None, NO_ADDRESS, window.claim(window.end), damage=damage)
                    return
                if batch is not None and done > window.begin:
                    yield from _parts(batch, begin, window)
                if done >= window.end:
                    return
        raise InputChanged(f"{path}: has {done} rows, {window.part.end} or more when it was planned")


def _batches_of_file(
    raw: pa.NativeFile, options: pa.ipc.IpcReadOptions, first: int
) -> Iterator[tuple[int, pa.RecordBatch | None, str]]:
    reader = pa.ipc.open_file(raw, options=options)
    counter = pa.ipc.open_file(raw, options=pa.ipc.IpcReadOptions(included_fields=[0], use_threads=False))
    begin = 0
    for i in range(reader.num_record_batches):
        try:
            # Before the lease only the number of rows matters, and one column tells it.
            batch = reader.get_batch(i) if begin >= first else counter.get_batch(i)
            if begin < first < begin + batch.num_rows:
                batch = reader.get_batch(i)
        except READ_ERRORS as error:
            yield begin, None, f"record batch {i} (from row {begin}) can't be read: {read_error_text(error)}"
            return
        yield begin, batch, ""
        begin += batch.num_rows


def _batches_of_stream(reader: pa.RecordBatchReader) -> Iterator[tuple[int, pa.RecordBatch | None, str]]:
    begin = 0
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except READ_ERRORS as error:
            yield begin, None, f"the stream can't be read past row {begin}: {read_error_text(error)}"
            return
        yield begin, batch, ""
        begin += batch.num_rows


def _parts(batch: pa.RecordBatch, begin: int, window: Window) -> Iterator[Piece]:
    row_bytes = max(batch.nbytes // max(batch.num_rows, 1), 1)
    step = max(min(BLOCK_ROWS, BLOCK_BYTES // row_bytes), 1)
    at = max(begin, window.begin)
    while at < begin + batch.num_rows:
        wanted = min(at + step, begin + batch.num_rows)
        stop = window.claim(wanted)
        if stop > at:
            yield Piece(batch.slice(at - begin, stop - at), np.arange(at, stop, dtype=np.int64), stop)
        if stop < wanted:
            return
        at = stop
