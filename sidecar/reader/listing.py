"""File listings: one row per file (`path`, `bytes`, `size`, `modified`); bytes are read only where wanted."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from headrace.dataset import Slice
from headrace.errors import InputChanged
from headrace.filter_rows import filter_mask
from headrace.filters import Expression, columns_used
from headrace.hive import hive_keys
from headrace.rejects import FILE_TOO_LARGE
from headrace.uris import is_remote
from headrace.versions import modified_ns
from sidecar.reader.block import BLOCK_BYTES, SMALL_ROWS, BadRow, Block
from sidecar.reader.cursor import Cursor
from sidecar.reader.piece import unreadable
from sidecar.reader.remote import FILES_AHEAD, InputFiles

BYTES_MAX = (1 << 31) - 2
"""Bytes of one file: an Arrow binary column counts with 32 bits, and a longer file is a bad row."""


@dataclass(frozen=True, slots=True)
class FileListing:
    """Reads slices of a listing; `schema` is that of the block's rows."""

    schema: pa.Schema
    expression: Expression | None
    files: InputFiles

    def blocks(self, slices: Sequence[Slice], cursor: Cursor) -> Iterator[Block]:
        """Blocks of up to SMALL_ROWS files or about BLOCK_BYTES of them, tiling the slices."""
        reads_bytes = "bytes" in self.schema.names
        at = 0
        while at < len(slices):
            stop, nbytes = at, 0
            while stop < len(slices) and stop - at < SMALL_ROWS:
                nbytes += slices[stop].size if reads_bytes else 0
                if stop > at and nbytes > BLOCK_BYTES:
                    break
                stop += 1
            begin = slices[at].origin
            end = cursor.claim(slices[stop - 1].origin + 1)
            if end <= begin:
                return
            taken = [part for part in slices[at:stop] if part.origin < end]
            yield self._block(taken, begin, end)
            at += len(taken)

    def _block(self, files: list[Slice], begin: int, end: int) -> Block:
        kept = files
        early = self.expression is not None and "bytes" not in columns_used(self.expression)
        if early:
            kept = self._filtered(files, {})
        contents, bad = self._contents(kept) if "bytes" in self.schema.names else ({}, [])
        left_out = {row.path for row in bad}
        origins = {part.path: part.origin for part in kept if part.path in left_out}
        filtered = len(files) - len(kept)
        kept = [part for part in kept if part.path not in left_out]
        if self.expression is not None and not early:
            before = len(kept)
            kept = self._filtered(kept, contents)
            filtered += before - len(kept)
        return Block(
            rows=self._rows(kept, contents),
            path=kept[0].path if kept else files[0].path,
            address=np.zeros(len(kept), np.int64),
            begin=begin,
            end=end,
            rows_read=len(files),
            rows_filtered=filtered,
            bad=tuple(bad),
            units=np.array([part.origin for part in kept], np.int64),
            bad_units=np.array([origins[row.path] for row in bad], np.int64),
            runs=tuple((i, part.path) for i, part in enumerate(kept)) if len(kept) > 1 else (),
        )

    def _contents(self, files: Sequence[Slice]) -> tuple[dict[str, bytes], list[BadRow]]:
        contents: dict[str, bytes] = {}
        bad: list[BadRow] = []
        for i, part in enumerate(files):
            self.files.prefetch(files[i : i + FILES_AHEAD])
            if part.size > BYTES_MAX:
                bad.append(BadRow(0, FILE_TOO_LARGE, f"{part.size} bytes; {BYTES_MAX} at most", part.path))
                continue
            try:
                contents[part.path] = _read_whole(self.files, part)
            except FileNotFoundError as error:
                raise InputChanged(f"{part.path}: is gone since it was planned") from error
            except OSError as error:
                raise unreadable(part.path, error) from error
        return contents, bad

    def _filtered(self, files: list[Slice], contents: dict[str, bytes]) -> list[Slice]:
        assert self.expression is not None
        names = columns_used(self.expression)
        shown = replace(self, schema=pa.schema([self.schema.field(name) for name in names]))
        mask = filter_mask(self.expression, shown._rows(files, contents))
        return [part for part, is_kept in zip(files, mask.to_pylist(), strict=True) if is_kept]

    def _rows(self, files: Sequence[Slice], contents: dict[str, bytes]) -> pa.RecordBatch:
        columns = []
        for field in self.schema:
            match field.name:
                case "path":
                    column = pa.array([part.path for part in files], field.type)
                case "size":
                    column = pa.array([part.size for part in files], field.type)
                case "modified":
                    times = [modified_ns(part.version) for part in files]
                    micros = [None if time is None else time // 1000 for time in times]
                    column = pa.array(micros, pa.int64()).cast(field.type)
                case "bytes":
                    column = pa.array([contents[part.path] for part in files], field.type)
                case name:
                    texts = pa.array([hive_keys(part.path).get(name) for part in files], pa.string())
                    column = texts.cast(field.type)
            columns.append(column)
        if not columns:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(files), pa.struct([])))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _read_whole(files: InputFiles, part: Slice) -> bytes:
    if is_remote(part.path):
        with files.raw(part) as remote:
            whole: bytes = remote.read()
            return whole
    with open(part.path, "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if (found.st_size, str(found.st_mtime_ns)) != (part.size, part.version):
            raise InputChanged(f"{part.path}: has changed since it was planned")
        data = file.read(part.size + 1)
        while len(data) < part.size and (more := file.read(part.size - len(data))):
            data += more
    if len(data) != part.size:
        raise InputChanged(f"{part.path}: has changed since it was planned")
    return data
