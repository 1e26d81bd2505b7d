"""Cuts a piece into parts over the same regions: no row is copied, every part holds what it reads and writes.

Not here: when and where a piece is cut (`failures`).
"""

from collections.abc import Iterator, Sequence

from headrace.local.columns import ALIGNMENT
from sidecar.core.batches import Piece, Slot
from sidecar.core.space import Region, Space


def cut(parent: Piece, parts: Sequence[tuple[int, int]], numbers: Iterator[int], space: Space) -> list[Piece]:
    """The pieces of the parent's rows ``[low, high)``; the parent's own hold on its regions stays."""
    return [_part(parent, low, high, next(numbers), space) for low, high in parts]


def _part(parent: Piece, low: int, high: int, number: int, space: Space) -> Piece:
    return Piece(
        number=number,
        batch=parent.batch,
        begin=parent.begin + low,
        end=parent.begin + high,
        columns={
            producer: {name: column.rows_slice(low, high) for name, column in columns.items()}
            for producer, columns in parent.columns.items()
        },
        regions={producer: _shared(regions, space) for producer, regions in parent.regions.items()},
        slots={name: _slot(slot, low, high, parent.rows, space) for name, slot in parent.slots.items()},
        readers=dict(parent.readers),
    )


def _slot(slot: Slot, low: int, high: int, rows: int, space: Space) -> Slot:
    def cut_at(row: int) -> int:
        return slot.nbytes if row == rows else slot.nbytes * row // rows // ALIGNMENT * ALIGNMENT

    return Slot(_shared(slot.regions, space), slot.offset + cut_at(low), cut_at(high) - cut_at(low))


def _shared(regions: Sequence[Region], space: Space) -> list[Region]:
    return [space.share(region) for region in regions]
