"""JSONL: one JSON object a line; pyarrow parses pieces of lines, and lines that it can't make a row of become bad rows.

Keys that aren't wanted are passed over, missing ones are null. pyarrow takes several objects on a line for several
rows, and crashes on a text that begins with `null`, so each line's first and last characters are looked at before.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.json

from headrace.dataset import Slice
from headrace.records import codec_of, line_ends
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
_SPACE = b" \t\r\n"
_NO_COLUMN = pa.field("\x00", pa.null())
"""Stands for the rows where no column is wanted: a table of no columns forgets how many it had."""


class JsonLinesFormat:
    """Reads JSONL files."""

    def __init__(self, types: Types, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        fields = [pa.field(name, kind) for name, kind in types.items()]
        self._schema = pa.schema(fields or [_NO_COLUMN])

    def pieces(self, window: Window) -> Iterator[Piece]:
        """Pieces of about `piece_bytes` of text."""
        path = window.part.path
        if codec_of(path):
            source = stream_records(window, ",", quoted=False, piece_bytes=self._piece_bytes)
        else:
            source = line_records(window, 0, self._piece_bytes)
        for records in source:
            yield self._piece(without_bom(records), path)

    def together(self, files: Sequence[tuple[Slice, bytes]]) -> list[Piece]:
        """As `piece.SmallFiles` says."""
        whole = [(part, without_bom(Records(0, text, line_ends(text), part.end))) for part, text in files]
        return parse_together(whole, lambda records: filled_lines(records.text, records.ends), self._parse, KIND)

    def _piece(self, records: Records, path: str) -> Piece:
        starts, ends = filled_lines(records.text, records.ends)
        tables, is_row, bad = parse_apart(records.text, starts, ends, self._parse)
        return Piece(
            rows=to_batch(tables),
            address=starts[is_row] + records.offset,
            end=records.end,
            bad=bad_rows(bad, lambda record: int(starts[record]) + records.offset, KIND, path),
        )

    def _parse(self, text: bytes, count: int) -> tuple[pa.Table, Sequence[tuple[int, str]]]:
        if not _are_objects(text):
            raise ValueError("not a JSON object on one line")
        # pyarrow lets bytes that aren't UTF-8 through into strings.
        text.decode()
        table = pa.json.read_json(
            pa.BufferReader(text),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pa.json.ParseOptions(
                explicit_schema=self._schema, newlines_in_values=False, unexpected_field_behavior="ignore"
            ),
        )
        if table.num_rows != count:
            raise ValueError(f"{table.num_rows} JSON values on {count} line(s)")
        return table, ()


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
