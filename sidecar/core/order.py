"""The order of a lease's output: batches in input order, also where a dropped batch comes again in several.

A place is one batch, or, once that was dropped, the places of the batches that its rows came again in; those may be
dropped in turn, so places nest. Rows are written when all batches of the place at the front are there.
"""

from collections import deque
from collections.abc import Container, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Place:
    """Where rows belong: one batch, or several parts in order."""

    batch: int | None
    parts: list["Place"] = field(default_factory=list)
    is_open: bool = False  # more parts are to come


class OutputOrder:
    """Batches between their start and their writing. Not thread-safe."""

    def __init__(self) -> None:
        self._front: deque[Place] = deque()
        self._place_of: dict[int, Place] = {}

    def __len__(self) -> int:
        return len(self._front)

    def append(self, batch: int) -> None:
        """The next batch in input order has started."""
        self._front.append(self._made(batch))

    def reopen(self, batch: int) -> Place:
        """A started batch was dropped: its rows come again, here."""
        place = self._place_of.pop(batch)
        place.batch, place.is_open = None, True
        return place

    def append_to(self, place: Place, batch: int) -> None:
        """The next batch of a reopened place, in input order, has started."""
        assert place.is_open
        place.parts.append(self._made(batch))

    def close(self, place: Place) -> None:
        """All rows of a reopened place have started again."""
        place.is_open = False

    def take_ready(self, ready: Container[int]) -> list[int]:
        """The batches whose turn it is, in order; they are forgotten here."""
        taken: list[int] = []
        while self.is_next_ready(ready):
            for batch in _batches(self._front.popleft()):
                assert batch is not None
                del self._place_of[batch]
                taken.append(batch)
        return taken

    def is_next_ready(self, ready: Container[int]) -> bool:
        """Whether all batches of the place at the front are there."""
        return bool(self._front) and all(batch in ready for batch in _batches(self._front[0]))

    def _made(self, batch: int) -> Place:
        place = self._place_of[batch] = Place(batch)
        return place


def _batches(place: Place) -> Iterator[int | None]:
    """Batches of a place in order, None where some are still to come."""
    if place.batch is not None:
        yield place.batch
    for part in place.parts:
        yield from _batches(part)
    if place.is_open:
        yield None
