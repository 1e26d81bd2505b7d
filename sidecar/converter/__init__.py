"""From Arrow columns to columns in the arena, and back from stage outputs to Arrow.

Law: everything here is vectorised and releases the GIL where it copies; no user code, no files, no asyncio. A value
that can't be converted is a `BadValue` of its row, never an exception; a type that can't is `BadJob` at construction.

Not here: which rows make a batch (`sidecar.core`), where the bytes are allocated (`sidecar.arena`).
"""

from sidecar.converter.converter import Converted, Converter, ReadBlock
from sidecar.converter.flaws import BadValue
from sidecar.converter.tensors import Part, SourceTensor, source_tensors, stage_parts
from sidecar.converter.to_arrow import column_array, column_to_arrow, nan_rows

__all__ = [
    "BadValue",
    "Converted",
    "Converter",
    "Part",
    "ReadBlock",
    "SourceTensor",
    "column_array",
    "column_to_arrow",
    "nan_rows",
    "source_tensors",
    "stage_parts",
]
