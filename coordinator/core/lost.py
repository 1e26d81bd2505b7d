"""About how many rows are lost in parts of the input that nobody can count, for the budget of rejects.

A file whose footer can't be read is planned as one row, the end of a damaged Arrow stream as one row more, and a range
of bytes counts as one (docs/decisions/0013): so they are accounted for. The budget counts them by their bytes.

Not here: what is listed as corrupt (`headrace.dataset.CorruptUnits`), when the budget is spent (`coordinator.jobs`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from headrace.dataset import CorruptUnits, Dataset


@dataclass(frozen=True, slots=True)
class Lost:
    """Parts of the input that can't be counted, each of which stands as one row in `RowCounts.corrupt`."""

    parts: int = 0  # files; of text, ranges
    nbytes: int = 0

    def __add__(self, other: "Lost") -> "Lost":
        return Lost(self.parts + other.parts, self.nbytes + other.nbytes)

    def __sub__(self, other: "Lost") -> "Lost":
        return Lost(self.parts - other.parts, self.nbytes - other.nbytes)

    def rows(self, rows_per_byte: float) -> int:
        """About how many rows they held: at least one each."""
        return max(self.parts, round(self.nbytes * rows_per_byte))


NOTHING_LOST = Lost()


class Losses:
    """Tells, from the plan alone, what of a job's corrupt ranges can't be counted."""

    def __init__(self, dataset: Dataset, *, may_end_early: bool) -> None:
        """With `may_end_early` a file's last row may stand for all that follows the others: an Arrow stream's."""
        self._dataset = dataset
        self._may_end_early = may_end_early

    @cached_property
    def planned_rows_per_byte(self) -> float:
        """The mean of the files that are planned with more than one row; 0.0 where none is, or units aren't rows.

        A file with one row may be one that can't be read, so it tells nothing.
        """
        if self._dataset.unit != "row":
            return 0.0
        units = np.diff(self._dataset.origins)
        is_counted = units > 1
        return int(units[is_counted].sum()) / max(int(self._dataset.sizes[is_counted].sum()), 1)

    def of(self, ranges: Sequence[CorruptUnits]) -> Lost:
        """What `ranges`, which are disjoint, have lost that can't be counted."""
        match self._dataset.unit:
            case "byte":
                return Lost(len(ranges), sum(found.end - found.begin for found in ranges))
            case "row":
                return sum(map(self._of_rows, ranges), NOTHING_LOST)
        return NOTHING_LOST

    def _of_rows(self, found: CorruptUnits) -> Lost:
        lost = NOTHING_LOST
        for part in self._dataset.slices(found.begin, found.end):
            is_last_row = part.begin == part.units - 1
            if is_last_row and (part.units == 1 or self._may_end_early):
                before = part.begin / self.planned_rows_per_byte if part.begin else 0
                lost += Lost(1, max(0, part.size - round(before)))
        return lost
