"""Answers as a table for people, or JSON or YAML for machines, from one plain value."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def show(plain: Any, output: str, lines: Callable[[Any], list[str]]) -> None:
    """Prints `plain` in the form that -o names; `lines` makes the table's lines of it."""
    if output == "json":
        print(json.dumps(plain, ensure_ascii=False, indent=2))
    elif output == "yaml":
        import yaml

        print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), end="")
    else:
        print("\n".join(lines(plain)))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Aligned lines with a head, one per row; numbers to the right."""
    if not rows:
        return ["nothing to show"]
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    right = [all(isinstance(row.get(column), int | float) for row in rows) for column in columns]

    def joined(line: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()

    return [joined([column.upper() for column in columns]), *(joined(line) for line in cells)]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value).replace("\n", " ")
