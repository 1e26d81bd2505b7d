"""JSONL: one object per row. What the values look like: `sidecar.writer.texts`."""

import json

import pyarrow as pa
import pyarrow.compute as pc

from sidecar.converter.buffers import arrow_text
from sidecar.writer.staged import Growing
from sidecar.writer.text_file import open_text, pieces
from sidecar.writer.texts import json_texts

_END, _NOTHING = arrow_text("}\n"), arrow_text("")


class JsonLinesFormat:
    """Writes one JSONL file."""

    def __init__(self, file: Growing, schema: pa.Schema, compression: str) -> None:
        self._stream = open_text(file, compression)
        names = [json.dumps(name, ensure_ascii=False) for name in schema.names]
        self._keys = [arrow_text(("," if number else "{") + f"{name}:") for number, name in enumerate(names)]

    def write(self, rows: pa.RecordBatch) -> None:
        """Writes rows."""
        for piece in pieces(rows):
            parts: list[pa.Array | pa.Scalar] = []
            for key, column in zip(self._keys, piece.columns, strict=True):
                parts += [key, json_texts(column)]
            lines = pc.binary_join_element_wise(*parts, _END, _NOTHING)
            # The lines lie one after another in the array's data: that is the file's text.
            self._stream.write(lines.buffers()[2])

    def close(self) -> None:
        """Completes the compression."""
        self._stream.close()
