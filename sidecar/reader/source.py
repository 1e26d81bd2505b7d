"""The Source: turns a lease's slices into blocks, whatever the format.

```
format adapter ──Piece──▶ Hive keys, planned types, filter ──Block──▶ small ones joined ──▶ the driver
```

A file is compared with its plan (size, modification time) before it is read and again after its last row.
"""

import base64
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
import pyarrow as pa

from headrace.arrow_types import type_from_text
from headrace.dataset import Slice
from headrace.errors import CorruptInput, InputChanged
from headrace.filter_rows import filter_mask
from headrace.filters import Expression, columns_used, filter_from_json
from headrace.hive import hive_keys
from headrace.program import SourceProgram
from headrace.records import PIECE_BYTES, codec_of, open_text
from headrace.uris import is_remote
from sidecar.reader.block import BadRow, Block, CorruptRange, merge_small, without_columns
from sidecar.reader.cursor import Cursor
from sidecar.reader.listing import FileListing
from sidecar.reader.piece import NO_ADDRESS, READ_ERRORS, Format, Piece, SmallFiles, Types, Window, read_error_text
from sidecar.reader.remote import InputFiles

FILES_AHEAD = 16
"""Files looked at ahead of the reader; how much of them is fetched `remote` decides."""

SMALL_FILES, SMALL_FILE_BYTES, SMALL_BYTES = 256, 64 << 10, 1 << 20
"""Text files parsed at once, the largest of them, and all their bytes."""


