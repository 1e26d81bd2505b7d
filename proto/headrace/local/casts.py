"""Which casts between dtypes can change a value: one rule for planning, conversion and predictors.

dtypes are numpy names of `columns.DTYPES`; text ("utf8", "binary") is never cast.
"""

from typing import Iterable, Optional

_MANTISSA_BITS = {"float16": 11, "float32": 24, "float64": 53}
_STACKABLE = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
)  # fmt: skip
"""From the narrowest: the first that holds all columns without loss is what they are stacked to."""


def _family(dtype: str) -> str:
    return dtype.split("[", maxsplit=1)[0].rstrip("0123456789") if dtype[:4] not in ("date", "time") else dtype[:4]


def _bits(dtype: str) -> int:
    return int(dtype.lstrip("abcdefghijklmnopqrstuvwxyz"))


def is_number(dtype: str) -> bool:
    """Whether `dtype` is a boolean, an integer or a float."""
    return dtype in _STACKABLE


def is_lossless(source: str, target: str) -> bool:
    """Whether no value of `source` changes in `target`; unlike numpy's "safe", int64 to float64 is not."""
    if source == target:
        return True
    if not is_number(source) or not is_number(target) or target == "bool":
        return False
    if source == "bool":
        return True
    families = _family(source), _family(target)
    if families[1] == "float":
        if families[0] == "float":
            return _bits(source) <= _bits(target)
        return _bits(source) - (families[0] == "int") <= _MANTISSA_BITS[target]
    if families[0] == families[1]:
        return _bits(source) <= _bits(target)
    return families == ("uint", "int") and _bits(source) < _bits(target)


def is_castable(source: str, target: str) -> bool:
    """Whether a job may ask for this cast at all, at the price of rounding or of rejected rows."""
    if is_number(source):
        return is_number(target) or _family(source) in ("int", "uint")
    if _family(source) in ("date", "time"):
        return _family(source) == _family(target) or target in ("int64", "uint64")
    return source == target


def common_dtype(dtypes: Iterable[str]) -> Optional[str]:
    """The narrowest dtype that holds all of `dtypes` without loss, None if there is none."""
    distinct = set(dtypes)
    if len(distinct) == 1:
        return distinct.pop()
    return next((to for to in _STACKABLE if all(is_lossless(dtype, to) for dtype in distinct)), None)
