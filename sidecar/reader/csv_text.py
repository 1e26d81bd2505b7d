"""CSV: pyarrow parses pieces of whole records; records that it can't make a row of become bad rows with their byte.

Every file's own header says where its columns are, so files may differ in order. A record is bad when it has another
number of fields than the header, a field that doesn't fit the type that the job gives its column, or bytes that aren't
UTF-8. A field that doesn't fit a type that planning inferred is no fault of the record: the inference was wrong.
"""

import csv
import io
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from headrace.dataset import Slice
from headrace.errors import CorruptInput, InferredWrong
from headrace.program import CsvOptions
from headrace.records import BOM, PIECE_BYTES, Readable, codec_of, first_record, line_ends, record_ends
from headrace.rejects import BAD_RECORD
from headrace.uris import is_remote
from sidecar.reader.piece import Piece, Types, Window
from sidecar.reader.remote import InputFiles
from sidecar.reader.text import (
    Records,
    Unfit,
    bad_rows,
    line_records,
    misfit,
    parse_apart,
    parse_together,
    shortened,
    stream_records,
    to_batch,
    without_bom,
)

HEADERS_KEPT = 64
"""Header records: leases of one file follow each other, and a remote one's first bytes cost a request."""

_IN_COLUMN = re.compile(r"In CSV column #(\d+): (?:Row #\d+: )?(.*)", re.DOTALL)
"""How pyarrow tells what doesn't fit; the row is one of the text that it was given, and so nobody's."""
_INVALID = re.compile(r"CSV conversion error to (.+?): invalid value '(.*)'", re.DOTALL)


