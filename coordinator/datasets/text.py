"""CSV and JSONL: sizes from the listing, columns and their types from the head of the first files."""

import csv
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coordinator.datasets.given_types import given_types
from coordinator.datasets.listing import InputFile
from coordinator.datasets.measured import Measured, origins
from coordinator.datasets.remote import Remote
from coordinator.datasets.spec import CsvSpec
from headrace.damage import is_damage
from headrace.errors import BadJob, Fault, InputChanged, SourceRefused
from headrace.records import Offsets, Readable, codec_of, first_record, open_text, whole_records

HEAD_BYTES = 1 << 20
"""Text that types are inferred from, of each file looked at."""
HEAD_FILES = 3
"""Files looked at: one whose head is all integers says little about the next."""
CUT_BYTES = 4 << 20
"""Where some files may be cut and others not, the former are offered for cutting at multiples of this."""


_UNREADABLE = (pa.ArrowException, OSError, InputChanged, SourceRefused)
"""What makes a file one that can't be planned; a store that can't be reached is no fault of the job."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first records of a file, and what they tell about all of it."""

    file: InputFile
    text: bytes
    records: int
    is_whole: bool
    names: tuple[str, ...] = ()  # CSV: the file's columns


def measure_csv(
    files: Sequence[InputFile],
    remote: Remote,
    spec: CsvSpec,
    named: Collection[str],
    limit_rows: int | None,
    faults: list[Fault],
    *,
    lists_corrupt: bool,
) -> Measured:
    """Bytes and columns of CSV files; those that the job names where no file has as much as a header.

    Types that text can't be read as, or of columns that don't exist, are added to `faults`.

    Raises:
        BadJob: heads that can't be read or that name a column twice. With `lists_corrupt`, other files' heads stand in
            for damaged ones, as long as there is one.
    """
    text = _Text(remote, lists_corrupt, spec.delimiter, quoted=spec.line_breaks_in_fields, has_header=spec.header)

    def look(file: InputFile) -> Head:
        header, body = text.header(file)
        head = text.head(file, skip=body)
        return replace(head, names=_names(file, header or head.text, spec))

    heads, bad = text.heads(files, look)
    names = next((head.names for head in heads if head.names), ())
    given = given_types(spec.types, names, faults)
    if bad:
        raise BadJob(bad)
    measured = text.measured(files, _csv_schema(names, heads, spec.delimiter, given), heads, limit_rows)
    return measured if _has_records(measured) else _without_units(measured, named, given)


def measure_jsonl(
    files: Sequence[InputFile],
    remote: Remote,
    named: Collection[str],
    limit_rows: int | None,
    *,
    lists_corrupt: bool,
) -> Measured:
    """Bytes and columns of JSONL files; those that the job names where no file has a record.

    Raises:
        BadJob: heads that can't be read; damaged ones as for CSV.
    """
    text = _Text(remote, lists_corrupt)
    heads, bad = text.heads(files, text.head)
    if bad:
        raise BadJob(bad)
    measured = text.measured(files, _json_schema(heads), heads, limit_rows)
    return measured if _has_records(measured) else _without_units(measured, named, {})


def _has_records(measured: Measured) -> bool:
    return measured.rows_total != 0 or measured.rows_estimated


def _without_units(measured: Measured, named: Collection[str], given: Mapping[str, pa.DataType]) -> Measured:
    """Files that hold no record: nothing to read, and columns of the null type, for no value says which."""
    names = measured.schema.names or named
    return replace(
        measured,
        units=np.zeros(len(measured.files), np.int64),
        cuts=np.zeros(1, np.int64),
        bytes_total=0,
        schema=pa.schema([(name, given.get(name, pa.null())) for name in names]),
    )


# ---------------------------------------------------------------- columns


def _names(file: InputFile, record: bytes, spec: CsvSpec) -> tuple[str, ...]:
    try:
        text = record.decode()
    except UnicodeDecodeError as error:
        raise BadJob([Fault(file.path, f"its first record is not UTF-8: {error}", "save it as UTF-8")]) from error
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=spec.delimiter)
    first = next((row for row in rows if row), [])
    names = tuple(first) if spec.header else tuple(f"f{i}" for i in range(len(first)))
    for i, name in enumerate(names):
        if name in names[:i]:
            raise BadJob([Fault(file.path, f"its header names two columns {name!r}", "give each column its own name")])
    return names


def _csv_schema(
    names: tuple[str, ...],
    heads: Sequence[Head],
    delimiter: str,
    given: Mapping[str, pa.DataType],
) -> pa.Schema:
    types: dict[str, pa.DataType] = {}
    for head in heads:
        for name, kind in _csv_types(head, delimiter, given).items():
            if name in names:
                types[name] = _wider(types.get(name, pa.null()), kind, pa.string())  # any field is text
    return pa.schema([(name, given.get(name) or _known(types.get(name, pa.null()))) for name in names])


