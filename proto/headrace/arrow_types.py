"""Arrow types as text: what `str(type)` writes, and the short names that users write in `csv.types`."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

_SHORT: Mapping[str, Callable[[], Any]] = {
    "str": pa.string,
    "text": pa.string,
    "int": pa.int64,
    "boolean": pa.bool_,
    "date": pa.date32,
    "bytes": pa.binary,
    "timestamp": lambda: pa.timestamp("us"),
    "datetime": lambda: pa.timestamp("us"),
}
_DECIMAL = re.compile(r"decimal(?:128)?\((\d+), ?(-?\d+)\)")
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns), ?tz=([^\]]+)\]")


def type_from_text(text: str) -> pa.DataType:
    """The Arrow type that `text` names, e.g. ``int32``, ``double``, ``timestamp[us, tz=UTC]``, ``decimal128(10, 2)``.

    As in Arrow, ``float`` is 32 bits wide and ``double`` 64.

    Raises:
        ValueError: it names none that text can be read as.
    """
    name = text.strip()
    if name in _SHORT:
        return _SHORT[name]()
    if match := _DECIMAL.fullmatch(name):
        return pa.decimal128(int(match[1]), int(match[2]))
    if match := _TIMESTAMP.fullmatch(name):
        return pa.timestamp(match[1], tz=match[2])
    try:
        return pa.type_for_alias(name)
    except ValueError as error:
        raise ValueError(f"no Arrow type is named {text!r}") from error
