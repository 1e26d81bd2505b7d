"""The source's `filter`: a Python-like expression over columns, as a tree that travels as JSON.

``lang == 'en' and (stars >= 4 or verified) and text is not null``: comparisons (also chained), ``and``, ``or``,
``not``, ``in``, ``not in``, ``is null``, ``is not null``; literals are strings, numbers, ``true``, ``false``. A column
whose name is no Python name is written ``col('unit price')``. Nulls are SQL's: a comparison with null is neither true
nor false, and only rows for which the whole is true are kept.

Text is read with `ast` and never evaluated. Not here: where filters are applied (`sidecar.reader`).
"""

import ast
import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, assert_never

from headrace.errors import BadJob, Fault

Value = str | int | float | bool

_OPERATORS: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NEGATED = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le}
_KERNELS = {
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_EXAMPLE = "write it like: lang == 'en' and (stars >= 4 or note is null)"


@dataclass(frozen=True, slots=True)
class Column:
    """A column's value; on its own it must be boolean."""

    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant, never null."""

    value: Value


@dataclass(frozen=True, slots=True)
class Compare:
    """``left op right`` with op one of ``== != < <= > >=``."""

    op: str
    left: "Column | Literal"
    right: "Column | Literal"


@dataclass(frozen=True, slots=True)
class In:
    """``column in (values)``; null if the column is."""

    column: Column
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class IsNull:
    """``column is null``; never null itself."""

    column: Column


@dataclass(frozen=True, slots=True)
class Not:
    """``not part``."""

    part: "Expression"


@dataclass(frozen=True, slots=True)
class And:
    """All of `parts`, at least two."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of `parts`, at least two."""

    parts: tuple["Expression", ...]


Expression = Column | Literal | Compare | In | IsNull | Not | And | Or


@dataclass(frozen=True, slots=True)
class ColumnRange:
    """What a file says about one column of a range of rows: bounds (not always reached) and nulls, None if unknown."""

    low: Any
    high: Any
    nulls: int | None
    rows: int
    is_float: bool  # bounds say nothing about NaN


# ---------------------------------------------------------------- text and JSON


def parse_filter(text: str, field: str = "spec.source.filter") -> Expression:
    """Reads a filter as the user writes it.

    Raises:
        BadJob: it is not such an expression; the fault's field is `field`.
    """
    text = " ".join(text.split("\n")).strip()  # a YAML block may span lines
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        at = f" at character {error.offset}" if error.offset else ""
        raise BadJob([Fault(field, f"{text!r} is not an expression: {error.msg}{at}", _EXAMPLE)]) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadJob([Fault(field, f"not an expression: {error}", _EXAMPLE)]) from error
    try:
        return _Reader(text, field).condition(tree.body)
    except RecursionError as error:
        raise BadJob([Fault(field, "the expression is nested too deeply", _EXAMPLE)]) from error


class _Reader:
    """From Python's syntax tree to ours; everything not named here is refused."""

    def __init__(self, text: str, field: str) -> None:
        self._text = text
        self._field = field

    def condition(self, node: ast.expr) -> Expression:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return And(tuple(self.condition(value) for value in values))
            case ast.BoolOp(values=values):
                return Or(tuple(self.condition(value) for value in values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Not(self.condition(operand))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                operands = [left, *comparators]
                links = [self._link(op, operands[i], operands[i + 1], node) for i, op in enumerate(ops)]
                return links[0] if len(links) == 1 else And(tuple(links))
            case _:
                value = self._operand(node)
                if isinstance(value, Literal) and not isinstance(value.value, bool):
                    raise self._fault(node, "is a constant, not a condition", "compare a column with it")
                return value

    def _link(self, op: ast.cmpop, left: ast.expr, right: ast.expr, whole: ast.expr) -> Expression:
        if isinstance(op, ast.Is | ast.IsNot):
            if not _is_null(right):
                raise self._fault(whole, "`is` compares with null only", "use == for other values")
            test = IsNull(self._column(left))
            return Not(test) if isinstance(op, ast.IsNot) else test
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List | ast.Set):
                raise self._fault(right, "is not a list of values", "write: lang in ('en', 'de')")
            values = [self._operand(item) for item in right.elts]
            if not all(isinstance(value, Literal) for value in values):
                raise self._fault(right, "holds something that is no constant", "name constants only")
            within = In(self._column(left), tuple(value.value for value in values if isinstance(value, Literal)))
            return Not(within) if isinstance(op, ast.NotIn) else within
        compare = Compare(_OPERATORS[type(op)], self._operand(left), self._operand(right))
        if isinstance(compare.left, Literal) and isinstance(compare.right, Literal):
            raise self._fault(whole, "compares two constants", "name a column on one side")
        return compare

    def _column(self, node: ast.expr) -> Column:
        operand = self._operand(node)
        if not isinstance(operand, Column):
            raise self._fault(node, "is no column", "name a column on the left")
        return operand

    def _operand(self, node: ast.expr) -> Column | Literal:
        match node:
            case ast.Name(id=name) if name in ("true", "false"):
                return Literal(name == "true")
            case ast.Name(id=name) if name != "null":
                return Column(name)
            case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str(name))], keywords=[]):
                return Column(name)
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return Literal(value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if not isinstance(
                value, bool
            ):
                return Literal(-value)
            case _ if _is_null(node):
                raise self._fault(node, "can't be compared", "use `is null` or `is not null`")
            case _:
                raise self._fault(node, "is not supported here", _EXAMPLE)

    def _fault(self, node: ast.expr, found: str, expected: str) -> BadJob:
        part = ast.get_source_segment(self._text, node) or self._text
        return BadJob([Fault(self._field, f"`{part}` {found}", expected)])


def _is_null(node: ast.expr) -> bool:
    match node:
        case ast.Name(id="null") | ast.Constant(value=None):
            return True
        case _:
            return False


def filter_to_json(expression: Expression) -> str:
    """JSON text from which `filter_from_json` makes an equal expression."""
    return json.dumps(_plain(expression), ensure_ascii=False, separators=(",", ":"))


def _plain(expression: Expression) -> list[Any]:
    match expression:
        case Column(name):
            return ["column", name]
        case Literal(value):
            return ["literal", value]
        case Compare(op, left, right):
            return [op, _plain(left), _plain(right)]
        case In(column, values):
            return ["in", _plain(column), list(values)]
        case IsNull(column):
            return ["null", _plain(column)]
        case Not(part):
            return ["not", _plain(part)]
        case And(parts):
            return ["and", *(_plain(part) for part in parts)]
        case Or(parts):
            return ["or", *(_plain(part) for part in parts)]
        case _:
            assert_never(expression)


def filter_from_json(text: str) -> Expression:
    """Reads what `filter_to_json` wrote.

    Raises:
        ValueError: it is something else.
    """
    return _expression(json.loads(text))


def _expression(plain: Any) -> Expression:
    match plain:
        case ["column", str(name)]:
            return Column(name)
        case ["literal", str() | int() | float() as value]:
            return Literal(value)
        case [str(op), left, right] if op in _KERNELS:
            return Compare(op, _side(left), _side(right))
        case ["in", ["column", str(name)], list(values)]:
            return In(Column(name), tuple(values))
        case ["null", ["column", str(name)]]:
            return IsNull(Column(name))
        case ["not", part]:
            return Not(_expression(part))
        case ["and", *parts] if len(parts) > 1:
            return And(tuple(_expression(part) for part in parts))
        case ["or", *parts] if len(parts) > 1:
            return Or(tuple(_expression(part) for part in parts))
        case _:
            raise ValueError(f"not a filter expression: {plain!r}")


def _side(plain: Any) -> Column | Literal:
    side = _expression(plain)
    if not isinstance(side, Column | Literal):
        raise ValueError(f"not a column or a literal: {plain!r}")
    return side


def columns_used(expression: Expression) -> tuple[str, ...]:
    """Names of the columns that the expression reads, each once, in order of appearance."""
    names: dict[str, None] = {}
    todo: list[Expression] = [expression]
    while todo:
        match todo.pop():
            case Column(name):
                names[name] = None
            case Literal():
                pass
            case Compare(_, left, right):
                todo += [right, left]
            case In(column, _) | IsNull(column):
                todo.append(column)
            case Not(part):
                todo.append(part)
            case And(parts) | Or(parts):
                todo += reversed(parts)
    return tuple(names)


# ---------------------------------------------------------------- over Arrow data


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
    except (pa.ArrowException, TypeError) as error:
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


def _evaluate(expression: Expression, rows: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    match expression:
        case Column(name):
            column = rows.column(name)
            return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
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
