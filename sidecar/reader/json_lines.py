"""JSONL: one JSON object a line; pyarrow parses pieces of lines, and lines that it can't make a row of become bad rows.

Keys that aren't wanted are passed over, missing ones are null. pyarrow takes several objects on a line for several
rows, and crashes on a text that begins with `null`, so each line's first and last characters are looked at before.
"""

import json
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.json

from headrace.dataset import Slice
from headrace.records import codec_of, line_ends
from headrace.rejects import BAD_RECORD
from sidecar.reader.piece import Piece, Types, Window
from sidecar.reader.remote import InputFiles
from sidecar.reader.text import (
    Records,
    bad_rows,
    line_records,
    misfit,
    parse_apart,
    parse_together,
    stream_records,
    to_batch,
    without_bom,
)

_SPACE = b" \t\r\n"
_IN_ROW = re.compile(r" in row \d+$")
"""How pyarrow ends what it tells; the row is one of the text that it was given, and so nobody's."""
_CHANGED = re.compile(r"JSON parse error: Column\(/(.*)\) changed from \w+ to \w+$")
_UNFIT = re.compile(r"Failed to convert JSON to (.+?), couldn't parse:")
_NO_COLUMN = pa.field("\x00", pa.null())
"""Stands for the rows where no column is wanted: a table of no columns forgets how many it had."""


class JsonLinesFormat:
    """Reads JSONL files."""

    def __init__(self, types: Types, files: InputFiles, piece_bytes: int) -> None:
        self._files = files
        self._piece_bytes = piece_bytes
        fields = [pa.field(name, kind) for name, kind in types.items()]
        self._schema = pa.schema(fields or [_NO_COLUMN])

    def pieces(self, window: Window) -> Iterator[Piece]:
        """Pieces of about `piece_bytes` of text."""
        path = window.part.path
        if codec_of(path):
            source = stream_records(self._files, window, ",", quoted=False, piece_bytes=self._piece_bytes)
        else:
            source = line_records(self._files, window, 0, self._piece_bytes)
        for records in source:
            yield self._piece(without_bom(records), path)

    def together(self, files: Sequence[tuple[Slice, bytes]]) -> list[Piece]:
        """As `piece.SmallFiles` says."""
        whole = [(part, without_bom(Records(0, text, line_ends(text), part.end))) for part, text in files]
        return parse_together(whole, lambda records: filled_lines(records.text, records.ends), self._parse, BAD_RECORD)

    def _piece(self, records: Records, path: str) -> Piece:
        starts, ends = filled_lines(records.text, records.ends)
        tables, is_row, bad = parse_apart(records.text, starts, ends, self._parse)
        return Piece(
            rows=to_batch(tables),
            address=starts[is_row] + records.offset,
            end=records.end,
            bad=bad_rows(bad, lambda record: int(starts[record]) + records.offset, BAD_RECORD, path),
        )

    def _parse(self, text: bytes, count: int) -> tuple[pa.Table, Sequence[tuple[int, str]]]:
        if not _are_objects(text):
            raise ValueError("not a JSON object on one line")
        # pyarrow lets bytes that aren't UTF-8 through into strings.
        text.decode()
        try:
            table = _read(text, self._schema)
        except pa.ArrowException as error:
            if count == 1:
                raise ValueError(_why(text, self._schema, str(error))) from error
            raise
        if table.num_rows != count:
            raise ValueError(f"{table.num_rows} JSON values on {count} line(s)")
        return table, ()


def _read(text: bytes, schema: pa.Schema) -> pa.Table:
    return pa.json.read_json(
        pa.BufferReader(text),
        read_options=pa.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=pa.json.ParseOptions(
            explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="ignore"
        ),
    )


def _why(line: bytes, schema: pa.Schema, told: str) -> str:
    """What pyarrow told of one line, with the column and its value where one doesn't fit."""
    told = _IN_ROW.sub("", told)
    changed, unfit = _CHANGED.match(told), _UNFIT.match(told)
    if changed:
        field = next((one for one in schema if f"{changed[1]}/".startswith(f"{one.name}/")), None)
    elif unfit:
        field = next((one for one in schema if unfit[1] in str(one.type) and not _fits(line, one)), None)
    else:
        field = None
    if field is None:
        return told
    try:
        return misfit(field.name, json.dumps(json.loads(line)[field.name], ensure_ascii=False), str(field.type))
    except (ValueError, KeyError, RecursionError):  # Python reads it in another way
        return told


def _fits(line: bytes, field: pa.Field) -> bool:
    try:
        _read(line, pa.schema([field]))
    except pa.ArrowException:
        return False
    return True


def filled_lines(text: bytes, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begins and ends of the lines that hold more than white space."""
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else ends
    if not len(ends):
        return starts, ends
    data = np.frombuffer(text, np.uint8)
    is_filled = data[starts] > ord(" ")
    for i in np.flatnonzero(~is_filled).tolist():
        is_filled[i] = bool(text[starts[i] : ends[i]].strip(_SPACE))
    return starts[is_filled], ends[is_filled]


def _are_objects(text: bytes) -> bool:
    """Whether every line that isn't blank begins with { and ends with }."""
    data = np.frombuffer(text, np.uint8)
    breaks = np.flatnonzero(data == 10)
    starts = np.concatenate([[0], breaks + 1])
    starts = starts[starts < len(data)]
    stops = np.append(breaks, len(data))[: len(starts)]
    last = data[np.maximum(stops - 1, 0)]
    last = np.where((last == 13) & (stops > 1), data[np.maximum(stops - 2, 0)], last)
    doubtful = np.flatnonzero((data[starts] != ord("{")) | (last != ord("}")))
    for i in doubtful.tolist():
        line = text[starts[i] : stops[i]].strip(_SPACE)
        if line and not (line.startswith(b"{") and line.endswith(b"}")):
            return False
    return True
