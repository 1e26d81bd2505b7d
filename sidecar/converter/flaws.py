"""What is wrong with single rows: collected while a block is read, the first flaw of a row counts."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

NULL_VALUE = "NullValue"
WRONG_SHAPE = "WrongShape"
OUT_OF_RANGE = "ValueOutOfRange"

Rows = npt.NDArray[np.int64]
"""Row numbers within a record batch."""


@dataclass(frozen=True, slots=True)
class BadValue:
    """Why a row can't be converted; `kind` is the class word of its reject, `message` a sentence for the user."""

    column: str
    kind: str
    message: str


@dataclass(slots=True)
class Flaws:
    """Flaws of one column of one record batch, by row number."""

    found: dict[int, BadValue] = field(default_factory=dict)

    @property
    def rows(self) -> Rows:
        """The flawed rows, in order of being found."""
        return np.fromiter(self.found, np.int64, len(self.found))

    def add(self, rows: Rows, column: str, kind: str, message: str) -> None:
        """Marks `rows` (may repeat) as bad for one reason."""
        flaw = BadValue(column, kind, message)
        for row in np.unique(rows).tolist():
            self.found.setdefault(row, flaw)

    def add_one(self, row: int, column: str, kind: str, message: str) -> None:
        """Marks one row as bad."""
        self.found.setdefault(row, BadValue(column, kind, message))
