"""Pieces of a cut batch get one type, or exactly the rows of another kind are to blame."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.batches import Blame
from sidecar.piece_types import PieceColumns, settle_types

Y = ("m", "y")
LISTS = pa.list_(pa.int64())
TRIPLES = pa.list_(pa.float64(), 3)


def pieces_of(*arrays: pa.Array) -> list[PieceColumns]:
    begins = np.cumsum([0, *map(len, arrays)]).tolist()
    return [PieceColumns(begin, len(array), {Y: array}) for begin, array in zip(begins, arrays, strict=False)]


def settled(
    *arrays: pa.Array, known: pa.DataType | None = None, blamed: frozenset[int] = frozenset()
) -> tuple[list[Any], list[pa.DataType], set[int]]:
    """The rows that are left, the types of the pieces that have any, and the rows to blame."""
    pieces = pieces_of(*arrays)
    found = settle_types(pieces, blamed, {Y: known} if known else {})
    assert not blamed & found.keys()
    gone = blamed | found.keys()
    values, types = [], []
    for piece in pieces:
        kept = [row for row in range(piece.rows) if piece.begin + row not in gone]
        values += piece.columns[Y].take(pa.array(kept, pa.int64())).to_pylist()
        types += [piece.columns[Y].type] if kept else []
    return values, types, set(found)


TEXTS = pa.array(["a", "b", "c"])


@pytest.mark.parametrize(
    "odd",
    [
        pa.array([5]),
        pa.array([5, 6]),
        pa.array([2.5]),
        pa.array([True]),
        pa.array([b"abc"]),
        pa.array([[1, 2]]),
        pa.array([["a"], ["b"]]),
        pa.array([[]]),
        pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2)),
        pa.array([{"a": 1}]),
        pa.array([0], pa.timestamp("s")),
    ],
)
@pytest.mark.parametrize("known", [None, pa.string()])
def test_rows_of_another_kind_are_to_blame_wherever_they_are(odd: pa.Array, known: pa.DataType | None) -> None:
    string, n = pa.string(), len(odd)
    assert settled(TEXTS, odd, known=known) == (["a", "b", "c"], [string], set(range(3, 3 + n)))
    around = {*range(n), *range(n + 6, 2 * n + 6)}
    assert settled(odd, TEXTS, TEXTS, odd, known=known) == (["a", "b", "c"] * 2, [string] * 2, around)


def test_truth_values_are_numbers_but_not_in_lists() -> None:
    assert settled(pa.array([1, 2]), pa.array([True])) == ([1, 2, 1], [pa.int64()] * 2, set())
    assert settled(pa.array([[1], [2]]), pa.array([[True]])) == ([[1], [2]], [LISTS], {2})


def test_the_blame_says_both_types_and_whose_output_it_is() -> None:
    found = settle_types(pieces_of(TEXTS, pa.array([5])), (), {})
    assert found == {3: Blame("m", "WrongType", "output 'y' is int64 for this row; it is string for the others")}


def test_the_rows_before_say_which_type_is_wanted_and_else_most_rows_do() -> None:
    numbers = pa.array([1, 2, 3])
    assert settled(numbers, pa.array(["a"])) == ([1, 2, 3], [pa.int64()], {3})
    assert settled(numbers, pa.array(["a"]), known=pa.string()) == (["a"], [pa.string()], {0, 1, 2})
    assert settled(numbers, pa.array(["a", "b"]), pa.array([2.5]), pa.array(["c"]))[2] == {3, 4, 6}


def test_rows_that_are_rejected_anyway_have_no_voice() -> None:
    gone = frozenset({0, 1})
    assert settled(pa.array([1, 2, 3]), pa.array(["a", "b"]), blamed=gone) == (["a", "b"], [pa.string()], {2})
    # Where all of a piece are rejected, what it held doesn't matter.
    assert settled(pa.array([1, 2]), pa.array(["a"]), blamed=gone) == (["a"], [pa.string()], set())


def test_nulls_and_empty_lists_beside_odd_values_are_kept_where_they_fit() -> None:
    assert settled(TEXTS, pa.array([None, 5])) == (["a", "b", "c", None], [pa.string()] * 2, {4})
    assert settled(TEXTS, pa.array([None, []])) == (["a", "b", "c", None], [pa.string()] * 2, {4})
    of_texts, odd = pa.array([["a"]] * 4), pa.array([[], None, [None], [5]])
    assert settled(of_texts, odd) == ([["a"]] * 4 + [[], None, [None]], [of_texts.type] * 2, {7})
    assert settled(pa.array([[[1]], [[2]]]), pa.array([[], [5]]))[2] == {3}
    assert settled(pa.array([[{"a": 1}]] * 2), pa.array([[[]]]))[2] == {2}


def test_nothing_but_nulls_waits_for_other_batches() -> None:
    nulls = pa.nulls(2)
    assert settled(nulls, TEXTS) == ([None, None, "a", "b", "c"], [pa.null(), pa.string()], set())
    assert settled(nulls, pa.array([[]])) == ([None, None, []], [pa.null(), pa.list_(pa.null())], set())


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (pa.array([1, None]), pa.array([2.5])),
        (pa.array([True]), pa.array([2])),
        (pa.array([1], pa.int8()), pa.array([2], pa.int32())),
        (pa.array([[1], [], None]), pa.array([[2.5]])),
        (pa.array([[[]]]), pa.array([[[2.5]]])),
        (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), pa.array([[3]])),
    ],
)
def test_numbers_are_widened_as_in_one_batch(narrow: pa.Array, wide: pa.Array) -> None:
    values = narrow.to_pylist() + wide.to_pylist()
    for known in (None, wide.type):
        assert settled(narrow, wide, known=known) == (values, [wide.type] * 2, set())


def test_a_number_that_would_change_by_widening_is_to_blame_alone() -> None:
    assert settled(pa.array([2.5]), pa.array([3, 2**60 + 1])) == ([2.5, 3.0], [pa.float64()] * 2, {2})


@pytest.mark.parametrize(
    ("known", "arrays"),
    [
        (pa.int64(), [pa.array([1, 2]), pa.array([2.5])]),  # the stage is to cast them
        (TRIPLES, [pa.array([[1.0, 2.0, 3.0]], TRIPLES), pa.array([[1.0]], pa.list_(pa.float64(), 1))]),
        (None, [pa.array([[1.0]], pa.list_(pa.float64(), 1)), pa.array([[1.0] * 3] * 2, TRIPLES)]),
        (TRIPLES, [pa.array([[1.0, 2.0, 3.0]], TRIPLES), pa.array([[1.0], []])]),
        (pa.timestamp("s"), [pa.array([0], pa.timestamp("s")), pa.array([0], pa.timestamp("ms"))]),
        (pa.string(), [pa.array([1, 2]), pa.array([3])]),  # all of the batch
        (pa.string(), [pa.array([1, 2]), pa.array([3.5])]),
    ],
)
def test_what_contradicts_but_is_no_row_s_fault_stays(known: pa.DataType | None, arrays: list[pa.Array]) -> None:
    values, types, found = settled(*arrays, known=known)
    assert (values, types, found) == ([v for a in arrays for v in a.to_pylist()], [a.type for a in arrays], set())


def test_a_batch_of_nothing_but_odd_kinds_is_rejected_where_they_differ() -> None:
    assert settled(pa.array([1]), pa.array([b"a"]), known=pa.string())[2] == {0, 1}


KINDS = {
    "text": TEXTS,
    "bytes": pa.array([b"a"]),
    "number": pa.array([1, 2]),
    "list": pa.array([[1]]),
    "null": pa.nulls(2),
}


@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=8), st.sampled_from([None, "text", "list"]))
def test_every_row_is_kept_with_its_value_or_blamed_and_one_type_is_left(names: list[str], before: str | None) -> None:
    known = KINDS[before].type if before else None
    values, types, found = settled(*(KINDS[name] for name in names), known=known)
    rows = [(name, value) for name in names for value in KINDS[name].to_pylist()]
    assert values == [value for row, (_, value) in enumerate(rows) if row not in found]
    assert len({kind for kind in types if not pa.types.is_null(kind)}) <= 1
    assert {rows[row][0] for row in found}.isdisjoint({"null", before})


def test_each_output_is_settled_by_itself() -> None:
    columns = [{Y: TEXTS, ("k", "z"): pa.array([1, 2, 3])}, {Y: pa.array([5]), ("k", "z"): pa.array(["d"])}]
    pieces = [PieceColumns(3 * i, len(each[Y]), each) for i, each in enumerate(columns)]
    assert {row: blame.stage for row, blame in settle_types(pieces, (), {}).items()} == {3: "m"}
    assert pieces[1].columns[Y].type == pa.string()
    assert pieces[1].columns["k", "z"].type == pa.int64()
    assert settle_types([], (), {}) == {}
