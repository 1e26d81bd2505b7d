"""The order of a lease's output against a naive model: rows in input order, whatever is dropped and comes again."""

from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.order import OutputOrder, Place


@dataclass
class Rows:
    """Rows ``[begin, end)`` that are on their way in one batch."""

    begin: int
    end: int


@dataclass
class Refeed:
    """What is left to start again of a reopened place."""

    place: Place
    begin: int
    end: int


@dataclass
class World:
    random: Random
    order: OutputOrder = field(default_factory=OutputOrder)
    flying: dict[int, Rows] = field(default_factory=dict)
    done: dict[int, Rows] = field(default_factory=dict)
    refeeds: list[Refeed] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    next_batch: int = 0

    def start(self, begin: int, end: int, place: Place | None = None) -> None:
        batch, self.next_batch = self.next_batch, self.next_batch + 1
        self.flying[batch] = Rows(begin, end)
        if place is None:
            self.order.append(batch)
        else:
            self.order.append_to(place, batch)

    def step(self, drops: bool) -> None:
        if self.refeeds and self.random.random() < 0.5:
            refeed = self.random.choice(self.refeeds)
            end = min(refeed.end, refeed.begin + self.random.randint(1, 4))
            self.start(refeed.begin, end, refeed.place)
            refeed.begin = end
            if end == refeed.end:
                self.order.close(refeed.place)
                self.refeeds.remove(refeed)
        elif self.flying:
            batch = self.random.choice(list(self.flying))
            rows = self.flying.pop(batch)
            if drops and self.random.random() < 0.4:
                self.refeeds.append(Refeed(self.order.reopen(batch), rows.begin, rows.end))
            else:
                self.done[batch] = rows
        for batch in self.order.take_ready(self.done):
            rows = self.done.pop(batch)
            self.written += range(rows.begin, rows.end)


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_rows_leave_in_input_order_however_often_their_batches_are_dropped(seed: int, sizes: list[int]) -> None:
    world = World(Random(seed))
    begin = 0
    for size in sizes:
        world.start(begin, begin + size)
        begin += size
        world.step(drops=True)
        assert world.written == list(range(len(world.written)))
    for _ in range(60):
        world.step(drops=True)
        assert world.written == list(range(len(world.written)))
    while world.flying or world.refeeds:
        world.step(drops=False)
    assert world.written == list(range(begin))
    assert len(world.order) == 0


def test_a_place_that_was_closed_without_batches_holds_nobody_up() -> None:
    order = OutputOrder()
    order.append(1)
    order.append(2)
    place = order.reopen(1)
    assert order.take_ready({2}) == []
    order.close(place)
    assert order.take_ready({2}) == [2]
