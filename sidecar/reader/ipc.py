"""Arrow IPC files (Feather 2) and streams: record batches become blocks, only the wanted columns are read."""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from headrace.damage import is_damage
from headrace.dataset import Slice
from headrace.errors import InputChanged
from sidecar.reader.block import BLOCK_BYTES, BLOCK_ROWS
from sidecar.reader.piece import NO_ADDRESS, READ_ERRORS, Piece, Types, Window, read_error_text
from sidecar.reader.remote import InputFiles

FILE_MAGIC = b"ARROW1"
LENGTHS_KEPT = 64
"""Files whose record batches' lengths are kept: leases of one file follow each other, and counting costs requests."""


class IpcFormat:
    """Reads Arrow IPC; a file's record batches are found by its footer, a stream's by reading from the start."""

    def __init__(self, types: Types, files: InputFiles, *, is_limited: bool = False) -> None:
        """With `is_limited`, the plan may take only the first rows of a file."""
        self._files = files
        self._columns = frozenset(types)
        self._is_limited = is_limited
        self._lengths: OrderedDict[tuple[str, str], dict[int, int]] = OrderedDict()

    def pieces(self, window: Window) -> Iterator[Piece]:
        """Pieces of whole record batches, or of parts of them where they are large."""
        path = window.part.path
        with self._files.arrow(window.part) as raw:
            is_file = raw.read(len(FILE_MAGIC)) == FILE_MAGIC
            raw.seek(0)
            schema = (pa.ipc.open_file(raw) if is_file else pa.ipc.open_stream(raw)).schema
            raw.seek(0)
            fields = [i for i, name in enumerate(schema.names) if name in self._columns]
            options = pa.ipc.IpcReadOptions(included_fields=fields or None, use_threads=False)
            if not fields:  # an empty list means all of them to Arrow; one column is enough to count rows by
                options = pa.ipc.IpcReadOptions(included_fields=[0], use_threads=False)
            batches = (
                _batches_of_file(
                    raw, options, window.begin, self._known_lengths(window.part), self._counter(window.part)
                )
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
                    break
            units = window.part.units
            if window.end == units and not self._is_limited:
                done += sum(batch.num_rows if batch is not None else 1 for _, batch, _ in batches)
            if done < window.end or (done > units and not self._is_limited):
                raise InputChanged(f"{path}: has {done} rows, {units} when it was planned")

    def _known_lengths(self, part: Slice) -> dict[int, int]:
        key = (part.path, part.version)
        found = self._lengths.setdefault(key, {})
        if len(self._lengths) > LENGTHS_KEPT:
            self._lengths.popitem(last=False)
        return found

    def _counter(self, part: Slice) -> Callable[[int], int]:
        """Counts the rows of record batch i; one column tells them."""
        reader = None

        def rows(i: int) -> int:
            nonlocal reader
            if reader is None:
                options = pa.ipc.IpcReadOptions(included_fields=[0], use_threads=False)
                reader = pa.ipc.open_file(self._files.arrow(part, is_sparse=True), options=options)
            return int(reader.get_batch(i).num_rows)

        return rows


def _batches_of_file(
    raw: pa.NativeFile, options: pa.ipc.IpcReadOptions, first: int, lengths: dict[int, int], count: Callable[[int], int]
) -> Iterator[tuple[int, pa.RecordBatch | None, str]]:
    """Record batches from the one on that holds row `first`; `lengths` are those that are known, and are added to."""
    reader = pa.ipc.open_file(raw, options=options)
    begin = 0
    for i in range(reader.num_record_batches):
        try:
            if begin < first:
                if i not in lengths:
                    lengths[i] = count(i)
                if begin + lengths[i] <= first:
                    begin += lengths[i]
                    continue
            batch = reader.get_batch(i)
            lengths[i] = batch.num_rows
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
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
            if not is_damage(error):
                raise
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
