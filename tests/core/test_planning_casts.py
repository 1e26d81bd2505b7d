"""A cast that the job doesn't ask for changes no value; any other one could."""

import itertools

import numpy as np
import pytest

from headrace.local.casts import common_dtype, is_castable, is_lossless, is_number
from headrace.local.columns import DTYPES

NUMBERS = [dtype for dtype in DTYPES if is_number(dtype)]


def extremes(dtype: str) -> np.ndarray:
    """Values of a dtype that a narrower one can't hold: its bounds and their neighbours."""
    if dtype == "bool":
        return np.array([False, True])
    if dtype.startswith("float"):
        info = np.finfo(dtype)
        return np.array([info.max, info.min, info.tiny, info.smallest_subnormal, 1 + info.eps, 0.5], dtype)
    bounds = np.iinfo(dtype)
    return np.array([bounds.min, bounds.max, bounds.max - 1, min(2**53 + 1, bounds.max), 1, 0], dtype)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(NUMBERS, NUMBERS)))
def test_a_cast_is_lossless_exactly_if_the_extremes_come_back(source: str, target: str) -> None:
    values = extremes(source)
    with np.errstate(all="ignore"):
        there = values.astype(target)
        # Compared as Python's own numbers, which are exact: numpy would compare int64 with float64 as floats.
        survives = all(a == b for a, b in zip(values.tolist(), there.tolist(), strict=True))
    assert is_lossless(source, target) == survives
    assert is_castable(source, target)


def test_times_are_only_cast_to_times_and_whole_numbers() -> None:
    times = [dtype for dtype in DTYPES if dtype.startswith("datetime")]
    assert {target for target in DTYPES if is_castable("datetime64[us]", target)} == {*times, "int64", "uint64"}
    assert {target for target in DTYPES if is_lossless("datetime64[us]", target)} == {"datetime64[us]"}
    assert {source for source in NUMBERS if not is_castable(source, "datetime64[s]")} == {
        "bool", "float16", "float32", "float64",
    }  # fmt: skip
    assert not is_castable("utf8", "int64")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_common_dtype_holds_all_and_nothing_narrower_does(count: int) -> None:
    for dtypes in itertools.combinations(NUMBERS, count):
        common = common_dtype(dtypes)
        holding = [dtype for dtype in NUMBERS if all(is_lossless(source, dtype) for source in dtypes)]
        assert (common in holding) if holding else common is None
        if common:
            assert not any(is_lossless(other, common) and other != common for other in holding)
