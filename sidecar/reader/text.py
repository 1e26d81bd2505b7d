"""Text files as pieces of whole records that begin in the lease; what CSV and JSONL have in common.

A plain file whose records are lines is read at any byte: a record belongs to the range that its first byte lies in. Any
other (compressed, or with line breaks in fields) is one range, claimed as a whole and read from its start.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.dataset import Slice
from headrace.records import BOM, PIECE_BYTES, Offsets, codec_of, line_ends, line_start, whole_records
from sidecar.reader.block import BadRow
from sidecar.reader.piece import Piece, Window
from sidecar.reader.remote import InputFiles

TAIL_BYTES = 64 << 10
"""First look past a range's end for the rest of its last record; doubled while that is longer."""
VALUE_MAX = 80
"""Characters of a wrong value that are told."""


@dataclass(frozen=True, slots=True)
class Records:
    """Whole records: `text` begins `offset` bytes into the (decompressed) file; `ends` lie just past each record."""

    offset: int
    text: bytes
    ends: Offsets
    end: int  # file units covered: of the file as it lies on disk


def line_records(files: InputFiles, window: Window, start: int, piece_bytes: int = PIECE_BYTES) -> Iterator[Records]:
    """Lines of a plain file whose first byte is in the window and at or past `start`.

    A line that reaches past the window is read to its end.
    """
    with files.raw(window.part) as file:
        at = max(line_start(file, window.begin), start)
        done = window.begin
        while done < window.end:
            stop = window.claim(min(done + piece_bytes, window.end))
            if stop <= done:
                return
            text = b""
            if at < stop:
                file.seek(at)
                text = _to_line_end(file, stop - at)
            ends = line_ends(text)
            if text and (not len(ends) or ends[-1] < len(text)):
                ends = np.append(ends, len(text))
            yield Records(at, text, ends, stop)
            at += len(text)
            done = stop


def _to_line_end(file: IO[bytes], nbytes: int) -> bytes:
    parts = []
    while nbytes and (part := file.read(nbytes)):
        parts.append(part)
        nbytes -= len(part)
    if parts and parts[-1].endswith(b"\n"):
        return b"".join(parts)
    look = TAIL_BYTES
    while part := file.read(look):
        found = part.find(b"\n")
        if found >= 0:
            parts.append(part[: found + 1])
            break
        parts.append(part)
        look = min(2 * look, PIECE_BYTES)
    return b"".join(parts)


def stream_records(
    files: InputFiles, window: Window, delimiter: str, *, quoted: bool, piece_bytes: int = PIECE_BYTES
) -> Iterator[Records]:
    """All records of a file that is one range, up to its slice's end (a plain file may have been planned in part).

    None if a split came before the file was begun.
    """
    part = window.part
    end = part.end
    if not window.claim_whole():
        return
    compressed = codec_of(part.path) is not None
    with closing(files.text(part)) as stream:
        source = stream if compressed else _Front(stream, end)
        last: Records | None = None
        for offset, text, ends in whole_records(source, delimiter, quoted=quoted, piece_bytes=piece_bytes):
            if last is not None:
                yield last
            # Only the last piece may reach the end: whoever sees a unit handed out takes its rows for read. How far
            # a decompressor has come in its file can't be asked, so a compressed file's units wait for its last piece.
            last = Records(offset, text, ends, window.begin if compressed else min(offset + len(text), end))
        if last is None:
            last = Records(0, b"", np.empty(0, np.int64), end)
        yield Records(last.offset, last.text, last.ends, end)


class _Front:
    """The first `nbytes` bytes of a stream."""

    def __init__(self, stream: IO[bytes], nbytes: int) -> None:
        self._stream = stream
        self._left = nbytes

    def read(self, nbytes: int, /) -> bytes:
        """Up to `nbytes` bytes, none at the end of the front."""
        data = self._stream.read(min(nbytes, self._left))
        self._left -= len(data)
        return data


class Unfit(Exception):
    """A record that is good but for a column's type, which was a guess: reading can't go on."""

    def __init__(self, column: str, kind: pa.DataType, value: str) -> None:
        self.column = column
        self.kind = kind
        self.value = value
        self.start = 0  # where the record begins in the text given to `parse_apart`
        super().__init__(f"column {column!r} is {value!r}, not {kind}")


