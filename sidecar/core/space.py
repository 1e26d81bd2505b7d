"""Regions of the arena, counted by how many batches still need them.

Two limits: the soft one is what the pipeline normally keeps in flight (those pages are warm), the hard one is the
arena's size, used only so that one batch of very large rows gets through. Allocation is first fit from low addresses,
so pages above the soft limit are touched only then.
"""

from dataclasses import dataclass

from headrace.local.arena import Allocator


@dataclass(slots=True, eq=False)
class Region:
    """One allocation; freed when `refs` falls to 0."""

    offset: int
    nbytes: int
    refs: int = 1


class Space:
    """The arena's regions. Law 5: `used` never exceeds the arena."""

    def __init__(self, size: int, soft: int) -> None:
        self._allocator = Allocator(size)
        self.size = size
        self.soft = min(soft, size)

    @property
    def used(self) -> int:
        """Bytes in regions now."""
        return self._allocator.used

    def fits_softly(self, nbytes: int) -> bool:
        """Whether `nbytes` more stay within the soft limit."""
        return self.used + nbytes <= self.soft

    def make_room(self, nbytes: int) -> None:
        """Lets at least `nbytes` be in flight as a rule, as far as the arena goes."""
        self.soft = min(max(self.soft, nbytes), self.size)

    def take(self, nbytes: int) -> Region | None:
        """A region of at least `nbytes`, or None if no gap is large enough."""
        offset = self._allocator.allocate(max(nbytes, 1))
        return None if offset is None else Region(offset, nbytes)

    def share(self, region: Region) -> Region:
        """One more batch needs `region`."""
        assert region.refs > 0
        region.refs += 1
        return region

    def drop(self, region: Region) -> None:
        """One batch needs `region` no longer."""
        assert region.refs > 0
        region.refs -= 1
        if region.refs == 0:
            self._allocator.free(region.offset)
