"""Rejected rows as a source: a rejects dataset, whose rows keep the file and address that they had in the input.

Rows of which nothing is kept, since the source could not read them, stay rejected for the reason that they had.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.dataset import Slice
from headrace.program import SourceProgram
from headrace.rejects import ADDRESS, CLASS, FILE, MESSAGE, NAMES, STAGE, UNREAD, kept_name
from headrace.words import SOURCE
from sidecar.reader.block import BadRow, Block
from sidecar.reader.cursor import Cursor
from sidecar.reader.source import Source, source_schema

_DESCRIPTION = pa.schema([(name, pa.int64() if name == ADDRESS else pa.string()) for name in NAMES])


class RejectedSource(Source):
    """Reads rejects files; blocks are as if the rows had been read from the input itself."""

    def __init__(self, program: SourceProgram, piece_bytes: int) -> None:
        self._kept = source_schema(program)
        renamed = [field.with_name(kept_name(field.name)) for field in self._kept]
        stored = pa.schema([*_DESCRIPTION, *renamed])
        text = base64.b64encode(stored.serialize().to_pybytes()).decode()
        super().__init__(replace(program, rejected=False, columns=tuple(stored.names), schema=text), piece_bytes)

    def read(self, slices: Sequence[Slice], cursor: Cursor) -> Iterator[Block]:
        """As `Source.read`."""
        blocks = super().read(slices, cursor)
        try:
            for block in blocks:
                yield self._unwrapped(block)
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()

    def _unwrapped(self, block: Block) -> Block:
        rows = block.rows
        is_unread = pc.and_(
            pc.equal(rows.column(STAGE), SOURCE), pc.is_in(rows.column(CLASS), value_set=pa.array(UNREAD))
        )
        unread = rows.filter(is_unread).select(NAMES).to_pylist()
        is_bad = is_unread.to_numpy(zero_copy_only=False).astype(bool)
        kept = rows.filter(pc.invert(is_unread))
        paths = kept.column(FILE).to_pylist()
        return replace(
            block,
            rows=pa.RecordBatch.from_arrays(kept.columns[len(NAMES) :], schema=self._kept),
            path=paths[0] if paths else block.path,
            address=kept.column(ADDRESS).to_numpy().astype(np.int64),
            bad=tuple(BadRow(row[ADDRESS], row[CLASS], row[MESSAGE], row[FILE]) for row in unread),
            runs=tuple((i, path) for i, path in enumerate(paths) if i == 0 or path != paths[i - 1]),
            units=None if block.units is None else block.units[~is_bad],
            bad_units=block.bad_units if block.units is None else block.units[is_bad],
        )
