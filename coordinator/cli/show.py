"""Answers as a table for people, or JSON or YAML for machines, from one plain value; and how they are printed.

A reader that goes away (``| head``) ends a command that only answers, as it ends any tool; work goes on without it.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from coordinator.cli.interrupted import ReaderGone
from headrace.errors import HeadraceError


def say(text: str) -> None:
    """Prints an answer to stdout.

    Raises:
        ReaderGone: nobody reads it.
        HeadraceError: it can't be written, such as to a full disk.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest at its exit
        if isinstance(error, BrokenPipeError):
            raise ReaderGone("Nobody reads stdout any more.") from error
        raise HeadraceError(f"The answer can't be written to stdout: {error.strerror}.") from error


def say_if_heard(text: str) -> None:
    """As `say`, for a command whose work doesn't end with its reader: when that has gone, nothing is printed."""
    with suppress(ReaderGone):
        say(text)


def warn(text: str) -> None:
    """Prints to stderr, if anybody reads that."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def show(plain: Any, output: str, lines: Callable[[Any], list[str]]) -> None:
    """Prints `plain` in the form that -o names; `lines` makes the table's lines of it."""
    say(text_of(plain, output, lines))


def text_of(plain: Any, output: str, lines: Callable[[Any], list[str]]) -> str:
    """`plain` in the form that -o names."""
    if output == "json":
        return json.dumps(plain, ensure_ascii=False, indent=2)
    if output == "yaml":
        import yaml

        text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        return text.rstrip("\n")
    return "\n".join(lines(plain))


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
