"""Pending shards without an object for each: planned ones wait behind a cursor, others in a heap.

Not here: the states themselves (`columns`); an entry whose shard is no longer PENDING is skipped.
"""

import heapq

import numpy as np

from coordinator.core.columns import ShardColumns
from headrace.words import ShardId, ShardState


class PendingShards:
    """Finds the pending shard that begins first. Planned shards lie in dataset order, those made by splits anywhere."""

    def __init__(self, columns: ShardColumns) -> None:
        """All shards of `columns` are planned ones."""
        self.cursor = 0  # planned shards from here on were never granted, unless their state says so
        self._planned = columns.count
        self._columns = columns
        self._returned: list[tuple[int, int]] = []  # heap of (begin, shard)

    def add(self, shard: ShardId) -> None:
        """The shard is pending (again)."""
        if shard < self.cursor or shard >= self._planned:
            heapq.heappush(self._returned, (self._columns.begins[shard], shard))

    def note_granted(self, shard: ShardId) -> None:
        """The shard is leased."""
        if shard == self.cursor:
            self.cursor += 1

    def first(self) -> ShardId | None:
        """The pending shard that begins first; None if there is none."""
        columns, returned = self._columns, self._returned
        while self.cursor < self._planned and columns.states[self.cursor] != ShardState.PENDING:
            self.cursor += 1
        while returned and columns.states[returned[0][1]] != ShardState.PENDING:
            heapq.heappop(returned)
        if self.cursor < self._planned and (not returned or columns.begins[self.cursor] <= returned[0][0]):
            return ShardId(self.cursor)
        return ShardId(returned[0][1]) if returned else None

    def rebuild(self) -> None:
        """Finds the pending shards that the cursor has passed, or that splits made; drops entries that are skipped."""
        states, begins = self._columns.array("states"), self._columns.begins
        passed = np.flatnonzero(states[: self.cursor] == ShardState.PENDING)
        splits = np.flatnonzero(states[self._planned :] == ShardState.PENDING) + self._planned
        self._returned = [(begins[i], i) for i in (*passed.tolist(), *splits.tolist())]
        heapq.heapify(self._returned)
