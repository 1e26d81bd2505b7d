"""Arithmetic of the arena: which bytes are free, first fit from low addresses.

Low addresses first, so that a job which never needs the whole arena touches few of its pages, and those stay warm.
The free runs are kept sorted by offset in blocks of at most RUNS_MAX with the largest run of each block beside it:
an allocation looks at the blocks, then into one, so thousands of live regions cost microseconds, not milliseconds.

Not here: the memory itself (`sidecar.arena`, `predictor.mapping`).
"""

from bisect import bisect_right
from typing import Dict, List, Optional, Tuple

from .columns import aligned

RUNS_MAX = 64
"""Free runs in a block before it is cut in two: about the square root of the most runs there will be."""


class _Block:
    """Neighbouring free runs, sorted: ``[offsets[i], offsets[i] + sizes[i])``."""

    __slots__ = ("largest", "offsets", "sizes")

    def __init__(self, offsets: List[int], sizes: List[int]) -> None:
        self.offsets = offsets
        self.sizes = sizes
        self.largest = max(sizes)


class Allocator:
    """Hands out regions of ``[0, size)``; offsets and sizes are multiples of ALIGNMENT."""

    def __init__(self, size: int, runs_max: int = RUNS_MAX) -> None:
        if size <= 0 or aligned(size) != size:
            raise ValueError(f"an arena of {size} bytes: not a positive multiple of the alignment")
        self.size = size
        self.used = 0
        self._runs_max = runs_max
        self._live: Dict[int, int] = {}
        self._blocks: List[_Block] = [_Block([0], [size])]

    @property
    def regions(self) -> int:
        """How many regions are live."""
        return len(self._live)

    def allocate(self, nbytes: int) -> Optional[int]:
        """Offset of a region of at least `nbytes` (zero counts as one), or None where no free run is large enough."""
        if nbytes < 0:
            raise ValueError(f"a region of {nbytes} bytes")
        need = aligned(max(nbytes, 1))
        for number, block in enumerate(self._blocks):
            if block.largest < need:
                continue
            at = next(i for i, size in enumerate(block.sizes) if size >= need)
            offset, size = block.offsets[at], block.sizes[at]
            if size == need:
                self._remove(number, at)
            else:
                self._resize(block, at, offset + need, size - need)
            self._live[offset] = need
            self.used += need
            return offset
        return None

    def free(self, offset: int) -> None:
        """Gives back the region at `offset` and joins it with its free neighbours.

        Raises:
            KeyError: no live region begins there (freed twice, or never given).
        """
        size = self._live.pop(offset)
        self.used -= size
        number, at = self._find(offset)
        follows = number, at  # the first run after the region, maybe one past the block's end
        if number < len(self._blocks) and at == len(self._blocks[number].offsets):
            follows = number + 1, 0
        has_after = follows[0] < len(self._blocks) and self._run(follows)[0] == offset + size
        before = self._before(number, at)
        has_before = before is not None and sum(self._run(before)) == offset
        if before is not None and has_before:
            begin, length = self._run(before)
            grown = length + size + (self._run(follows)[1] if has_after else 0)
            self._resize(self._blocks[before[0]], before[1], begin, grown)
            if has_after:
                self._remove(*follows)
        elif has_after:
            self._resize(self._blocks[follows[0]], follows[1], offset, size + self._run(follows)[1])
        else:
            self._insert(number, at, offset, size)

    def _find(self, offset: int) -> Tuple[int, int]:
        """Where a run that begins at `offset` would be inserted: block and place in it."""
        blocks = self._blocks
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high) // 2
            if blocks[middle].offsets[0] <= offset:
                low = middle + 1
            else:
                high = middle
        number = max(low - 1, 0)
        if not blocks:
            return 0, 0
        return number, bisect_right(blocks[number].offsets, offset)

    def _before(self, number: int, at: int) -> Optional[Tuple[int, int]]:
        if at > 0:
            return number, at - 1
        return (number - 1, len(self._blocks[number - 1].offsets) - 1) if number > 0 else None

    def _run(self, place: Tuple[int, int]) -> Tuple[int, int]:
        block = self._blocks[place[0]]
        return block.offsets[place[1]], block.sizes[place[1]]

    @staticmethod
    def _resize(block: _Block, at: int, offset: int, size: int) -> None:
        was = block.sizes[at]
        block.offsets[at] = offset
        block.sizes[at] = size
        if size >= block.largest:
            block.largest = size
        elif was == block.largest:
            block.largest = max(block.sizes)

    def _remove(self, number: int, at: int) -> None:
        block = self._blocks[number]
        del block.offsets[at]
        was = block.sizes.pop(at)
        if not block.offsets:
            del self._blocks[number]
        elif was == block.largest:
            block.largest = max(block.sizes)

    def _insert(self, number: int, at: int, offset: int, size: int) -> None:
        if not self._blocks:
            self._blocks.append(_Block([offset], [size]))
            return
        block = self._blocks[number]
        block.offsets.insert(at, offset)
        block.sizes.insert(at, size)
        block.largest = max(block.largest, size)
        if len(block.offsets) > self._runs_max:
            half = len(block.offsets) // 2
            self._blocks.insert(number + 1, _Block(block.offsets[half:], block.sizes[half:]))
            self._blocks[number] = _Block(block.offsets[:half], block.sizes[:half])
