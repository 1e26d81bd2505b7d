"""What is expected of a stage's output: bytes per row, learnt from its results."""

from headrace.local.columns import TENSOR, Column, aligned

FIRST_GUESS_ROW_BYTES = 64
"""Of a stage's output, before anything is known of it."""
FORGET_SHARE = 0.1
"""Of the difference to a smaller result: after twenty batches a giant one hardly counts."""
SLOT_SLACK_BYTES = 1024
"""For aligning the columns of an output."""


class OutputSize:
    """Expects the largest results of late: up at once, down slowly, so that one giant row is forgotten again."""

    def __init__(self) -> None:
        self.row_bytes: float = FIRST_GUESS_ROW_BYTES

    def learn(self, row_bytes: float) -> None:
        """A result took so many bytes per row."""
        self.row_bytes = max(row_bytes, self.row_bytes + FORGET_SHARE * (row_bytes - self.row_bytes))

    def slot_bytes(self, rows: int) -> int:
        """For the output of `rows` rows."""
        return aligned(int(self.row_bytes * rows) + SLOT_SLACK_BYTES)


def column_bytes(column: Column) -> int:
    """What a column takes of its region."""
    nbytes = aligned(column.nbytes)
    if column.kind != TENSOR:
        nbytes += aligned(column.data_nbytes)
    if column.validity_offset >= 0:
        nbytes += aligned(column.rows)
    return nbytes
