"""Which incarnation of each worker is its last: the one before must never come back.

A worker's incarnations are random words, so only the ledger knows their order: each is journaled when it is seated. One
that is known and isn't the last has a successor, whatever this coordinator's own life has seen. One that is unknown has
never been answered, so it holds nothing, and takes the seat.

Not here: what becomes of the leases of the one before (`leases.LeaseTable.register`).
"""

from coordinator.core.facts import Fact, WorkerSeated
from headrace.words import Incarnation, WorkerName


class Roster:
    """The incarnations of each worker that were ever seated, in order."""

    def __init__(self) -> None:
        self._seated: dict[WorkerName, list[Incarnation]] = {}

    def has_successor(self, worker: WorkerName, incarnation: Incarnation) -> bool:
        """Whether a newer incarnation was seated: this one may do nothing more."""
        seated = self._seated.get(worker, [])
        return incarnation in seated[:-1]

    def seat(self, worker: WorkerName, incarnation: Incarnation) -> list[Fact]:
        """The incarnation is its worker's last from now on; [] if it is already. It must have no successor."""
        assert not self.has_successor(worker, incarnation), f"{incarnation} of {worker} has a successor"
        if incarnation in self._seated.get(worker, ()):
            return []
        fact = WorkerSeated(worker, incarnation)
        self.apply(fact)
        return [fact]

    def apply(self, fact: WorkerSeated) -> None:
        """Takes a fact that was journaled."""
        self._seated.setdefault(fact.worker, []).append(fact.incarnation)
