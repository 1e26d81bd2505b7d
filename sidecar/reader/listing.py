"""File listings: one row per file (`path`, `bytes`, `size`, `modified`); bytes are read only where wanted."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from headrace.dataset import Slice
from headrace.errors import CorruptInput, InputChanged
from headrace.filter_rows import filter_mask
from headrace.filters import Expression, columns_used
from headrace.hive import hive_keys
from sidecar.reader.block import BLOCK_BYTES, SMALL_ROWS, BadRow, Block, CorruptRange
from sidecar.reader.cursor import Cursor
from sidecar.reader.piece import read_error_text

BYTES_MAX = (1 << 31) - 2
"""Bytes of one file: an Arrow binary column counts with 32 bits, and a longer file is a bad row."""


@dataclass(frozen=True, slots=True)
class FileListing:
    """Reads slices of a listing; `schema` is that of the block's rows."""

    schema: pa.Schema
    expression: Expression | None
    reject_corrupt: bool

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
        contents, bad, corrupt = self._contents(kept) if "bytes" in self.schema.names else ({}, [], [])
        left_out = {row.path for row in bad} | {damaged.path for damaged in corrupt}
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
            rows_read=len(files) - len(corrupt),
            rows_filtered=filtered,
            bad=tuple(bad),
            corrupt=tuple(corrupt),
            runs=tuple((i, part.path) for i, part in enumerate(kept)) if len(kept) > 1 else (),
        )

    def _contents(self, files: Sequence[Slice]) -> tuple[dict[str, bytes], list[BadRow], list[CorruptRange]]:
        contents: dict[str, bytes] = {}
        bad: list[BadRow] = []
        corrupt: list[CorruptRange] = []
        for part in files:
            if part.size > BYTES_MAX:
                bad.append(BadRow(0, "TooLarge", f"{part.size} bytes; {BYTES_MAX} at most", part.path))
                continue
            try:
                contents[part.path] = _read_whole(part)
            except FileNotFoundError as error:
                raise InputChanged(f"{part.path}: is gone since it was planned") from error
            except OSError as error:
                text = f"{part.path}: can't be read: {read_error_text(error)}"
                if not self.reject_corrupt:
                    raise CorruptInput(text) from error
                corrupt.append(CorruptRange(part.path, 0, 1, text))
        return contents, bad, corrupt

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
                    column = pa.array([int(part.version) // 1000 for part in files], pa.int64()).cast(field.type)
                case "bytes":
                    column = pa.array([contents[part.path] for part in files], field.type)
                case name:
                    texts = pa.array([hive_keys(part.path).get(name) for part in files], pa.string())
                    column = texts.cast(field.type)
            columns.append(column)
        if not columns:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(files), pa.struct([])))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _read_whole(part: Slice) -> bytes:
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
