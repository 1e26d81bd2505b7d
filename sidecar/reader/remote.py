"""Remote files: ranges are fetched ahead of the reader in few large requests, and kept while leases need them.

A small file is one request. Of a larger Parquet file the end is fetched for its footer, then per row group the wanted
columns, joined where they lie close; any other is fetched in chunks. Ahead of the reader are the next files of the
lease, and the next row groups or chunks of the file.

Not here: requests and retries (`headrace.httpfile`).
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headrace.dataset import Slice
from headrace.errors import SourceUnavailable
from headrace.program import SourceProgram, StorageOptions
from headrace.records import codec_of, open_text
from headrace.uris import is_remote

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from headrace.remote_files import RemoteFiles

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

CHUNK_BYTES = 4 << 20
"""Of files that are read from front to back, and of Arrow files."""
SPARSE_BYTES = 64 << 10
"""Smallest request for an Arrow file of which only the lengths of record batches are looked for."""
CHUNKS_AHEAD = 6
FILES_AHEAD = IN_FLIGHT
"""Files asked for ahead of the reader, as far as AHEAD_BYTES goes."""

Range = tuple[int, int]


class RangeStore:
    """Ranges of remote files, being fetched or there; the longest unused go first. Thread-safe."""

    def __init__(self, storage: StorageOptions) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._is_closed = False
        self._remote: RemoteFiles | None = None
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
            if self._is_closed:
                raise SourceUnavailable(f"{part.path}: this worker has stopped reading")
            if self._remote is None or self._pool is None:
                from headrace.remote_files import RemoteFiles

                self._remote = RemoteFiles(self._storage)
                self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="fetch")
            if found is None:
                self._nbytes += end - begin
            future = self._pool.submit(self._remote.range, part.path, begin, end, size=part.size, version=part.version)
            self._ranges[key] = future
            self._ranges.move_to_end(key)
            while self._nbytes > KEPT_BYTES and len(self._ranges) > IN_FLIGHT:
                (_, _, first, last), dropped = self._ranges.popitem(last=False)
                dropped.cancel()
                self._nbytes -= last - first
            return future

    def read(self, part: Slice, begin: int, end: int) -> bytes:
        """Bytes ``[begin, end)`` of the slice's file, once they are there."""
        while True:
            try:
                return self.fetch(part, begin, end).result()
            except CancelledError:  # it was dropped while it waited for its turn
                continue

    def close(self) -> None:
        """Ends the threads once their requests are answered."""
        with self._lock:
            self._is_closed = True
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
        """Row group ``groups[0]`` is the next that is read, the others come after it."""
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
                return self.store.read(self.part, first, last)[begin - first : end - first]
        return self.store.read(self.part, begin, end)


class _Chunks:
    """Reads of one remote file, served from chunks.

    Text is read on to the slice's end, so all chunks up to there are asked for ahead; of other files it isn't known how
    far the slice reaches, and more and more are while reads follow each other.
    """

    def __init__(self, part: Slice, store: RangeStore, *, is_text: bool) -> None:
        self._part = part
        self._store = store
        self._is_text = is_text
        self._ahead_end = part.end if is_text and codec_of(part.path) is None else part.size
        self._last = -1
        self._ahead = 0

    def read(self, begin: int, end: int) -> bytes:
        """Bytes ``[begin, end)``, waiting for their requests."""
        if end <= begin:
            return b""
        part = self._part
        if part.size <= WHOLE_BYTES:
            return self._store.read(part, 0, part.size)[begin:end]
        first, last = begin // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
        if self._is_text:
            # Before the slice lies only the header.
            self._ahead = CHUNKS_AHEAD if (last + 1) * CHUNK_BYTES >= part.begin else 0
        elif last != self._last:
            self._ahead = min(2 * self._ahead + 1, CHUNKS_AHEAD) if last == self._last + 1 else 0
        self._last = last
        for chunk in range(first, last + 1 + self._ahead):
            if chunk <= last or chunk * CHUNK_BYTES < self._ahead_end:
                self._store.fetch(part, *self._range(chunk))
        data = b"".join([self._store.read(part, *self._range(chunk)) for chunk in range(first, last + 1)])
        return data[begin - first * CHUNK_BYTES : end - first * CHUNK_BYTES]

    def _range(self, chunk: int) -> Range:
        return chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, self._part.size)


def _read_sparse(store: RangeStore, part: Slice, begin: int, end: int) -> bytes:
    """Bytes ``[begin, end)``, by one request; of a small file, by the one for all of it."""
    if part.size <= WHOLE_BYTES:
        return store.read(part, 0, part.size)[begin:end]
    return store.read(part, begin, min(max(end, begin + SPARSE_BYTES), part.size))[: end - begin]


class InputFiles:
    """Opens local and remote files for reading, and fetches remote ones ahead."""

    def __init__(self, program: SourceProgram) -> None:
        self._store = RangeStore(program.storage)
        self._program = program

    def prefetch(self, slices: Sequence[Slice]) -> None:
        """The slices' files are about to be read, in this order: starts the requests that can be known already."""
        nbytes = 0
        for part in slices:
            if not is_remote(part.path):
                return
            begin, end = _first_range(part, self._program)
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
        begin, end = _first_range(part, self._program)
        if begin == 0:
            return OpenFile(pa.BufferReader(self._store.read(part, begin, end)))
        from headrace.httpfile import RangedFile

        remote = RemoteFile(part, self._store, wanted=[(begin, end)])
        return OpenFile(pa.PythonFile(RangedFile(part.size, remote.read), mode="r"), remote)

    def raw(self, part: Slice) -> Any:
        """The bytes of the slice's file as a binary stream.

        Raises:
            OSError: a local file can't be opened.
        """
        return open(part.path, "rb", buffering=0) if (remote := self._remote(part)) is None else remote

    def text(self, part: Slice) -> Any:
        """As `raw`, decompressed where the file's name says that it is compressed."""
        return open_text(part.path, self._remote(part))

    def arrow(self, part: Slice, *, is_sparse: bool = False) -> Any:
        """As `raw`, a pyarrow file; `is_sparse` if little of it is read, here and there."""
        remote = self._remote(part, is_sparse=is_sparse)
        return pa.OSFile(part.path, "rb") if remote is None else pa.PythonFile(remote, mode="r")

    def _remote(self, part: Slice, *, is_sparse: bool = False) -> Any:
        if not is_remote(part.path):
            return None
        from headrace.httpfile import RangedFile

        if is_sparse:
            return RangedFile(part.size, partial(_read_sparse, self._store, part))
        return RangedFile(part.size, _Chunks(part, self._store, is_text=self._program.is_text).read)

    def close(self) -> None:
        """Ends the fetching threads."""
        self._store.close()


def _first_range(part: Slice, program: SourceProgram) -> Range:
    """What is certainly read of a file, by one request."""
    if part.size <= WHOLE_BYTES:
        return 0, part.size
    if program.format == "parquet":
        return part.size - TAIL_BYTES, part.size
    chunk = max(part.begin - 1, 0) // CHUNK_BYTES if program.is_text else 0
    return chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, part.size)


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
