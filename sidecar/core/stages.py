"""One stage's queue and predictors: which piece that waits goes to which predictor next.

Oldest first, and never to the predictor that has just failed on it while another may take it. A stage that fails and of
which nothing has come through gets its pieces in the order of `StageFailures.rank`.

Not here: when a piece may be queued, and what it reads (`pipeline`).
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sidecar.core.batches import Blame, Piece, StageWiring
from sidecar.core.failures import StageFailures
from sidecar.core.sizes import OutputSize

CREDITS = 2
"""Pieces a predictor may hold: one it executes, one to go on with."""

Entry = tuple[tuple[int, int], int]
"""(age, piece)"""


@dataclass(slots=True, eq=False)
class Flight:
    """What the pipeline knows of a live piece besides the piece."""

    piece: Piece
    undone: set[str]
    busy: set[str] = field(default_factory=set)  # stages executing it now
    blame: Blame | None = None  # cut it, or reject its only row, once no stage is busy with it


@dataclass(slots=True, eq=False)
class Predictor:
    """What a predictor holds."""

    pieces: list[int] = field(default_factory=list)  # in the order sent; the first is being executed
    blocked: bool = False  # keeps a result that doesn't fit
    ending: bool = False  # was told to
    doubted: bool = False  # ... without being guilty of what it was executing
    failed_in_row: int = 0  # pieces on which the stage raised, since its last result

    @property
    def is_free(self) -> bool:
        """It may be sent a piece."""
        return len(self.pieces) < CREDITS and not self.blocked and not self.ending


@dataclass(slots=True, eq=False)
class Stage:
    """One stage of the graph."""

    wiring: StageWiring
    failures: StageFailures
    size: OutputSize = field(default_factory=OutputSize)
    predictors: dict[int, Predictor] = field(default_factory=dict)
    ready: list[Entry] = field(default_factory=list)  # a heap; a piece that has ended or run meanwhile stays in it

    def queue(self, piece: Piece) -> None:
        """A piece can run now; it may be told twice."""
        entry = (piece.age, piece.number)
        if entry not in self.ready:
            heapq.heappush(self.ready, entry)

    def waiting(self, flights: Mapping[int, Flight]) -> int:
        """Pieces that wait for a predictor."""
        return sum(number in flights for _, number in self.ready)

    def assign(self, flights: Mapping[int, Flight]) -> Iterator[tuple[int, Piece]]:
        """Gives pieces to predictors until there are no more of either; (predictor, piece) each."""
        name = self.wiring.name
        kept = []  # their turn comes when another predictor is free than the one that failed on them
        while self.ready:
            free = [number for number, predictor in self.predictors.items() if predictor.is_free]
            if not free:
                break
            entry = self._next(flights)
            flight = flights.get(entry[1])
            if flight is None or name in flight.busy or name not in flight.undone:
                continue  # ended or cut since it was queued
            piece = flight.piece
            failed_on = piece.failed_on(name)
            others = [number for number in free if number != failed_on]
            if not others and self._may_move(failed_on):
                kept.append(entry)
                continue
            predictor = min(others or free, key=lambda number: len(self.predictors[number].pieces))
            self.predictors[predictor].pieces.append(piece.number)
            flight.busy.add(name)
            yield predictor, piece
        for entry in kept:
            heapq.heappush(self.ready, entry)

    def _may_move(self, failed_on: int | None) -> bool:
        return any(not p.blocked for number, p in self.predictors.items() if number != failed_on)

    def _next(self, flights: Mapping[int, Flight]) -> Entry:
        if not self.failures.is_suspect:
            return heapq.heappop(self.ready)

        def rank(entry: Entry) -> tuple[tuple[int, int], tuple[int, int]]:
            flight = flights.get(entry[1])
            if flight is None:  # dropped as soon as it is looked at
                return ((0, 0), entry[0])
            return (self.failures.rank(flight.piece.rows, is_whole=flight.piece.is_whole), entry[0])

        entry = min(self.ready, key=rank)
        self.ready.remove(entry)
        heapq.heapify(self.ready)
        return entry
