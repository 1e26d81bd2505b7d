"""Rejected rows as a source: a rejects dataset, whose rows keep the file and address that they had in the input.

Rows of which nothing is kept, since the source could not read them, stay rejected for the reason that they had.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.arrow_types import schema_text
from headrace.dataset import Slice
from headrace.program import SourceProgram
from headrace.rejects import ADDRESS, CLASS, FILE, MESSAGE, NAMES, STAGE, UNREAD, kept_name
from headrace.words import SOURCE
from sidecar.picking import rows_where
from sidecar.reader.block import BadRow, Block
from sidecar.reader.cursor import Cursor
from sidecar.reader.source import Source, source_schema
from sidecar.writer.rejects import FIELDS


class RejectedSource(Source):
    """Reads rejects files; blocks are as if the rows had been read from the input itself."""

    def __init__(self, program: SourceProgram, piece_bytes: int) -> None:
        self._kept = source_schema(program)
        renamed = [field.with_name(kept_name(field.name)) for field in self._kept]
        stored = pa.schema([*FIELDS, *renamed])
        columns, text = tuple(stored.names), schema_text(stored)
        super().__init__(replace(program, rejected=False, columns=columns, schema=text), piece_bytes)

    def read(self, slices: Sequence[Slice], cursor: Cursor) -> Generator[Block, None, None]:
        """As `Source.read`."""
        with closing(super().read(slices, cursor)) as blocks:
            for block in blocks:
                yield self._unwrapped(block)

    def _unwrapped(self, block: Block) -> Block:
        rows = block.rows
        is_unread = pc.and_(
            pc.equal(rows.column(STAGE), SOURCE), pc.is_in(rows.column(CLASS), value_set=pa.array(UNREAD))
        )
        unread = rows_where(rows.select(NAMES), is_unread).to_pylist()
        is_bad = is_unread.to_numpy(zero_copy_only=False).astype(bool)
        kept = rows_where(rows, pc.invert(is_unread))
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
