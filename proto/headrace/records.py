"""Where records begin and end in text, and how whole-file compression is undone.

JSONL, and CSV without line breaks in fields: a record is a line, ended by LF (a CR before it belongs to the end), so a
file may be cut at any byte. Other CSV: records end as RFC 4180 and pyarrow's parser say, outside of quotes, at LF, CR
or CR LF; only reading from the start tells where.
"""

import re
from collections.abc import Iterator
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BOM = b"\xef\xbb\xbf"
LF, CR, QUOTE = 10, 13, 34
PIECE_BYTES = 8 << 20
"""Bytes of text that are parsed at a time; a longer record gets a piece of its own."""
HEAD_BYTES = 64 << 10
"""Bytes that are read to see a file's first record."""

_CODECS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}

Offsets = npt.NDArray[np.int64]


class Readable(Protocol):
    """What pieces are read from: a local file or a decompressing stream."""

    def read(self, nbytes: int, /) -> bytes:
        """Up to `nbytes` bytes, none at the end."""


def codec_of(path: str) -> str | None:
    """The codec that a whole file is compressed with, by its name; None for plain ones."""
    if path.startswith(("http://", "https://")):
        path = path.partition("?")[0]
    dot = path.rfind(".")
    return _CODECS.get(path[dot:].lower()) if dot >= 0 else None


def open_text(path: str, raw: Any = None) -> Any:
    """A file's bytes as a binary stream, decompressed where its name says that it is compressed.

    `raw` are the bytes of a file that isn't a local one.
    """
    codec = codec_of(path)
    if codec is None:
        return open(path, "rb", buffering=0) if raw is None else raw
    return pa.CompressedInputStream(pa.OSFile(path, "rb") if raw is None else raw, codec)


def line_ends(text: bytes) -> Offsets:
    """Offsets just past each LF."""
    return np.flatnonzero(np.frombuffer(text, np.uint8) == LF).astype(np.int64) + 1


def record_ends(text: bytes, delimiter: str, *, quoted: bool, final: bool) -> Offsets:
    """Offsets just past each complete record of `text`, which begins at the begin of one.

    With `final`, what remains at the end of the text is a record too. With `quoted`, line breaks inside of quotes
    belong to their field.
    """
    lone_cr = quoted and _has_lone_cr(text)
    if not quoted or (not lone_cr and b'"' not in text):
        ends = line_ends(text)
    else:
        fast = None if lone_cr else _ends_outside_quotes(text, delimiter)
        ends = fast if fast is not None else _ends_by_grammar(text, delimiter, final=final)
    if final and len(text) > (int(ends[-1]) if len(ends) else 0):
        ends = np.append(ends, len(text))
    return ends


def _has_lone_cr(text: bytes) -> bool:
    return b"\r" in text and text.count(b"\r") != text.count(b"\r\n")


def _ends_outside_quotes(text: bytes, delimiter: str) -> Offsets | None:
    """Record ends by counting quotes; None where a quote stands in the midst of a field, which counting can't judge."""
    data = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(data == QUOTE)
    opening, closing = quotes[0::2], quotes[1::2]
    before = data[np.maximum(opening - 1, 0)]
    # Doubled quotes inside of a field close and open again at once: the byte before the opening one is a quote.
    opens = (opening == 0) | (before == ord(delimiter)) | (before == LF)
    opens[1:] |= (before[1:] == QUOTE) & (opening[1:] - 1 == closing[: len(opening) - 1])
    after = data[np.minimum(closing + 1, len(data) - 1)]
    closes = (closing == len(data) - 1) | (after == ord(delimiter)) | (after == LF) | (after == CR) | (after == QUOTE)
    if not (opens.all() and closes.all()):
        return None
    breaks = np.flatnonzero(data == LF)
    outside = np.searchsorted(quotes, breaks) % 2 == 0
    ends: Offsets = breaks[outside].astype(np.int64) + 1
    return ends


def _ends_by_grammar(text: bytes, delimiter: str, *, final: bool) -> Offsets:
    """Record ends by pyarrow's rules: a field that begins with a quote is quoted, any other quote is a letter."""
    mark = re.escape(delimiter.encode())
    quoted = rb'"(?:[^"]++|"")*+(?:"[^%b\r\n]*+|\Z)' % mark
    record = re.compile(rb"(?:(?:%b|[^%b\r\n]*+)(?:%b|(?=[\r\n]|\Z)))+?(?=[\r\n]|\Z)" % (quoted, mark, mark))
    ends = []
    at = 0
    while at < len(text):
        match = record.match(text, at)
        stop = match.end() if match else at
        if stop >= len(text):
            break
        if text[stop] == CR and stop + 1 == len(text) and not final:
            break  # its LF may come with the next piece
        at = stop + (2 if text[stop : stop + 2] == b"\r\n" else 1)
        ends.append(at)
    return np.array(ends, np.int64)


def whole_records(
    stream: Readable, delimiter: str, *, quoted: bool, piece_bytes: int = PIECE_BYTES
) -> Iterator[tuple[int, bytes, Offsets]]:
    """Reads a stream from its start as pieces of whole records: (offset in the text, text, its record ends).

    Memory is about two pieces, or two of the longest record. A byte order mark is skipped (offsets count it).
    `piece_bytes` is how much to read at a time; whoever wants only the head takes less.
    """
    rest, at, wanted, final = b"", 0, piece_bytes, False
    while not final:
        fresh = stream.read(wanted)
        final = not fresh
        if at == 0 and not rest:
            while 0 < len(fresh) < len(BOM) and (more := stream.read(len(BOM))):
                fresh += more
            if fresh.startswith(BOM):
                fresh, at = fresh[len(BOM) :], len(BOM)
        text = rest + fresh
        ends = record_ends(text, delimiter, quoted=quoted, final=final)
        if not len(ends):
            rest = text
            wanted = max(piece_bytes, len(rest))  # a long record is scanned again each time: read it in few goes
            continue
        end = int(ends[-1])
        yield at, text[:end], ends
        rest, at, wanted = text[end:], at + end, piece_bytes


def line_start(file: IO[bytes], at: int) -> int:
    """The offset of the first line that begins at or past `at` in a seekable file; its size if there is none."""
    if at <= 0:
        return 0
    file.seek(at - 1)
    passed = at - 1
    while piece := file.read(64 << 10):
        found = piece.find(b"\n")
        if found >= 0:
            return passed + found + 1
        passed += len(piece)
    return passed


def first_record(path: str, delimiter: str, *, quoted: bool, raw: Any = None) -> tuple[bytes, int, int]:
    """The first record of a file that isn't a blank line, where it begins, and where the next one does.

    An empty record at the end of the text if there is none. Offsets are of the decompressed text; `raw` as for
    `open_text`.

    Raises:
        OSError: the file can't be read or decompressed.
    """
    stream = open_text(path, raw)
    try:
        at = 0
        for offset, text, ends in whole_records(stream, delimiter, quoted=quoted, piece_bytes=HEAD_BYTES):
            begin = 0
            for end in ends.tolist():
                if text[begin:end].strip(b"\r\n"):
                    return text[begin:end], offset + begin, offset + end
                begin = end
            at = offset + begin
        return b"", at, at
    finally:
        stream.close()
