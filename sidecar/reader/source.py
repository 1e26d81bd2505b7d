"""The Source: turns a lease's slices into blocks, whatever the format.

```
format adapter ──Piece──▶ Hive keys, planned types, filter ──Block──▶ small ones joined ──▶ the driver
```

A file is compared with its plan (size, modification time) before it is read and again after its last row.
"""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.arrow_types import schema_from_text
from headrace.damage import is_damage
from headrace.dataset import Slice
from headrace.errors import CorruptInput, InferredWrong, InputChanged
from headrace.filter_rows import filter_mask
from headrace.filters import Expression, columns_used, filter_from_json
from headrace.hive import hive_keys
from headrace.program import SourceProgram
from headrace.records import PIECE_BYTES, codec_of
from headrace.uris import is_remote
from sidecar.picking import rows_where
from sidecar.reader.block import BadRow, Block, CorruptRange, merge_small, without_columns
from sidecar.reader.cursor import Cursor
from sidecar.reader.listing import FileListing
from sidecar.reader.piece import (
    NO_ADDRESS,
    READ_ERRORS,
    Format,
    Piece,
    SmallFiles,
    Types,
    Window,
    read_error_text,
    unreadable,
)
from sidecar.reader.remote import FILES_AHEAD, InputFiles

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
        self._files = InputFiles(program)
        self._listing: FileListing | None = None
        self._format: Format | None = None
        self._together: SmallFiles | None = None
        if program.format == "files":
            self._listing = FileListing(self.schema, self._expression, self._files)
        else:
            self._format = _format(program, types, self._expression, self._files, piece_bytes)
            if program.is_text:
                assert isinstance(self._format, SmallFiles)
                self._together = self._format

    def read(self, slices: Sequence[Slice], cursor: Cursor) -> Generator[Block, None, None]:
        """Reads the slices of one lease; the blocks tile ``[cursor.begin, cursor.end)``, as it is at the end.

        Closing the generator stops the reading.

        Raises:
            InputChanged: a file is no longer the one that was planned.
            CorruptInput: a file or a part of it can't be read, unless the job says to list it (`Block.corrupt`).
            InferredWrong: a value doesn't fit a type that was inferred.
            SourceRefused, SourceUnavailable: the bytes of a file can't be had, whatever the job says of corrupt ones.
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
        files: list[tuple[Slice, bytes]] = []
        for part in slices[first:stop]:
            if part.origin + part.end > end:
                break
            check_unchanged(part)
            try:
                self._files.prefetch(slices[first + len(files) : min(stop, first + len(files) + FILES_AHEAD)])
                with self._files.raw(part) as file:
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
                if done < piece.end:  # else a split left the damage to the next lease
                    corrupt = (CorruptRange(part.path, done, piece.end, piece.damage, part.origin),)
            rows, address, filtered, dropped = self._finish(piece, part.path, partitions)
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
                units=address + part.origin if self._program.divisible else None,
                bad_units=np.array([row.address + part.origin for row in piece.bad], np.int64),
                filtered_units=dropped + part.origin if self._program.is_text else None,
            )
            done = piece.end
        check_unchanged(part)

    def _pieces(self, part: Slice, window: Window, adapter: Format) -> Iterator[Piece]:
        """The adapter's pieces; what it can't read at all becomes a piece too."""
        done = part.begin
        try:
            check_unchanged(part)
            if self._program.is_text and self._program.on_corrupt == "reject" and codec_of(part.path):
                _read_through(self._files.text(part))
            for piece in _up_to(adapter.pieces(window), self._program, part):
                done = piece.end
                yield piece
        except FileNotFoundError as error:
            raise InputChanged(f"{part.path}: is gone since it was planned") from error
        except InferredWrong:
            check_unchanged(part)  # another file than the one that was inferred from is another mistake
            raise
        except (*READ_ERRORS, CorruptInput) as error:
            if isinstance(error, OSError) and not is_damage(error):
                raise unreadable(part.path, error) from error
            text = read_error_text(error).removeprefix(f"{part.path}: ")
            where = f" from unit {done} on" if done else ""
            yield Piece(None, NO_ADDRESS, window.claim(part.end), damage=f"can't be read{where}: {text}")

    def _partition_values(self, path: str) -> dict[str, pa.Scalar]:
        keys = hive_keys(path) if self._program.partitions else {}
        return {
            name: pa.scalar(keys.get(name), pa.string()).cast(self.schema.field(name).type)
            for name in self._program.partitions
        }

    def _finish(
        self, piece: Piece, path: str, partitions: dict[str, pa.Scalar]
    ) -> tuple[pa.RecordBatch, np.ndarray, int, np.ndarray]:
        """Rows as the program wants them, their addresses, how many the filter dropped, and the addresses of those.

        Rows that were dropped unread, by statistics, have none.
        """
        if piece.rows is None:
            return _empty(self.schema), NO_ADDRESS, piece.skipped, NO_ADDRESS
        rows = self._conformed(piece.rows, path, partitions)
        if self._expression is None:
            return rows, piece.address, 0, NO_ADDRESS
        mask = filter_mask(self._expression, rows)
        if mask.true_count == rows.num_rows:
            return rows, piece.address, 0, NO_ADDRESS
        kept = rows_where(rows, mask)
        is_kept = mask.to_numpy(zero_copy_only=False)
        return kept, piece.address[is_kept], rows.num_rows - kept.num_rows, piece.address[~is_kept]

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
    if program.rejected:
        from sidecar.reader.rejected import RejectedSource

        return RejectedSource(program, piece_bytes)
    return Source(program, piece_bytes)


def source_schema(program: SourceProgram) -> pa.Schema:
    """The schema of every block's rows."""
    return schema_from_text(program.schema)


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

            return ParquetFormat(types, expression, files.open, is_limited=program.is_limited)
        case "arrow":
            from sidecar.reader.ipc import IpcFormat

            return IpcFormat(types, files, is_limited=program.is_limited)
        case "csv":
            from sidecar.reader.csv_text import CsvFormat

            inferred = {name: kind for name, kind in types.items() if name in program.file_inferred}
            return CsvFormat(types, program.csv, program.file_columns, inferred, files, piece_bytes)
        case "jsonl":
            from sidecar.reader.json_lines import JsonLinesFormat

            return JsonLinesFormat(types, files, piece_bytes)
        case "files":
            raise AssertionError("listings have no format")


def _is_small(part: Slice, program: SourceProgram) -> bool:
    is_whole = part.begin == 0 and part.end == part.size and part.path != program.limit_path
    return is_whole and part.size <= SMALL_FILE_BYTES and codec_of(part.path) is None


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    if not len(schema):
        return without_columns(0)
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def _read_through(text: Any) -> None:
    """Decompresses a file once, so that one that is damaged at its end gives no rows rather than some."""
    with closing(text) as stream:
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
