"""Output types of the pieces of a cut batch: rows of another kind than the others are rejected, alone.

No column holds both text and a number, so a batch whose stage gives both fails and is cut; each piece then comes
through by itself, with a type of its own. Rules, for each output that the sink takes:

* The type wanted is the one of the rows before; where there are none, that of most rows of the batch. Nulls have none.
* Kinds that one column can't hold are told apart: numbers, text, bytes, times, lists of one of them. A row with a value
  of another kind than the wanted one is rejected; its null would fit.
* Within a kind a piece has the type that its rows happen to need. It is widened, as the stage's whole batch would have
  been, where no value changes.
* What else differs within a kind is no row's fault and stays: another shape (it may depend on the rows beside), numbers
  that would have to be narrowed. So does a kind that all rows of the batch have. Then the types contradict each other.

Not here: batches that came through whole, and what a contradiction costs (`sidecar.writer`); rows without any type
(`sidecar.late_types`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidecar.converter.nested import is_list
from sidecar.core.batches import Blame
from sidecar.late_types import is_open

WRONG_TYPE = "WrongType"

Output = tuple[str, str]
"""(stage, column)"""


@dataclass(slots=True, eq=False)
class PieceColumns:
    """The outputs of rows ``[begin, begin + rows)`` of a batch."""

    begin: int
    rows: int
    columns: dict[Output, pa.Array]


def settle_types(
    pieces: Sequence[PieceColumns], blamed: Collection[int], known: Mapping[Output, pa.DataType]
) -> dict[int, Blame]:
    """Gives the pieces one type for each output as far as their values allow; says which other rows are to blame.

    Args:
        pieces: all that is left of the batch; their columns are replaced. Where a row is to blame, a null is put.
        blamed: rows of the batch that are rejected anyway: their values don't count.
        known: types of the rows before, where there are any.
    """
    found: dict[int, Blame] = {}
    for output in pieces[0].columns if pieces else ():
        votes = _votes(pieces, output, blamed)
        wanted = known.get(output) or _most(votes)
        if wanted is None or _is_one_other(votes, wanted):
            continue
        for piece in pieces:
            array = piece.columns[output]
            piece.columns[output], odd = _fitted(array, wanted)
            for row in (piece.begin + number for number in odd):
                if row not in blamed:
                    message = f"output {output[1]!r} is {array.type} for this row; it is {wanted} for the others"
                    found.setdefault(row, Blame(output[0], WRONG_TYPE, message))
    return found


def _votes(pieces: Sequence[PieceColumns], output: Output, blamed: Collection[int]) -> list[tuple[pa.DataType, int]]:
    """Type and number of rows of each piece that has rows with values left."""
    votes = []
    for piece in pieces:
        array = piece.columns[output]
        valid = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False)) + piece.begin
        rows = sum(row not in blamed for row in valid.tolist())
        if rows and not is_open(array.type):
            votes.append((array.type, rows))
    return votes


def _is_one_other(votes: Sequence[tuple[pa.DataType, int]], wanted: pa.DataType) -> bool:
    """Whether all rows have one kind, which isn't the wanted type's."""
    return all(_is_same_kind(kind, votes[0][0]) and not _is_same_kind(kind, wanted) for kind, _ in votes)


def _most(votes: Sequence[tuple[pa.DataType, int]]) -> pa.DataType | None:
    """The widest type of the kind that most rows have, of the first such kind; None without any."""
    kinds: list[dict[pa.DataType, int]] = []
    for kind, rows in votes:
        same = next((group for group in kinds if _is_same_kind(next(iter(group)), kind)), None)
        if same is None:
            kinds.append(same := {})
        same[kind] = same.get(kind, 0) + rows
    if not kinds:
        return None
    group = max(kinds, key=lambda group: sum(group.values()))
    widest = (kind for kind in group if all(_widens(other, kind) for other in group))
    return next(widest, max(group, key=group.__getitem__))


def _fitted(array: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, list[int]]:
    """The array in the wanted type, or as it is where that is nobody's fault; and its rows that are to blame."""
    if array.type.equals(wanted) or pa.types.is_null(array.type):
        return array, []
    if _widens(array.type, wanted):
        try:
            return array.cast(wanted), []
        except pa.ArrowNotImplementedError:
            return array, []
        except pa.ArrowInvalid:
            pass  # some value would change
    elif _is_same_kind(array.type, wanted) and not is_open(array.type):
        return array, []
    rows = [_fitted_row(array.slice(number, 1), wanted) for number in range(len(array))]
    odd = [number for number, row in enumerate(rows) if row is None]
    return pa.concat_arrays([pa.nulls(1, wanted) if row is None else row for row in rows]), odd


def _fitted_row(row: pa.Array, wanted: pa.DataType) -> pa.Array | None:
    """One row in the wanted type; None if its value is none of that."""
    if row.null_count:
        return pa.nulls(1, wanted)
    try:
        if _widens(row.type, wanted):
            return row.cast(wanted)
        return pa.array(row.to_pylist(), wanted) if _is_empty(row, wanted) else None
    except pa.ArrowException:
        return None


def _is_empty(row: pa.Array, wanted: pa.DataType) -> bool:
    """Whether a row is lists of nothing, not nested deeper than those that are wanted."""
    while is_list(row.type):
        if not is_list(wanted):
            return False
        row, wanted = pc.list_flatten(row), wanted.value_type
    return bool(len(row) == row.null_count)


def _is_same_kind(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether one column may hold both, or might if their shapes or parameters were the same."""
    if is_list(one) and is_list(other):
        one, other = one.value_type, other.value_type
        if pa.types.is_boolean(one) != pa.types.is_boolean(other):  # within lists they are no numbers
            return bool(pa.types.is_null(one) or pa.types.is_null(other))
        return _is_same_kind(one, other)
    return bool(pa.types.is_null(one) or pa.types.is_null(other) or _kind(one) == _kind(other))


def _kind(kind: pa.DataType) -> object:
    if _is_number(kind):
        return "number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    return kind.id


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _widens(kind: pa.DataType, wider: pa.DataType) -> bool:
    """Whether values of a type are also values of a wider one, but for numbers too large for a float's digits."""
    if kind.equals(wider) or pa.types.is_null(kind):
        return True
    if is_list(kind) and is_list(wider):
        is_fixed = pa.types.is_fixed_size_list(wider)
        if is_fixed and not (pa.types.is_fixed_size_list(kind) and kind.list_size == wider.list_size):
            return False
        return _is_same_kind(kind, wider) and _widens(kind.value_type, wider.value_type)
    if not (_is_number(kind) and _is_number(wider)):
        return False
    dtype = np.dtype(wider.to_pandas_dtype())
    return bool(np.promote_types(np.dtype(kind.to_pandas_dtype()), dtype) == dtype)
