"""CSV: pyarrow parses pieces of whole records; records that it can't make a row of become bad rows with their byte.

Every file's own header says where its columns are, so files may differ in order. A record is bad when it has another
number of fields than the header, a field that doesn't fit the column's planned type, or bytes that aren't UTF-8.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from headrace.dataset import Slice
from headrace.errors import CorruptInput
from headrace.program import CsvOptions
from headrace.records import BOM, codec_of, first_record, line_ends, record_ends
from sidecar.reader.piece import Piece, Types, Window
from sidecar.reader.text import (
    Records,
    bad_rows,
    line_records,
    parse_apart,
    parse_together,
    stream_records,
    to_batch,
    without_bom,
)

KIND = "BadRecord"


class CsvFormat:
    """Reads CSV files."""

    def __init__(
        self, types: Types, options: CsvOptions, file_types: Mapping[str, pa.DataType], piece_bytes: int
    ) -> None:
        self._types = types
        self._options = options
        self._file_types = file_types
        self._piece_bytes = piece_bytes

    def pieces(self, window: Window) -> Iterator[Piece]:
        """Pieces of about `piece_bytes` of text."""
        path = window.part.path
        options = self._options
        names = tuple(self._file_types)
        body = 0
        if options.header:
            header, _, body = first_record(path, options.delimiter, quoted=options.line_breaks_in_fields)
            names = header_names(header, options.delimiter)
        missing = [name for name in self._types if name not in names]
        if missing and window.part.size:
            raise CorruptInput(f"{path}: there is no column {missing[0]!r}, its header is {', '.join(names)}")
        parser = _Parser(names, self._types, options)
        if options.line_breaks_in_fields or codec_of(path):
            quoted = options.line_breaks_in_fields
            source = stream_records(window, options.delimiter, quoted=quoted, piece_bytes=self._piece_bytes)
        else:
            source = line_records(window, body, self._piece_bytes)
        for records in source:
            yield self._piece(_from(without_bom(records), body), parser, path)

    def together(self, files: Sequence[tuple[Slice, bytes]]) -> list[Piece] | None:
        """As `piece.SmallFiles` says; not for files with quotes or lone carriage returns, nor of several headers."""
        whole = []
        header: bytes | None = None
        for part, data in files:
            body = data.removeprefix(BOM)
            if b'"' in body or body.count(b"\r") != body.count(b"\r\n"):
                return None
            if self._options.header and body:
                first, _, body = body.partition(b"\n")
                first = first.rstrip(b"\r")
                if not first or first != (header or first):
                    return None
                header = first
            whole.append((part, Records(len(data) - len(body), body, line_ends(body), part.end)))
        names = tuple(self._file_types) if header is None else header_names(header, self._options.delimiter)
        if any(name not in names for name in self._types):
            return None
        return parse_together(whole, _filled, _Parser(names, self._types, self._options), KIND)

    def _piece(self, records: Records, parser: "_Parser", path: str) -> Piece:
        starts, ends = _filled(records)
        tables, is_row, bad = parse_apart(records.text, starts, ends, parser)
        rows = to_batch(tables)
        return Piece(
            rows=rows,
            address=starts[is_row] + records.offset,
            end=records.end,
            bad=bad_rows(bad, lambda record: int(starts[record]) + records.offset, KIND, path),
        )


def header_names(record: bytes, delimiter: str) -> tuple[str, ...]:
    """The names in a header record.

    Raises:
        UnicodeDecodeError: it isn't UTF-8 (a ValueError).
    """
    rows = list(csv.reader(io.StringIO(record.decode(), newline=""), delimiter=delimiter))
    return tuple(rows[0]) if rows else ()


def _from(records: Records, body: int) -> Records:
    """The records that begin at or past byte `body`: without the header."""
    cut = body - records.offset
    if cut <= 0:
        return records
    cut = min(cut, len(records.text))
    ends = records.ends[records.ends > cut] - cut
    return Records(records.offset + cut, records.text[cut:], ends, records.end)


def _filled(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """Begins and ends of the records that aren't blank lines, which pyarrow passes over."""
    ends = records.ends
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else ends
    if not len(ends):
        return starts, ends
    data = np.frombuffer(records.text, np.uint8)
    lengths = ends - starts
    first, last = data[starts], data[ends - 1]
    is_blank = ((lengths == 1) & ((first == 10) | (first == 13))) | ((lengths == 2) & (first == 13) & (last == 10))
    return starts[~is_blank], ends[~is_blank]


class _Parser:
    """`text.Parser` for CSV."""

    def __init__(self, names: Sequence[str], types: Types, options: CsvOptions) -> None:
        self._delimiter = options.delimiter
        self._by_line = not options.line_breaks_in_fields
        self._names = list(names)
        # With no column wanted, one is still read as it is: rows are counted by it.
        wanted = dict(types) or {names[0]: pa.binary()} if names else {}
        self._convert = pa.csv.ConvertOptions(column_types=wanted, include_columns=list(wanted))

    def __call__(self, text: bytes, count: int) -> tuple[pa.Table, Sequence[tuple[int, str]]]:
        """As `text.Parser` says."""
        self._check_quotes(text, count)
        invalid: list[tuple[int, str]] = []

        def on_invalid(row: pa.csv.InvalidRow) -> str:
            found = f"{row.actual_columns} field{'s' * (row.actual_columns != 1)}"
            invalid.append((row.number - 1, f"expected {row.expected_columns} fields, found {found}: {row.text[:200]}"))
            return "skip"

        table = pa.csv.read_csv(
            pa.BufferReader(text),
            read_options=pa.csv.ReadOptions(use_threads=False, column_names=self._names, block_size=len(text) + 1),
            parse_options=pa.csv.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=on_invalid
            ),
            convert_options=self._convert,
        )
        if table.num_rows + len(invalid) != count:
            raise ValueError(f"{count} record(s) give {table.num_rows + len(invalid)} rows")
        return table, invalid

    def _check_quotes(self, text: bytes, count: int) -> None:
        """Refuses records that pyarrow would tell apart in another way than the plan, which cuts by lines, does."""
        if self._by_line and b"\r" in text and text.count(b"\r") != text.count(b"\r\n"):
            raise ValueError("a carriage return without a line feed in a record")
        if b'"' not in text:
            return
        closed = text if text.endswith((b"\n", b"\r")) else text + b"\n"
        ends = record_ends(closed, self._delimiter, quoted=True, final=False)
        if not len(ends) or ends[-1] != len(closed):
            raise ValueError("a quote is opened and not closed" + " in the same line" * self._by_line)
        if self._by_line and len(ends) != closed.count(b"\n"):
            raise ValueError("a line break in a field, though the job says lineBreaksInFields: false")
