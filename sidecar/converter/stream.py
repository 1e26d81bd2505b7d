"""Columns for a stage that takes Arrow: one IPC stream of one record batch, written straight into the arena."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from headrace.local.columns import IPC, Column
from sidecar.converter.flaws import BadValue
from sidecar.converter.region import Region

_NONE_BAD: Mapping[int, BadValue] = {}


@dataclass(frozen=True, slots=True)
class ReadStream:
    """The columns of a block that travel together; no value of theirs can be bad."""

    rows: pa.RecordBatch

    @property
    def bad(self) -> Mapping[int, BadValue]:
        """No rows."""
        return _NONE_BAD

    def measure(self, begin: int, end: int) -> int:
        """Bytes of the stream of rows ``[begin, end)``."""
        with pa.MockOutputStream() as sink:
            _write(self.rows.slice(begin, end - begin), sink)
            return int(sink.size())

    def write(self, begin: int, end: int, region: Region) -> Column:
        """Writes the stream of rows ``[begin, end)`` into the arena."""
        nbytes = self.measure(begin, end)
        offset = region.take(nbytes)
        with pa.FixedSizeBufferWriter(pa.py_buffer(region.view[offset : offset + nbytes])) as sink:
            _write(self.rows.slice(begin, end - begin), sink)
        return Column(kind=IPC, rows=end - begin, offset=offset, nbytes=nbytes)


@dataclass(frozen=True, slots=True)
class StreamRecipe:
    """Which columns travel together, under which names. Nulls and all types pass as they are."""

    indices: tuple[int, ...]
    names: tuple[str, ...]

    def read(self, rows: pa.RecordBatch) -> ReadStream:
        """Picks the columns."""
        return ReadStream(pa.RecordBatch.from_arrays([rows.column(index) for index in self.indices], list(self.names)))


def _write(rows: pa.RecordBatch, sink: pa.NativeFile) -> None:
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