class Source:
    """A job's input as a worker reads it. Made by `open_source`; may be read by several threads at once."""

    def __init__(self, program: SourceProgram, piece_bytes: int) -> None:
        self._program = program
        self.schema: pa.Schema = source_schema(program)
        self._expression: Expression | None = filter_from_json(program.filter) if program.filter else None
        used = set(columns_used(self._expression)) if self._expression else set()
        assert used <= set(self.schema.names), f"the filter uses {used - set(self.schema.names)}"
        types = {field.name: field.type for field in self.schema if field.name not in program.partitions}
        self._files = InputFiles()
        self._listing: FileListing | None = None
        self._format: Format | None = None
        self._together: SmallFiles | None = None
        if program.format == "files":
            self._listing = FileListing(self.schema, self._expression, program.on_corrupt == "reject")
        else:
            self._format = _format(program, types, self._expression, self._files, piece_bytes)
            if program.format in ("csv", "jsonl"):
                assert isinstance(self._format, SmallFiles)
                self._together = self._format

    def read(self, slices: Sequence[Slice], cursor: Cursor) -> Iterator[Block]:
        """Reads the slices of one lease; the blocks tile ``[cursor.begin, cursor.end)``, as it is at the end.

        Closing the iterator stops the reading.

        Raises:
            InputChanged: a file is no longer the one that was planned.
            CorruptInput: a file or a part of it can't be read, unless the job says to list it (`Block.corrupt`).
        """
        if self._listing is not None:
            return merge_small(self._listing.blocks(slices, cursor), cursor)
        return merge_small(self._blocks(slices, cursor), cursor)

    def close(self) -> None:
        """Ends what fetches remote files ahead; reads under way fail."""
        self._files.close()

    def _blocks(self, slices: Sequence[Slice], cursor: Cursor) -> Iterator[Block]:
        assert self._format is not None
        i = tried = 0
        while i < len(slices) and slices[i].origin + slices[i].begin < cursor.end:
            if i >= tried:
                small, tried = self._small(slices, i, cursor)
                for part, piece in small:
                    yield from self._file(part, [piece])
                i += len(small)
                if small:
                    continue
            part = slices[i]
            self._files.prefetch(slices[i : i + FILES_AHEAD])
            yield from self._file(part, self._pieces(part, Window(part, cursor), self._format))
            i += 1

    def _small(self, slices: Sequence[Slice], first: int, cursor: Cursor) -> tuple[list[tuple[Slice, Piece]], int]:
        """The pieces of the small text files from slice `first` on, read at once, and where to try that next.

        No pieces if there are fewer than two such files, or they can't be parsed together.
        """
        if self._together is None:
            return [], len(slices)
        stop, nbytes = first, 0
        while stop < min(len(slices), first + SMALL_FILES) and _is_small(slices[stop], self._program):
            nbytes += slices[stop].size
            if nbytes > SMALL_BYTES:
                break
            stop += 1
        if stop - first < 2:
            return [], first + 1
        end = cursor.claim(slices[stop - 1].origin + slices[stop - 1].end)
        files = []
        for part in slices[first:stop]:
            if part.origin + part.end > end:
                break
            check_unchanged(part)
            try:
                with open(part.path, "rb", buffering=0) as file:
                    files.append((part, file.read(part.size)))
            except OSError:  # the slow way says what is wrong, or lists it
                break
        pieces = self._together.together(files) if files else None
        if not pieces:
            return [], stop
        return list(zip((part for part, _ in files), pieces, strict=True)), first + len(files)

    def _file(self, part: Slice, pieces: Iterable[Piece]) -> Iterator[Block]:
        partitions = self._partition_values(part.path)
        done = part.begin
        for piece in pieces:
            corrupt: tuple[CorruptRange, ...] = ()
            if piece.damage:
                check_unchanged(part)
                if self._program.on_corrupt == "fail":
                    raise CorruptInput(f"{part.path}: {piece.damage}")
                corrupt = (CorruptRange(part.path, done, piece.end, piece.damage),)
            rows, address, filtered = self._finish(piece, part.path, partitions)
            yield Block(
                rows=rows,
                path=part.path,
                address=address,
                begin=part.origin + done,
                end=part.origin + piece.end,
                rows_read=rows.num_rows + filtered + len(piece.bad),
                rows_filtered=filtered,
                bad=piece.bad,
                corrupt=corrupt,
            )
            done = piece.end
        check_unchanged(part)

    def _pieces(self, part: Slice, window: Window, adapter: Format) -> Iterator[Piece]:
        """The adapter's pieces; what it can't read at all becomes a piece too."""
        done = part.begin
        try:
            check_unchanged(part)
            if (
                codec_of(part.path)
                and self._program.on_corrupt == "reject"
                and self._program.format in ("csv", "jsonl")
            ):
                _read_through(part.path)
            for piece in _up_to(adapter.pieces(window), self._program, part):
                done = piece.end
                yield piece
        except FileNotFoundError as error:
            raise InputChanged(f"{part.path}: is gone since it was planned") from error
        except (*READ_ERRORS, CorruptInput) as error:
            text = read_error_text(error).removeprefix(f"{part.path}: ")
            yield Piece(None, NO_ADDRESS, window.claim(part.end), damage=f"can't be read from unit {done} on: {text}")

    def _partition_values(self, path: str) -> dict[str, pa.Scalar]:
        keys = hive_keys(path) if self._program.partitions else {}
        return {
            name: pa.scalar(keys.get(name), pa.string()).cast(self.schema.field(name).type)
            for name in self._program.partitions
        }

    def _finish(
        self, piece: Piece, path: str, partitions: dict[str, pa.Scalar]
    ) -> tuple[pa.RecordBatch, np.ndarray, int]:
        """Rows as the program wants them, their addresses, and how many the filter dropped."""
        if piece.rows is None:
            return _empty(self.schema), NO_ADDRESS, piece.skipped
        rows = self._conformed(piece.rows, path, partitions)
        if self._expression is None:
            return rows, piece.address, 0
        mask = filter_mask(self._expression, rows)
        if mask.true_count == rows.num_rows:
            return rows, piece.address, 0
        kept = rows.filter(mask)
        return kept, piece.address[mask.to_numpy(zero_copy_only=False)], rows.num_rows - kept.num_rows

    def _conformed(self, found: pa.RecordBatch, path: str, partitions: dict[str, pa.Scalar]) -> pa.RecordBatch:
        if not len(self.schema):
            return without_columns(found.num_rows)
        columns = []
        for field in self.schema:
            if field.name in partitions:
                columns.append(pa.repeat(partitions[field.name], found.num_rows))
                continue
            at = found.schema.get_field_index(field.name)
            if at < 0:
                columns.append(pa.nulls(found.num_rows, field.type))
                continue
            column = found.column(at)
            if column.type != field.type:
                try:
                    column = column.cast(field.type)
                except READ_ERRORS as error:
                    text = f"column {field.name!r} is {column.type}, not {field.type}: {read_error_text(error)}"
                    raise CorruptInput(f"{path}: {text}") from error
            columns.append(column)
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def open_source(program: SourceProgram, piece_bytes: int = PIECE_BYTES) -> Source:
    """Opens a job's input. No file is touched before `Source.read`. Text is parsed `piece_bytes` at a time."""
    return Source(program, piece_bytes)


