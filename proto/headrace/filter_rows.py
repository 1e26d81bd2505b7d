"""Filters over Arrow rows, and over what a file's statistics say of rows that were not read yet.

Not here: the language (`headrace.filters`). pyarrow.compute is imported only where a job has a filter.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, assert_never

from headrace.errors import Fault
from headrace.filters import And, Column, Compare, Expression, In, IsNull, Literal, Not, Or, Value, columns_used

_KERNELS = {
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NEGATED = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le}


@dataclass(frozen=True, slots=True)
class ColumnRange:
    """What a file says about one column of a range of rows: bounds (not always reached) and nulls, None if unknown."""

    low: Any
    high: Any
    nulls: int | None
    rows: int
    is_float: bool  # bounds say nothing about NaN


def filter_faults(expression: Expression, schema: Any, field: str = "spec.source.filter") -> list[Fault]:
    """What is wrong with a filter over rows of a ``pa.Schema``: unknown columns, types that don't compare."""
    import pyarrow as pa

    known = list(schema.names)
    faults = []
    for name in columns_used(expression):
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "columns are: " + ", ".join(known[:20])
            faults.append(Fault(field, f"there is no column {name!r}", hint))
    if faults:
        return faults
    used = list(columns_used(expression))
    empty = pa.RecordBatch.from_arrays(
        [pa.nulls(0, schema.field(name).type) for name in used], schema=pa.schema([schema.field(name) for name in used])
    )
    try:
        filter_mask(expression, empty)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        types = ", ".join(f"{name}: {schema.field(name).type}" for name in used)
        text = str(error).splitlines()[0]
        faults.append(Fault(field, f"can't be computed: {text}", f"the columns' types are {types}"))
    return faults


def filter_mask(expression: Expression, rows: Any) -> Any:
    """Which rows of a ``pa.RecordBatch`` are kept: a ``pa.BooleanArray`` without nulls.

    Raises:
        pa.ArrowException: a type that can't be compared so; `filter_faults` finds that before any row is read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = _evaluate(expression, rows)
    if isinstance(mask, pa.Scalar):
        return pa.repeat(mask, rows.num_rows)
    if not pa.types.is_boolean(mask.type):
        raise pa.ArrowTypeError(f"a column of type {mask.type} is no condition")
    return pc.fill_null(mask, False)


_PLAIN = {"string_view": "string", "binary_view": "binary"}


def _evaluate(expression: Expression, rows: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    match expression:
        case Column(name):
            column = rows.column(name)
            if pa.types.is_dictionary(column.type):
                return column.dictionary_decode()
            # Arrow has no comparisons of views.
            return column.cast(_PLAIN[str(column.type)]) if str(column.type) in _PLAIN else column
        case Literal(value):
            return pa.scalar(value)
        case Compare(op, left, right):
            one, other = _evaluate(left, rows), _evaluate(right, rows)
            return pc.call_function(_KERNELS[op], [_like(one, other), _like(other, one)])
        case In(column, values):
            data = _evaluate(column, rows)
            among = pa.array(values)
            try:
                among = among.cast(data.type)  # texts become dates; 2.5 among integers can't, and isn't cut to 2
            except pa.ArrowInvalid:
                data = data.cast(among.type)
            return pc.if_else(pc.is_null(data), pa.scalar(None, pa.bool_()), pc.is_in(data, value_set=among))
        case IsNull(column):
            return pc.is_null(_evaluate(column, rows))
        case Not(part):
            return pc.invert(_boolean(part, rows))
        case And(parts) | Or(parts):
            combine = pc.and_kleene if isinstance(expression, And) else pc.or_kleene
            whole = _boolean(parts[0], rows)
            for part in parts[1:]:
                whole = combine(whole, _boolean(part, rows))
            return whole
        case _:
            assert_never(expression)


def _boolean(part: Expression, rows: Any) -> Any:
    import pyarrow as pa

    value = _evaluate(part, rows)
    if not pa.types.is_boolean(value.type):
        raise pa.ArrowTypeError(f"a column of type {value.type} is no condition")
    return value


def _like(value: Any, other: Any) -> Any:
    """A text literal beside a date, time or number is read as one of those, so that days compare as days."""
    import pyarrow as pa

    is_text = isinstance(value, pa.Scalar) and pa.types.is_string(value.type)
    if is_text and (pa.types.is_temporal(other.type) or pa.types.is_decimal(other.type)):
        return value.cast(other.type)
    return value


# ---------------------------------------------------------------- over statistics


def can_match(expression: Expression, ranges: Callable[[str], ColumnRange | None]) -> bool:
    """False only if no row of a range can be kept, by what the file says about its columns (None: nothing)."""
    return _possible(expression, True, ranges)


def _possible(expression: Expression, wanted: bool, ranges: Callable[[str], ColumnRange | None]) -> bool:
    """Whether some row may make the expression `wanted`; True where in doubt."""
    match expression:
        case Not(part):
            return _possible(part, not wanted, ranges)
        case And(parts) | Or(parts):
            every = isinstance(expression, And) == wanted
            return (all if every else any)(_possible(part, wanted, ranges) for part in parts)
        case Compare(op, Column(name), Literal(value)):
            return _compare_possible(op, value, wanted, ranges(name))
        case Compare(op, Literal(value), Column(name)):
            return _compare_possible(_MIRRORED[op], value, wanted, ranges(name))
        case In(Column(name), values) if wanted:
            return any(_compare_possible("==", value, True, ranges(name)) for value in values)
        case IsNull(Column(name)):
            known = ranges(name)
            if known is None or known.nulls is None:
                return True
            return known.nulls > 0 if wanted else known.nulls < known.rows
        case Literal(value):
            return bool(value) == wanted
        case _:
            return True


def _compare_possible(op: str, value: Value, wanted: bool, known: ColumnRange | None) -> bool:
    if known is None:
        return True
    if known.nulls is not None and known.nulls == known.rows:
        return False
    # `x != 1` is true of NaN, and so is `not x < 1`: bounds that leave NaN out prove nothing about either.
    if known.low is None or known.high is None or (known.is_float and not wanted):
        return True
    op = op if wanted else _NEGATED[op]
    try:
        match op:
            case "==":
                return bool(known.low <= value <= known.high)
            case "<" | "<=":
                return _COMPARE[op](known.low, value)
            case ">" | ">=":
                return _COMPARE[_MIRRORED[op]](value, known.high)
            case _:
                return True
    except TypeError:  # a date beside a text: only Arrow can tell
        return True
