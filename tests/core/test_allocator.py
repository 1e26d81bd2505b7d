"""The arena's arithmetic against the plainest first fit there is."""

import random
from time import thread_time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from headrace.local.arena import Allocator
from headrace.local.columns import aligned

SIZE = 64 * 400


class Naive:
    """One flag per 64 bytes."""

    def __init__(self, size: int) -> None:
        self.taken = [False] * (size // 64)

    def runs(self) -> list[tuple[int, int]]:
        """Free runs as (first, length)."""
        found = []
        begin = None
        for place, taken in enumerate([*self.taken, True]):
            if not taken and begin is None:
                begin = place
            elif taken and begin is not None:
                found.append((begin, place - begin))
                begin = None
        return found

    def allocate(self, nbytes: int) -> int | None:
        need = aligned(max(nbytes, 1)) // 64
        for begin, length in self.runs():
            if length >= need:
                self.taken[begin : begin + need] = [True] * need
                return begin * 64
        return None

    def free(self, offset: int, nbytes: int) -> None:
        need = aligned(max(nbytes, 1)) // 64
        self.taken[offset // 64 : offset // 64 + need] = [False] * need


class AllocatorAgainstNaive(RuleBasedStateMachine):
    regions = Bundle("regions")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator(SIZE, runs_max=4)  # so that short histories cut and empty blocks
        self.naive = Naive(SIZE)

    @rule(target=regions, nbytes=st.one_of(st.integers(0, 200), st.integers(0, SIZE)))
    def allocate(self, nbytes: int) -> tuple[int, int] | None:
        offset = self.allocator.allocate(nbytes)
        assert offset == self.naive.allocate(nbytes)
        return None if offset is None else (offset, nbytes)

    @rule(region=consumes(regions))
    def free(self, region: tuple[int, int] | None) -> None:
        if region is not None:
            self.allocator.free(region[0])
            self.naive.free(*region)

    @invariant()
    def agrees(self) -> None:
        assert self.allocator.used == 64 * sum(self.naive.taken)
        largest = 64 * max((length for _, length in self.naive.runs()), default=0)
        assert self.allocator.allocate(largest + 1) is None


TestAllocatorAgainstNaive = AllocatorAgainstNaive.TestCase
TestAllocatorAgainstNaive.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("runs_max", [4, 64])
def test_long_random_histories_agree_with_the_naive_model(runs_max: int) -> None:
    draw = random.Random(runs_max)
    allocator, naive = Allocator(SIZE, runs_max), Naive(SIZE)
    live: list[tuple[int, int]] = []
    for _ in range(4000):
        if live and draw.random() < 0.5:
            region = live.pop(draw.randrange(len(live)))
            allocator.free(region[0])
            naive.free(*region)
        else:
            nbytes = draw.choice([1, 64, 65, 128, 300])
            offset = allocator.allocate(nbytes)
            assert offset == naive.allocate(nbytes)
            if offset is not None:
                live.append((offset, nbytes))
        assert allocator.used == 64 * sum(naive.taken)
    for offset, _ in live:
        allocator.free(offset)
    assert (allocator.used, allocator.allocate(SIZE)) == (0, 0)


def test_a_region_freed_twice_is_an_error() -> None:
    allocator = Allocator(1 << 12)
    offset = allocator.allocate(10)
    assert offset == 0
    allocator.free(offset)
    with pytest.raises(KeyError):
        allocator.free(offset)


def test_a_full_arena_gives_nothing_and_then_what_was_freed() -> None:
    allocator = Allocator(64 * 3)
    assert [allocator.allocate(64) for _ in range(4)] == [0, 64, 128, None]
    allocator.free(64)
    assert allocator.allocate(1) == 64


@pytest.mark.parametrize("size", [0, -64, 100])
def test_an_arena_has_a_positive_aligned_size(size: int) -> None:
    with pytest.raises(ValueError):
        Allocator(size)


def test_thousands_of_live_regions_and_holes_cost_no_scan() -> None:
    allocator = Allocator(64 * 40_000)
    offsets = [allocator.allocate(64) for _ in range(40_000)]
    for offset in offsets[::4]:
        allocator.free(offset)  # 10,000 holes that are too small
    assert allocator.allocate(128) is None
    allocator.free(offsets[-2])
    allocator.free(offsets[-3])
    begin = thread_time()
    for _ in range(500):
        offset = allocator.allocate(128)
        assert offset is not None
        allocator.free(offset)
    # About 15 µs each; a scan of 10,000 holes takes more than a millisecond.
    assert thread_time() - begin < 0.25
