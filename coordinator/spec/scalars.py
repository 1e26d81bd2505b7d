"""Small values that a job file writes as text: durations, sizes, shares, "auto"."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from headrace.uris import credentials_hint, has_credentials

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS_BYTES = {
    "": 1,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T|)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def parse_duration(value: object) -> float:
    """Seconds of a text such as ``30s``, ``1h30m`` or ``500ms``.

    Raises:
        ValueError: the text is none; a bare number is refused because its unit would be a guess.
    """
    if isinstance(value, str) and value and _DURATION.sub("", value) == "":
        return sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION.findall(value))
    raise ValueError("expected a duration with its unit, such as 30s, 10m or 1h30m")


def parse_size(value: object) -> int:
    """Bytes of a number or of a text such as ``512Mi``.

    Raises:
        ValueError: the text is no size, or it isn't positive.
    """
    found = _SIZE.fullmatch(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    size = round(float(found[1]) * _UNITS_BYTES[found[2]]) if found else 0
    if size < 1:
        raise ValueError("expected a size such as 512Mi or 2Gi, or auto")
    return size


@dataclass(frozen=True, slots=True)
class RejectBudget:
    """How many rows may be rejected before the job fails: exactly one of the two is set."""

    rows: int | None
    share: float | None  # of the rows read, 0 to 1

    def __str__(self) -> str:
        return str(self.rows) if self.share is None else f"{self.share * 100:.10g}%"


def parse_budget(value: object) -> RejectBudget:
    """A budget of ``100`` (rows) or ``0.1%`` (of the rows read).

    Raises:
        ValueError: neither a row count nor a percentage between 0 and 100.
    """
    if isinstance(value, RejectBudget):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return RejectBudget(value, None)
    if isinstance(value, str):
        if value.isdecimal():
            return RejectBudget(int(value), None)
        found = _PERCENT.fullmatch(value)
        if found and float(found[1]) <= 100:
            return RejectBudget(None, float(found[1]) / 100)
    raise ValueError("expected rows, such as 100, or a share, such as 0.1%")


CREDENTIALS = "credentials"
"""Pydantic's word for the error of `plain_url`, whose value is not shown."""


def plain_url(value: str) -> str:
    """A URL or path as it is.

    Raises:
        PydanticCustomError: a user name or password stands in it.
    """
    if has_credentials(value):
        raise PydanticCustomError(CREDENTIALS, "{hint}", {"hint": credentials_hint(value)})
    return value


def _auto_count(value: object) -> int | None:
    if value is None or value == "auto":
        return None
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("expected a whole number of at least 1, or auto")
    return value


def _auto_size(value: object) -> int | None:
    return None if value is None or value == "auto" else parse_size(value)


def _auto_duration(value: object) -> float | None:
    return None if value is None or value == "auto" else _duration(value)


def _duration(value: object) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("expected a duration above zero, such as 30s")
    return seconds


def _or_auto(value: Any) -> Any:
    return "auto" if value is None else value


def _seconds(value: float | None) -> str:
    return "auto" if value is None else f"{value:.10g}s"


def _strings(value: object) -> object:
    return [value] if isinstance(value, str) else value


_DURATION_SCHEMA = {"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$", "examples": ["30s", "1h30m"]}

Duration = Annotated[float, BeforeValidator(_duration), PlainSerializer(_seconds), WithJsonSchema(_DURATION_SCHEMA)]
"""Seconds, above zero."""

AutoDuration = Annotated[
    float | None,
    BeforeValidator(_auto_duration),
    PlainSerializer(_seconds),
    WithJsonSchema({"anyOf": [{"const": "auto"}, _DURATION_SCHEMA]}),
]
"""Seconds; None is auto."""

AutoCount = Annotated[
    int | None,
    BeforeValidator(_auto_count),
    PlainSerializer(_or_auto),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
]
"""A count of at least 1; None is auto."""

AutoSize = Annotated[
    int | None,
    BeforeValidator(_auto_size),
    PlainSerializer(_or_auto),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "examples": ["auto", "512Mi"]}]}),
]
"""Bytes; None is auto."""

Budget = Annotated[
    RejectBudget,
    BeforeValidator(parse_budget),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"}]}),
]

Strings = Annotated[
    list[str],
    BeforeValidator(_strings),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""A text or a list of texts; always a list here."""
