"""The columns and types of an output's data files: one text for all of them, and how two such texts differ.

The text is the JSON that `headrace.arrow_types.columns_text` makes: ``[[name, type], ...]`` in the order of the file.
Equal texts are equal schemas; an empty one says that none is known.

Not here: who agrees to which schema (`leases.LeaseTable.commit`).
"""

import json
from collections.abc import Sequence
from typing import Final

_SHOWN_MAX: Final = 5
"""Columns that a message names."""


def columns_of(schema: str) -> tuple[tuple[str, str], ...]:
    """Name and type of each column; of no schema, none."""
    return tuple((name, kind) for name, kind in json.loads(schema)) if schema else ()


def schema_of(columns: Sequence[tuple[str, str]]) -> str:
    """The text from which `columns_of` makes the same columns; empty for none."""
    return json.dumps(columns, separators=(",", ":")) if columns else ""


def differences(agreed: str, found: str) -> str:
    """What differs, for people: ``column 'y' is double instead of int64, column 'z' is missing``."""
    expected, given = columns_of(agreed), columns_of(found)
    kinds, given_kinds = dict(expected), dict(given)
    told = [
        f"column {name!r} is {given_kinds[name]} instead of {kind}"
        if name in given_kinds
        else f"column {name!r} ({kind}) is missing"
        for name, kind in expected
        if given_kinds.get(name) != kind
    ]
    told += [f"column {name!r} ({kind}) is one too many" for name, kind in given if name not in kinds]
    if not told and expected != given:
        names = ", ".join(name for name, _ in given)
        return f"the columns come in the order {names} instead of {', '.join(name for name, _ in expected)}"
    more = len(told) - _SHOWN_MAX
    return ", ".join(told[:_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
