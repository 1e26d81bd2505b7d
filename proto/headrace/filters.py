"""The source's `filter`: a Python-like expression over columns, as a tree that travels as JSON.

``lang == 'en' and (stars >= 4 or verified) and text is not null``: comparisons (also chained), ``and``, ``or``,
``not``, ``in``, ``not in``, ``is null``, ``is not null``; literals are strings, numbers, ``true``, ``false``. A column
whose name is no Python name is written ``col('unit price')``. Nulls are SQL's: a comparison with null is neither true
nor false, and only rows for which the whole is true are kept.

Text is read with `ast` and never evaluated. Not here: filters over rows and statistics (`headrace.filter_rows`).
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
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
        case [str(op), left, right] if op in _OPERATORS.values():
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