def _csv_types(head: Head, delimiter: str, given: Mapping[str, pa.DataType]) -> Mapping[str, pa.DataType]:
    import pyarrow.csv

    if not head.text:
        return {}
    as_text = {name: pa.binary() for name in head.names if name in given}
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(head.text),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, column_names=list(head.names), block_size=len(head.text) + 1
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=lambda _: "skip"
            ),
            convert_options=pyarrow.csv.ConvertOptions(column_types=as_text),
        )
    except pa.ArrowException as error:
        raise _unreadable(head.file, error) from error
    # Bytes that aren't UTF-8 make a column binary; its good rows are text, and the others will be bad rows.
    return {field.name: pa.string() if pa.types.is_binary(field.type) else field.type for field in table.schema}


def _json_schema(heads: Sequence[Head]) -> pa.Schema:
    types: dict[str, pa.DataType] = {}
    for head in heads:
        for name, kind in _json_types(head.text).items():
            types[name] = _wider(types.get(name, pa.null()), kind)
    return pa.schema([(name, _known(kind)) for name, kind in types.items()])


def _json_types(text: bytes) -> Mapping[str, pa.DataType]:
    """Columns of a run of lines. Lines that don't parse, or contradict those before them, have no say."""
    types: dict[str, pa.DataType] = {}
    todo = [[line for line in text.splitlines(keepends=True) if line.strip().startswith(b"{")]]
    while todo:
        lines = todo.pop()
        if not lines:
            continue
        schema = _read_json(b"".join(lines))
        if schema is None:
            if len(lines) > 1:
                middle = len(lines) // 2
                todo += [lines[middle:], lines[:middle]]
            continue
        for field in schema:
            types[field.name] = _wider(types.get(field.name, pa.null()), field.type)
    return types


def _read_json(text: bytes) -> pa.Schema | None:
    import pyarrow.json

    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(text),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pyarrow.json.ParseOptions(newlines_in_values=False),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    # pyarrow makes timestamps of texts that look like one; the next line's may not, so they stay texts.
    return pa.schema([(field.name, _without_times(field.type)) for field in table.schema])


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(kind.field(i).name, _without_times(kind.field(i).type)) for i in range(kind.num_fields)])
    return kind


def _wider(one: pa.DataType, other: pa.DataType, fallback: pa.DataType | None = None) -> pa.DataType:
    """A type that holds both; if there is none, `fallback`, or `one`."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    try:
        merged = pa.unify_schemas([pa.schema([("_", one)]), pa.schema([("_", other)])], promote_options="permissive")
    except pa.ArrowException:
        return fallback or one
    return merged.field(0).type


def _known(kind: pa.DataType) -> pa.DataType:
    """Text for what the heads leave open: a column, list item or key that was never filled."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_known(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(kind.field(i).name, _known(kind.field(i).type)) for i in range(kind.num_fields)])
    return kind


# ---------------------------------------------------------------- files


