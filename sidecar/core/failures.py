"""What becomes of a piece on which a stage fails: another try, smaller pieces, a rejected row, or the end of the job.

Rules:

* A whole batch, and in the end a single row, is tried on a second predictor before it counts as failed: the first one
  may have been killed from outside, or be broken itself. The pieces between them are cut at once; an innocent one
  only comes through in parts.
* An exception is tried again only where there is another predictor to try.
* Where there is no other predictor, a row that fails at the end of a long run of failures is tried once more by a fresh
  one: after some errors (of a GPU, of memory) a process fails on everything. Each time that was of no use, the run that
  it takes doubles.
* A stage of which nothing has ever come through on this worker is *unproven*. Once it fails, few pieces show whether
  anything will: its failing pieces are cut so that a row in their middle stands alone, single rows go first, then a few
  more whole batches, then parts, the largest first. When so many single rows have failed that no more bad ones than the
  job's budget allows would hardly explain it, the model has failed, not its input.
* The right number of rows for each part of a piece, but not for the whole: then no row is to blame. The stage looks at
  its rows together (it aggregates, drops duplicates), so what it gives for single rows means something else.

Not here: how a piece is cut (`pieces`), which piece runs when (`pipeline`).
"""

from dataclasses import dataclass

TRIES = 2
"""Predictors on which a whole batch or a single row fails before that counts."""
SAMPLES_MIN = 3
"""Single rows that must have failed before a model is given up, however small the budget, and whole batches where there
are as many."""
CHANCE_MAX = 1e-6
"""Of giving up a model for bad rows that the budget allows, if they are spread at random."""
DOUBT_AFTER = 16
"""Pieces in a row, more than lead from a batch to one bad row in it."""
SHARE_OF_FEW = 0.5
"""Stands for the budget's share while too few rows were seen for it to count."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Rejects that the job allows (errors.maxRejected)."""

    rows: int | None = None
    share: float | None = None  # of the rows read
    min_rows: int = 0  # read before the share counts


class StageFailures:
    """One stage on this worker."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._samples = 0  # single rows that failed
        self._batches_failed = 0  # whole ones
        self._rows_failed = 0  # of these
        self._doubt_after = DOUBT_AFTER
        self.is_proven = False
        self._is_given_up = False

    def tries_again(self, rows: int, tries: int, *, is_whole: bool, can_move: bool) -> bool:
        """Whether a piece that has failed is tried again as it is; if not, it is cut, or its only row is rejected.

        Args:
            rows: of the piece.
            tries: how many predictors have failed on it.
            is_whole: the piece is a batch as it was admitted.
            can_move: another try would be made by another predictor.
        """
        if tries < TRIES and can_move and (is_whole or rows == 1):
            return True
        if is_whole:
            self._batches_failed += 1
            self._rows_failed += rows
        self._samples += rows == 1
        return False

    def came_through(self) -> None:
        """The stage gave a result for a piece."""
        self.is_proven = True
        self._doubt_after = DOUBT_AFTER

    def doubts(self, failed_in_row: int) -> bool:
        """Whether a predictor that has failed on so many pieces in a row may be broken; then it is replaced."""
        if not self.is_proven or failed_in_row < self._doubt_after:
            return False
        self._doubt_after *= 2
        return True

    def give_up(self) -> bool:
        """Whether the model has failed; True once."""
        if self.is_proven or self._is_given_up or self._samples < SAMPLES_MIN:
            return False
        self._is_given_up = self._allowed_share() ** self._samples <= CHANCE_MAX
        return self._is_given_up

    def _allowed_share(self) -> float:
        if self._budget.rows is not None:
            return min(1.0, self._budget.rows / max(self._rows_failed, 1))
        share = 1.0 if self._budget.share is None else self._budget.share
        return share if self._rows_failed >= self._budget.min_rows else max(share, SHARE_OF_FEW)

    @property
    def is_suspect(self) -> bool:
        """The stage has failed and nothing has ever come through it: `rank` says which piece it gets next."""
        return not self.is_proven and self._batches_failed > 0

    def rank(self, rows: int, *, is_whole: bool) -> tuple[int, int]:
        """Orders the pieces that wait for a suspect stage, the next one first."""
        if rows == 1:
            return (0, 0)
        if is_whole:
            return (1 if self._batches_failed < SAMPLES_MIN else 3, 0)
        return (2, -rows)

    def cuts(self, rows: int) -> list[tuple[int, int]]:
        """Where to cut a piece of `rows` rows, 2 at least: the parts as ``[low, high)``."""
        middle = rows // 2
        if self.is_proven or rows == 2:
            return [(0, middle), (middle, rows)]
        return [(0, middle), (middle, middle + 1), (middle + 1, rows)]


@dataclass(slots=True, eq=False)
class Trial:
    """The parts of a piece for which `stage` gave a wrong number of rows."""

    stage: str
    message: str
    parts: int
    passed: int = 0

    def part_passed(self) -> bool:
        """One part came through; says whether all have, so that no row is to blame."""
        self.passed += 1
        return self.passed == self.parts
