"""Hive keys: ``dt=2026-11-21`` folders of a path as columns of the files below."""

from collections.abc import Mapping
from urllib.parse import unquote

NULL = "__HIVE_DEFAULT_PARTITION__"
"""How Hive, Spark and pyarrow spell null in a path."""


def hive_keys(path: str) -> Mapping[str, str | None]:
    """The keys of a file's folders with their texts, outermost first; the last one wins where a key comes twice."""
    if "=" not in path:
        return {}
    keys: dict[str, str | None] = {}
    for folder in path.split("/")[:-1]:
        key, equals, value = folder.partition("=")
        if key and equals:
            keys[unquote(key)] = None if value == NULL else unquote(value)
    return keys


def is_integer(text: str) -> bool:
    """Whether an int64 says the same as `text`: ``7`` does, ``07`` (a month, a postcode) does not."""
    digits = text.removeprefix("-")
    plain = digits.isascii() and digits.isdigit() and len(digits) <= 18
    return plain and ((digits == "0" and text == "0") or not digits.startswith("0"))