class CsvFormat:
    """Reads CSV files."""

    def __init__(
        self,
        types: Types,
        options: CsvOptions,
        columns: Sequence[str],
        inferred: Types,
        files: InputFiles,
        piece_bytes: int,
    ) -> None:
        """`columns` are all of the file's where it has no header; `inferred` are those of `types` that are guesses."""
        self._types = types
        self._options = options
        self._columns = tuple(columns)
        self._inferred = inferred
        self._files = files
        self._piece_bytes = piece_bytes
        self._headers: OrderedDict[tuple[str, str], tuple[bytes, int]] = OrderedDict()

    def pieces(self, window: Window) -> Iterator[Piece]:
        """Pieces of about `piece_bytes` of text.

        Raises:
            InferredWrong: after the rows before that value.
        """
        path = window.part.path
        options = self._options
        names = self._columns
        body = 0
        if options.header:
            header, body = self._header(window.part)
            names = header_names(header, options.delimiter)
        missing = [name for name in self._types if name not in names]
        if missing and window.part.size:
            raise CorruptInput(f"{path}: there is no column {missing[0]!r}, its header is {', '.join(names)}")
        parser = _Parser(names, self._types, options, self._inferred)
        if options.line_breaks_in_fields or codec_of(path):
            quoted = options.line_breaks_in_fields
            source = stream_records(
                self._files, window, options.delimiter, quoted=quoted, piece_bytes=self._piece_bytes
            )
        else:
            source = line_records(self._files, window, body, self._piece_bytes)
        for found in source:
            records = _from(without_bom(found), body)
            try:
                piece = self._piece(records, parser, path)
            except Unfit as unfit:
                # The rows before it may be all that a limit takes.
                yield self._piece(_before(records, unfit.start), parser, path)
                text = self._files.text(window.part)
                raise _inferred_wrong(path, text, records.offset + unfit.start, unfit) from unfit
            yield piece

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
        names = self._columns if header is None else header_names(header, self._options.delimiter)
        if any(name not in names for name in self._types):
            return None
        try:
            parser = _Parser(names, self._types, self._options, self._inferred)
            return parse_together(whole, _filled, parser, BAD_RECORD)
        except Unfit:
            return None  # read alone, the file that it is in says where

    def _header(self, part: Slice) -> tuple[bytes, int]:
        """The header record and where the first row begins."""
        key = (part.path, part.version)
        found = self._headers.get(key)
        if found is None:
            options = self._options
            raw = self._files.raw(part) if is_remote(part.path) else None
            header, _, body = first_record(part.path, options.delimiter, quoted=options.line_breaks_in_fields, raw=raw)
            found = self._headers[key] = header, body
            if len(self._headers) > HEADERS_KEPT:
                self._headers.popitem(last=False)
        return found

    def _piece(self, records: Records, parser: "_Parser", path: str) -> Piece:
        starts, ends = _filled(records)
        tables, is_row, bad = parse_apart(records.text, starts, ends, parser)
        rows = to_batch(tables)
        return Piece(
            rows=rows,
            address=starts[is_row] + records.offset,
            end=records.end,
            bad=bad_rows(bad, lambda record: int(starts[record]) + records.offset, BAD_RECORD, path),
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


def _before(records: Records, start: int) -> Records:
    """The records that begin before offset `start` of the text."""
    return Records(records.offset, records.text[:start], records.ends[records.ends <= start], records.end)


def _inferred_wrong(path: str, text: Readable, at: int, unfit: Unfit) -> InferredWrong:
    """What to tell of a value in the record at byte `at` of a file; reads its text before that once more."""
    line, left = 1, at
    while left and (piece := text.read(min(left, PIECE_BYTES))):
        line += piece.count(b"\n")
        left -= len(piece)
    column, kind, value = unfit.column, unfit.kind, unfit.value
    wider = "double" if pa.types.is_integer(kind) and _is_number(value) else "string"
    shown = repr(shortened(value))
    return InferredWrong(
        f"{path}, line {line} (byte {at}): column {column!r} was inferred to be {kind} from the first rows, and here "
        f"it is {shown}; say its type in spec.source.csv.types: {{{column}: {wider}}} takes this value, "
        f"{{{column}: {kind}}} rejects such rows"
    )


def _is_number(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowException:
        return False
    return True


class _Parser:
    """`text.Parser` for CSV."""

    def __init__(self, names: Sequence[str], types: Types, options: CsvOptions, inferred: Types) -> None:
        self._delimiter = options.delimiter
        self._by_line = not options.line_breaks_in_fields
        self._names = list(names)
        self._given = {name: kind for name, kind in types.items() if name not in inferred}
        self._inferred = inferred
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

        try:
            table = self._read(text, self._convert, on_invalid)
        except pa.ArrowException as error:
            if count == 1:
                self._check_inferred(text)
                raise ValueError(self._why(str(error))) from error
            raise
        if table.num_rows + len(invalid) != count:
            raise ValueError(f"{count} record(s) give {table.num_rows + len(invalid)} rows")
        return table, invalid

    def _read(
        self, text: bytes, convert: pa.csv.ConvertOptions, on_invalid: Callable[[pa.csv.InvalidRow], str] | None = None
    ) -> pa.Table:
        return pa.csv.read_csv(
            pa.BufferReader(text),
            read_options=pa.csv.ReadOptions(use_threads=False, column_names=self._names, block_size=len(text) + 1),
            parse_options=pa.csv.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=on_invalid
            ),
            convert_options=convert,
        )

    def _why(self, told: str) -> str:
        """What pyarrow told of one record, with its column by name."""
        found = _IN_COLUMN.match(told)
        if not found:
            return told
        column, rest = self._names[int(found[1])], found[2]
        invalid = _INVALID.match(rest)
        return misfit(column, repr(invalid[2]), invalid[1]) if invalid else f"column {column!r}: {rest}"

    def _fits(self, record: bytes, types: Types) -> bool:
        try:
            self._read(record, pa.csv.ConvertOptions(column_types=dict(types), include_columns=list(types)))
        except pa.ArrowException:
            return False
        return True

    def _check_inferred(self, record: bytes) -> None:
        """Raises Unfit for one record that is good but for a column whose type was inferred."""
        if not self._inferred:
            return
        as_bytes = dict.fromkeys(self._inferred, pa.binary())
        if not self._fits(record, {**as_bytes, **self._given}):
            return
        for name, kind in self._inferred.items():
            # Text that isn't UTF-8 fits no type but binary: the record is bad, whatever was inferred.
            if not self._fits(record, {name: kind}) and self._fits(record, {name: pa.string()}):
                table = self._read(record, pa.csv.ConvertOptions(column_types={name: pa.string()}))
                raise Unfit(name, kind, table.column(name)[0].as_py())

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