def source_schema(program: SourceProgram) -> pa.Schema:
    """The schema of every block's rows."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(program.schema)))


def check_unchanged(part: Slice) -> None:
    """Raises InputChanged if a local file isn't the one that was planned."""
    if is_remote(part.path):  # the store compares versions with every request
        return
    try:
        found = os.stat(part.path)
    except FileNotFoundError as error:
        raise InputChanged(f"{part.path}: is gone since it was planned") from error
    if found.st_size != part.size:
        raise InputChanged(f"{part.path}: has {found.st_size} bytes, {part.size} when it was planned")
    if str(found.st_mtime_ns) != part.version:
        raise InputChanged(f"{part.path}: was written to since it was planned")


def _format(
    program: SourceProgram, types: Types, expression: Expression | None, files: InputFiles, piece_bytes: int
) -> Format:
    """The adapter for the program's format; each is imported only where it is used."""
    match program.format:
        case "parquet":
            from sidecar.reader.parquet import ParquetFormat

            return ParquetFormat(types, expression, files.open)
        case "arrow":
            from sidecar.reader.ipc import IpcFormat

            return IpcFormat(types)
        case "csv":
            from sidecar.reader.csv_text import CsvFormat

            file_types = map(type_from_text, program.file_types)
            return CsvFormat(types, program.csv, dict(zip(program.file_columns, file_types, strict=True)), piece_bytes)
        case "jsonl":
            from sidecar.reader.json_lines import JsonLinesFormat

            return JsonLinesFormat(types, piece_bytes)
        case "files":
            raise AssertionError("listings have no format")


def _is_small(part: Slice, program: SourceProgram) -> bool:
    is_whole = part.begin == 0 and part.end == part.size and part.path != program.limit_path
    return is_whole and part.size <= SMALL_FILE_BYTES and codec_of(part.path) is None


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    if not len(schema):
        return without_columns(0)
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def _read_through(path: str) -> None:
    """Decompresses a file once, so that one that is damaged at its end gives no rows rather than some."""
    with closing(open_text(path)) as stream:
        while stream.read(PIECE_BYTES):
            pass


def _up_to(pieces: Iterator[Piece], program: SourceProgram, part: Slice) -> Iterator[Piece]:
    """The pieces, or of the program's `limit_path` their first `limit_rows` rows, good and bad."""
    if program.limit_rows is None or part.path != program.limit_path:
        yield from pieces
        return
    left = program.limit_rows
    for piece in pieces:
        bad_at = [bad.address for bad in piece.bad]
        addresses = np.sort(np.concatenate([piece.address, np.array(bad_at, np.int64)]))
        if len(addresses) < left:
            left -= len(addresses)
            yield piece
            continue
        past = int(addresses[left]) if left < len(addresses) else int(addresses[-1]) + 1
        count = int(np.searchsorted(piece.address, past))
        bad: tuple[BadRow, ...] = tuple(row for row in piece.bad if row.address < past)
        rows = piece.rows.slice(0, count) if piece.rows is not None else None
        yield Piece(rows, piece.address[:count], part.end, bad)
        return
