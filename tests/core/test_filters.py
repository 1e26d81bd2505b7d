"""The filter language: text to tree to JSON and back, masks over rows, and pruning by statistics."""

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import BadJob
from headrace.filter_rows import ColumnRange, can_match, filter_faults, filter_mask
from headrace.filters import (
    And,
    Column,
    Compare,
    Expression,
    In,
    IsNull,
    Literal,
    Not,
    Or,
    columns_used,
    filter_from_json,
    filter_to_json,
    parse_filter,
)

ROWS = pa.record_batch(
    {
        "a": pa.array([1, 2, None], pa.int64()),
        "s": ["x", "y", None],
        "day": pa.array(["2026-01-01", "2026-02-01", None]).cast(pa.date32()),
        "ok": [True, False, None],
        "f": pa.array([0.5, math.nan, None], pa.float32()),
        "word": pa.array(["p", "q", None]).dictionary_encode(),
    }
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a == 1", [0]),
        ("a != 1", [1]),
        ("a > 1 or s == 'x'", [0, 1]),
        ("not a == 1", [1]),
        ("a in (1, 2.5)", [0]),
        ("a not in [1]", [1]),
        ("s in ('y', 'z')", [1]),
        ("day >= '2026-01-15'", [1]),
        ("day in ('2026-01-01',)", [0]),
        ("ok", [0]),
        ("not ok", [1]),
        ("ok == true", [0]),
        ("a is null", [2]),
        ("a is not None and s is not null", [0, 1]),
        ("0 < a < 2", [0]),
        ("1 == a", [0]),
        ("a > -1", [0, 1]),
        ("col('a') == 1", [0]),
        ("word == 'q'", [1]),
        ("f != 7", [0, 1]),
        ("true", [0, 1, 2]),
        ("false", []),
        ("a == 1 or\n a == 2", [0, 1]),
        ("a == 9 and a is null", []),
    ],
)
def test_only_rows_for_which_the_whole_is_true_are_kept(text: str, kept: list[int]) -> None:
    mask = filter_mask(parse_filter(text), ROWS)
    assert mask.null_count == 0
    assert [i for i, keep in enumerate(mask.to_pylist()) if keep] == kept


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1", "not an expression"),
        ("", "not an expression"),
        ("a ==", "not an expression"),
        ("a + 1 == 2", "`a + 1` is not supported"),
        ("a == null", "use `is null`"),
        ("1 == 1", "two constants"),
        ("a in s", "not a list of values"),
        ("a in (s,)", "no constant"),
        ("1 in (1, 2)", "is no column"),
        ("__import__('os')", "is not supported"),
        ("a.b == 1", "`a.b` is not supported"),
        ("a is 3", "compares with null only"),
        ("3", "not a condition"),
        ("a in (1, null)", "use `is null`"),
        ("(" * 300 + "a" + ")" * 300, "not an expression"),
    ],
)
def test_text_that_is_no_filter_is_refused_and_says_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(BadJob) as caught:
        parse_filter(text)
    (fault,) = caught.value.faults
    assert fault.field == "spec.source.filter"
    assert said in str(fault)
    assert fault.expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("aa == 1", "did you mean 'a'?"),
        ("zzz == 1 and yyy", "no column 'zzz'"),
        ("s > 1", "can't be computed"),
        ("a", "is no condition"),
        ("not a", "is no condition"),
        ("a == 1 and s", "is no condition"),
        ("day == 'soon'", "can't be computed"),
    ],
)
def test_a_filter_that_does_not_fit_the_columns_is_found_before_any_row_is_read(text: str, said: str) -> None:
    assert said in "\n".join(map(str, filter_faults(parse_filter(text), ROWS.schema)))


def test_a_filter_that_fits_has_no_faults() -> None:
    assert filter_faults(parse_filter("a == 1 and day > '2020-01-01'"), ROWS.schema) == []


def test_columns_used_are_named_once_in_order() -> None:
    assert columns_used(parse_filter("b > 1 and (a in (1,) or not b < c) and d is null")) == ("b", "a", "c", "d")


def test_what_is_no_filter_in_json_is_refused() -> None:
    with pytest.raises(ValueError, match="not a filter expression"):
        filter_from_json('["eval", "1"]')


NUMBERS = st.one_of(st.integers(-4, 4), st.sampled_from([-0.5, 1.5]))
COLUMNS = st.sampled_from([Column("x"), Column("y")])
CONDITIONS = st.one_of(
    st.builds(Compare, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), COLUMNS, st.builds(Literal, NUMBERS)),
    st.builds(Compare, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), st.builds(Literal, NUMBERS), COLUMNS),
    st.builds(In, COLUMNS, st.lists(NUMBERS, max_size=3).map(tuple)),
    st.builds(IsNull, COLUMNS),
)
EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_an_expression_survives_json(expression: Expression) -> None:
    assert filter_from_json(filter_to_json(expression)) == expression


VALUES = st.lists(st.one_of(st.none(), st.integers(-4, 4)), min_size=1, max_size=5)
FLOATS = st.lists(st.one_of(st.none(), st.just(math.nan), st.sampled_from([-1.5, 0.0, 2.0])), min_size=1, max_size=5)


@given(EXPRESSIONS, VALUES, FLOATS)
def test_statistics_never_drop_a_range_with_a_row_that_is_kept(
    expression: Expression, xs: list[int | None], ys: list[float | None]
) -> None:
    rows = min(len(xs), len(ys))
    batch = pa.record_batch({"x": pa.array(xs[:rows], pa.int64()), "y": pa.array(ys[:rows], pa.float64())})
    ranges = {"x": _range(xs[:rows], is_float=False), "y": _range(ys[:rows], is_float=True)}
    if filter_mask(expression, batch).true_count:
        assert can_match(expression, ranges.get)


def _range(values: list[int | None] | list[float | None], *, is_float: bool) -> ColumnRange:
    known = [value for value in values if value is not None and not math.isnan(value)]
    nulls = sum(value is None for value in values)
    return ColumnRange(min(known, default=None), max(known, default=None), nulls, len(values), is_float)


@pytest.mark.parametrize("text", ["not y < 11", "y != 1", "not y == 1", "not (y <= 20 and y is not null)"])
def test_bounds_prove_nothing_about_nan(text: str) -> None:
    batch = pa.record_batch({"y": [1.0, math.nan]})
    assert filter_mask(parse_filter(text), batch).to_pylist() == [False, True]
    assert can_match(parse_filter(text), {"y": ColumnRange(1.0, 1.0, 0, 2, is_float=True)}.get)


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("x == 5", True),
        ("x == 11", False),
        ("x > 10", False),
        ("x >= 10", True),
        ("1 > x", False),
        ("not x < 11", False),
        ("x in (20, 30)", False),
        ("x is null", False),
        ("x == 11 or z == 1", True),
        ("x == 11 and z == 1", False),
        ("x == 'text'", True),
    ],
)
def test_statistics_rule_out_what_they_can(text: str, may: bool) -> None:
    ranges = {"x": ColumnRange(1, 10, 0, 100, is_float=False)}
    assert can_match(parse_filter(text), ranges.get) is may