class Parser(Protocol):
    """Parses consecutive records at once, all or nothing."""

    def __call__(self, text: bytes, count: int, /) -> tuple[pa.Table, Sequence[tuple[int, str]]]:
        """Rows of `count` records, and (record, message) of those that aren't rows, by rising number.

        Raises:
            pa.ArrowException, ValueError: some record can't be parsed; it is not known which.
            Unfit: the one record doesn't fit a guess.
        """


def misfit(column: str, shown: str, kind: str) -> str:
    """What to tell of a record whose value, in the format's own words `shown`, is none of its column's type."""
    return f"column {column!r}: {shortened(shown)} is no {kind}"


def shortened(shown: str) -> str:
    """Not more than VALUE_MAX characters."""
    return shown if len(shown) <= VALUE_MAX else shown[: VALUE_MAX - 1] + "…"


def parse_apart(
    text: bytes, starts: Offsets, ends: Offsets, parse: Parser
) -> tuple[list[pa.Table], npt.NDArray[np.bool_], list[tuple[int, str]]]:
    """Parses records, halving what fails until the bad ones stand alone.

    Returns the tables in order, which records became rows, and (record, message) of the others, by rising number.

    Raises:
        Unfit: of the first record for which `parse` raises it.
    """
    is_row = np.zeros(len(starts), np.bool_)
    tables: list[pa.Table] = []
    bad: list[tuple[int, str]] = []
    todo = [(0, len(starts))] if len(starts) else []
    while todo:
        low, high = todo.pop()
        try:
            table, invalid = parse(text[int(starts[low]) : int(ends[high - 1])], high - low)
        except Unfit as unfit:
            unfit.start = int(starts[low])
            raise
        except (pa.ArrowException, ValueError) as error:
            if high - low == 1:
                bad.append((low, str(error).splitlines()[0] if str(error) else type(error).__name__))
            else:
                middle = (low + high) // 2
                todo += [(middle, high), (low, middle)]
            continue
        is_row[low:high] = True
        for record, message in invalid:
            is_row[low + record] = False
            bad.append((low + record, message))
        if table.num_rows:
            tables.append(table)
    return tables, is_row, bad


def parse_together(
    files: Sequence[tuple[Slice, Records]],
    filled: Callable[[Records], tuple[Offsets, Offsets]],
    parse: Parser,
    kind: str,
) -> list[Piece]:
    """One piece per small file whose records are lines, from one parse of all.

    A call of pyarrow's readers costs 0.3 ms, whatever the size. `filled` gives the begins and ends of the records that
    aren't blank.
    """
    texts = [records.text + b"\n" * (not records.text.endswith(b"\n")) for _, records in files]
    begins = np.cumsum([0, *map(len, texts)])
    text = b"".join(texts)
    starts, ends = filled(Records(0, text, line_ends(text), 0))
    tables, is_row, bad = parse_apart(text, starts, ends, parse)
    rows = to_batch(tables)
    row_at = np.concatenate([[0], np.cumsum(is_row)])
    bad_at = [record for record, _ in bad]
    limits = np.searchsorted(starts, begins).tolist()
    pieces = []
    for (part, records), begin, first, last in zip(files, begins.tolist(), limits, limits[1:], strict=False):
        offset = records.offset - begin
        low, high = int(row_at[first]), int(row_at[last])
        own = bad[bisect_left(bad_at, first) : bisect_left(bad_at, last)]
        pieces.append(
            Piece(
                rows=rows.slice(low, high - low) if rows is not None and high > low else None,
                address=starts[first:last][is_row[first:last]] + offset,
                end=part.end,
                bad=tuple(BadRow(int(starts[record]) + offset, kind, text, part.path) for record, text in own),
            )
        )
    return pieces


def to_batch(tables: Sequence[pa.Table]) -> pa.RecordBatch | None:
    """The rows of all `tables` as one record batch; None if there are none."""
    if not tables:
        return None
    table = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
    return table.combine_chunks().to_batches()[0]


def bad_rows(
    found: Sequence[tuple[int, str]], address: Callable[[int], int], kind: str, path: str
) -> tuple[BadRow, ...]:
    """Bad records as values that go into a block."""
    return tuple(BadRow(address(record), kind, message, path) for record, message in found)


def without_bom(records: Records) -> Records:
    """The records without a byte order mark at the start of the file."""
    if records.offset == 0 and records.text.startswith(BOM):
        text = records.text[len(BOM) :]
        ends = records.ends - len(BOM)
        return Records(len(BOM), text, ends[ends > 0], records.end)
    return records
