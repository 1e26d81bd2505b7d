"""The four formats of a sink: what each is called, how it is compressed, who writes it."""

from typing import Protocol

import pyarrow as pa

from headrace.errors import BadJob, Fault
from sidecar.writer.staged import Growing

_SUFFIXES = {"parquet": ".parquet", "arrow": ".arrow", "csv": ".csv", "jsonl": ".jsonl"}
_WHOLE_FILE = {"none": "", "gzip": ".gz", "zstd": ".zst"}
_CODECS = {
    "parquet": ("none", "zstd", "snappy", "gzip", "lz4"),
    "arrow": ("none", "zstd", "lz4"),
    "csv": tuple(_WHOLE_FILE),
    "jsonl": tuple(_WHOLE_FILE),
}


class Format(Protocol):
    """A writer of one file."""

    def write(self, rows: pa.RecordBatch) -> None:
        """Adds rows of the schema it was opened with."""

    def close(self) -> None:
        """Writes what is still held back, and the footer; the file itself stays open."""


def suffix(format_name: str, compression: str) -> str:
    """What a file's name ends with, compression of the whole file included.

    Raises:
        BadJob: the format can't be compressed that way.
    """
    if compression not in _CODECS[format_name]:
        expected = f"one of {', '.join(_CODECS[format_name])}"
        raise BadJob([Fault("spec.sink.compression", f"{compression!r} for {format_name}", expected)])
    ending = _WHOLE_FILE[compression] if format_name in ("csv", "jsonl") else ""
    return _SUFFIXES[format_name] + ending


def open_format(format_name: str, compression: str, schema: pa.Schema, file: Growing) -> Format:
    """A writer of `schema` into `file`. Only the module of this one format is imported: they cost start-up time."""
    match format_name:
        case "parquet":
            from sidecar.writer.parquet import ParquetFormat

            return ParquetFormat(file, schema, compression)
        case "arrow":
            from sidecar.writer.ipc import IpcFormat

            return IpcFormat(file, schema, compression)
        case "csv":
            from sidecar.writer.delimited import CsvFormat

            return CsvFormat(file, schema, compression)
        case _:
            from sidecar.writer.json_lines import JsonLinesFormat

            return JsonLinesFormat(file, schema, compression)
