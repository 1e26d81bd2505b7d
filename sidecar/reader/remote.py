"""Parquet over HTTP: ranges are fetched ahead of the reader in few large requests, and kept while leases need them.

A small file is one request. Of a larger one the end is fetched for its footer, then per row group the wanted columns,
joined where they lie close. Ahead of the reader are the next files of the lease and the next row groups of the file.

Not here: requests and retries (`headrace.httpfile`).
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headrace.dataset import Slice
from headrace.uris import is_remote

if TYPE_CHECKING:
    import pyarrow.parquet as pq

IN_FLIGHT = 8
"""Requests at once in one worker; at 30 ms each they bring 8 files in the time of one."""
WHOLE_BYTES = 8 << 20
"""Files up to this are fetched whole: a request costs as much as 3 MB at 100 MB/s."""
TAIL_BYTES = 256 << 10
"""First request of a larger file; a longer footer takes a second one."""
GAP_BYTES = 512 << 10
"""Unwanted bytes between two wanted ranges that are fetched to save a request."""
AHEAD_BYTES = 32 << 20
"""Bytes asked for beyond what is being read."""
KEPT_BYTES = 64 << 20
"""Bytes kept: neighbouring leases share files, and must not fetch them twice."""

Range = tuple[int, int]


class RangeStore:
    """Ranges of remote files, being fetched or there; the longest unused go first. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._ranges: OrderedDict[tuple[str, str, int, int], Future[bytes]] = OrderedDict()
        self._nbytes = 0

    def fetch(self, part: Slice, begin: int, end: int) -> "Future[bytes]":
        """Bytes ``[begin, end)`` of the slice's file; a request starts unless they are there or under way."""
        key = (part.path, part.version, begin, end)
        with self._lock:
            found = self._ranges.get(key)
            if found is not None and not (found.done() and found.exception() is not None):
                self._ranges.move_to_end(key)
                return found
            from headrace.httpfile import fetch_range

            if self._pool is None:
                self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="fetch")
            if found is None:
                self._nbytes += end - begin
            future = self._pool.submit(fetch_range, part.path, begin, end, size=part.size, version=part.version)
            self._ranges[key] = future
            self._ranges.move_to_end(key)
            while self._nbytes > KEPT_BYTES and len(self._ranges) > IN_FLIGHT:
                (_, _, first, last), dropped = self._ranges.popitem(last=False)
                dropped.cancel()
                self._nbytes -= last - first
            return future

    def close(self) -> None:
        """Ends the threads once their requests are answered."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
            self._ranges.clear()
            self._nbytes = 0


@dataclass(slots=True)
class OpenFile:
    """A file that pyarrow reads, and whoever must know which row groups come next."""

    raw: Any  # pa.NativeFile
    remote: "RemoteFile | None" = None

    def enter(self, footer: "pq.FileMetaData", groups: Sequence[int], columns: Sequence[str]) -> None:
        """Row group ``groups[0]`` is about to be read, the others after it."""
        if self.remote is not None:
            self.remote.enter(footer, groups, columns)


@dataclass(slots=True)
class RemoteFile:
    """Reads of one remote file, served from ranges that were asked for ahead."""

    part: Slice
    store: RangeStore
    wanted: list[Range] = field(default_factory=list)

    def enter(self, footer: "pq.FileMetaData", groups: Sequence[int], columns: Sequence[str]) -> None:
        """Asks for the ranges of the row groups, in order, as far as AHEAD_BYTES goes; the first in any case."""
        self.wanted = []
        nbytes = 0
        for group in groups:
            ranges = list(group_ranges(footer.row_group(group), columns))
            nbytes += sum(end - begin for begin, end in ranges)
            if self.wanted and nbytes > AHEAD_BYTES:
                return
            self.wanted += ranges
            for begin, end in ranges:
                self.store.fetch(self.part, begin, end)

    def read(self, begin: int, end: int) -> bytes:
        """Bytes ``[begin, end)``, waiting for their request."""
        for first, last in self.wanted:
            if first <= begin and end <= last:
                return self.store.fetch(self.part, first, last).result()[begin - first : end - first]
        return self.store.fetch(self.part, begin, end).result()


class InputFiles:
    """Opens local and remote files for random reads, and fetches remote ones ahead."""

    def __init__(self) -> None:
        self._store = RangeStore()

    def prefetch(self, slices: Sequence[Slice]) -> None:
        """The slices' files are about to be read, in this order: starts the requests that can be known already."""
        nbytes = 0
        for part in slices[:IN_FLIGHT]:
            if not is_remote(part.path):
                return
            begin, end = _first_range(part)
            nbytes += end - begin
            if nbytes > AHEAD_BYTES:
                return
            self._store.fetch(part, begin, end)

    def open(self, part: Slice) -> OpenFile:
        """Opens the slice's file; of a small remote one all bytes are awaited here.

        Raises:
            OSError: a local file can't be opened.
            InputChanged, SourceUnavailable: as `httpfile.fetch_range`.
        """
        if not is_remote(part.path):
            return OpenFile(pa.OSFile(part.path, "rb"))
        begin, end = _first_range(part)
        if begin == 0:
            return OpenFile(pa.BufferReader(self._store.fetch(part, begin, end).result()))
        from headrace.httpfile import RangedFile

        remote = RemoteFile(part, self._store, wanted=[(begin, end)])
        return OpenFile(pa.PythonFile(RangedFile(part.size, remote.read), mode="r"), remote)

    def close(self) -> None:
        """Ends the fetching threads."""
        self._store.close()


def _first_range(part: Slice) -> Range:
    return (0, part.size) if part.size <= WHOLE_BYTES else (part.size - TAIL_BYTES, part.size)


def group_ranges(group: "pq.RowGroupMetaData", columns: Sequence[str]) -> Iterator[Range]:
    """Byte ranges of a row group's wanted columns, joined where at most GAP_BYTES lie between."""
    chunks: list[Range] = []
    for i in range(group.num_columns):
        column = group.column(i)
        path = column.path_in_schema
        if path in columns or path.split(".", 1)[0] in columns:
            offsets = [at for at in (column.dictionary_page_offset, column.data_page_offset) if at]
            chunks.append((min(offsets), min(offsets) + column.total_compressed_size))
    begin = end = -1
    for first, last in sorted(chunks):
        if begin >= 0 and first - end <= GAP_BYTES and max(end, last) - begin <= AHEAD_BYTES:
            end = max(end, last)
            continue
        if begin >= 0:
            yield begin, end
        begin, end = first, last
    if begin >= 0:
        yield begin, end