@dataclass(frozen=True, slots=True)
class _Text:
    """How the files of one source are read."""

    remote: Remote
    lists_corrupt: bool
    delimiter: str = ","
    quoted: bool = False  # line breaks may stand in fields
    has_header: bool = False

    def heads(self, files: Sequence[InputFile], look: Callable[[InputFile], Head]) -> tuple[list[Head], list[Fault]]:
        """What `look` finds in the first files that aren't empty, and the faults of those that can't be planned."""
        heads: list[Head] = []
        bad: list[Fault] = []
        damaged: list[Fault] = []
        for file in filter(lambda file: file.size, files):
            if len(heads) + len(bad) >= HEAD_FILES:
                break
            try:
                heads.append(look(file))
            except BadJob as error:
                told = damaged if self.lists_corrupt and is_damage(error.__cause__) else bad
                told += error.faults
        return heads, bad if heads else bad + damaged

    def header(self, file: InputFile) -> tuple[bytes, int]:
        """The header record and where the first row begins; nothing for files without one."""
        if not self.has_header:
            return b"", 0
        try:
            record, _, end = first_record(file.path, self.delimiter, quoted=self.quoted, raw=self.remote.open(file))
        except _UNREADABLE as error:
            raise _unreadable(file, error) from error
        return record, end

    def head(self, file: InputFile, skip: int = 0) -> Head:
        """The records that begin at or past byte `skip` of the first HEAD_BYTES or so."""
        try:
            with closing(open_text(file.path, self.remote.open(file))) as stream:
                pieces = self._pieces(stream)
                offset, text, ends = next(pieces, (0, b"", np.empty(0, np.int64)))
                is_whole = next(pieces, None) is None if len(text) < HEAD_BYTES // 2 else not stream.read(1)
        except _UNREADABLE as error:
            raise _unreadable(file, error) from error
        past = ends[ends > skip - offset] - max(skip - offset, 0)
        return Head(file, text[max(skip - offset, 0) :], len(past), is_whole)

    def measured(
        self, files: Sequence[InputFile], schema: pa.Schema, heads: Sequence[Head], limit_rows: int | None
    ) -> Measured:
        """All files, or those that hold the first `limit_rows` rows."""
        is_cut = [not self.quoted and codec_of(file.path) is None for file in files]
        units = np.array([file.size for file in files], np.int64)
        limit_path, limit_left = "", None
        rows_total: int | None = None
        if limit_rows is not None:
            units, rows_total, limit_left = self._limited(files, limit_rows)
            files = files[: len(units)]
            limit_path = files[-1].path if limit_left is not None else ""
        estimated = rows_total is None
        if estimated:
            rows_total = _estimate(files, heads)
            filled = sum(file.size > 0 for file in files)
            estimated = not (len(heads) == filled and all(head.is_whole for head in heads))
        return Measured(
            unit="byte",
            files=files,
            units=units,
            cuts=_cuts(units, is_cut),
            divisible=all(is_cut),
            bytes_total=int(units.sum()),
            rows_total=rows_total,
            rows_estimated=estimated,
            schema=schema,
            limit_path=limit_path,
            limit_rows=limit_left,
        )

    def _limited(self, files: Sequence[InputFile], limit_rows: int) -> tuple[npt.NDArray[np.int64], int, int | None]:
        """The files' units up to the end of row `limit_rows` (good or bad), the rows in them, and for a compressed last
        file, which has no such byte, how many of its rows count."""
        units: list[int] = []
        left = limit_rows
        for file in files:
            try:
                found, end = self._find_row(file, left)
            except _UNREADABLE as error:
                if not (self.lists_corrupt and is_damage(error)):
                    raise _unreadable(file, error) from error
                found, end = 0, file.size
            is_cut = found == left and end < file.size
            units.append(end if is_cut and codec_of(file.path) is None else file.size)
            if found == left:
                return np.array(units, np.int64), limit_rows, left if codec_of(file.path) else None
            left -= found
        return np.array(units, np.int64), limit_rows - left, None

    def _find_row(self, file: InputFile, count: int) -> tuple[int, int]:
        """Of a file's first `count` rows: how many there are, and the byte at which the last of them ends."""
        left = count + self.has_header
        with closing(open_text(file.path, self.remote.open(file))) as stream:
            at = 0
            for offset, text, ends in self._pieces(stream):
                filled = _filled_ends(text, ends)
                if len(filled) >= left:
                    return count, offset + int(filled[left - 1])
                left -= len(filled)
                at = offset + len(text)
        return max(count - left, 0), at

    def _pieces(self, stream: Readable) -> Iterator[tuple[int, bytes, Offsets]]:
        return whole_records(stream, self.delimiter, quoted=self.quoted, piece_bytes=HEAD_BYTES)


def _unreadable(file: InputFile, error: Exception) -> BadJob:
    text = (str(error) or type(error).__name__).splitlines()[0]
    found = f"can't be read: {text.removeprefix(f'{file.path}: ')}"
    return BadJob([Fault(file.path, found, "a whole file, or spec.source.exclude to leave it out")])


def _cuts(units: npt.NDArray[np.int64], is_cut: Sequence[bool]) -> npt.NDArray[np.int64]:
    starts = origins(units)
    cuts = [starts[1:]]
    if not all(is_cut):
        cuts += [
            np.arange(starts[i] + CUT_BYTES, starts[i + 1], CUT_BYTES)
            for i in np.flatnonzero(np.asarray(is_cut[: len(units)], bool) & (units > CUT_BYTES)).tolist()
        ]
    return np.unique(np.concatenate(cuts))


def _estimate(files: Sequence[InputFile], heads: Sequence[Head]) -> int | None:
    """Rows by the heads' bytes per row; exact where the heads are all there is."""
    filled = [file for file in files if file.size]
    if not filled:
        return 0
    if len(heads) == len(filled) and all(head.is_whole for head in heads):
        return sum(head.records for head in heads)
    text, records = sum(len(head.text) for head in heads), sum(head.records for head in heads)
    if not records or any(codec_of(file.path) for file in filled):
        return None
    return int(sum(file.size for file in filled) * records / max(text, 1))


def _filled_ends(text: bytes, ends: Offsets) -> Offsets:
    """Ends of the records that aren't blank."""
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    short = np.flatnonzero(ends - starts <= 2)
    is_blank = np.zeros(len(ends), bool)
    for i in short.tolist():
        is_blank[i] = not text[starts[i] : ends[i]].strip(b"\r\n")
    return ends[~is_blank]
