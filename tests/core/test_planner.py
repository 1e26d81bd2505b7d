"""The planner's shards: exactly the input, of sensible sizes, at sensible places."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core import planner
from headrace.dataset import Dataset

MIB = 1 << 20


def dataset(
    unit: str,
    units: list[int],
    *,
    sizes: list[int] | None = None,
    cuts: list[int] | None = None,
    divisible: bool = True,
    bytes_total: int | None = None,
) -> Dataset:
    """Files of so many units; cuts default to the files' ends."""
    origins = np.concatenate(([0], np.cumsum(np.array(units, np.int64)))).astype(np.int64)
    file_sizes = np.array(units if sizes is None else sizes, np.int64)
    return Dataset(
        unit=unit,
        paths=tuple(f"{i}" for i in range(len(units))),
        sizes=file_sizes,
        versions=("1",) * len(units),
        origins=origins,
        cuts=np.unique(origins[1:]) if cuts is None else np.array(cuts, np.int64),
        divisible=divisible,
        bytes_total=int(file_sizes.sum()) if bytes_total is None else bytes_total,
        rows_total=None,
    )


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    unit = draw(st.sampled_from(["row", "byte", "file"]))
    if unit == "file":
        sizes = draw(st.lists(st.integers(0, 600 * MIB), max_size=60))
        return dataset("file", [1] * len(sizes), sizes=sizes)
    units = draw(st.lists(st.integers(0, 10 ** draw(st.integers(1, 9))), max_size=30))
    total = sum(units)
    ends = np.cumsum(np.array(units or [0], np.int64))
    more = draw(st.lists(st.integers(1, max(total, 1)), max_size=30))
    cuts = sorted({int(e) for e in ends if e > 0} | {c for c in more if c <= total})
    return dataset(
        unit,
        units,
        cuts=cuts,
        divisible=draw(st.booleans()),
        bytes_total=draw(st.none() | st.integers(0, 10**12)),
    )


@settings(max_examples=300, deadline=None)
@given(data=datasets(), workers=st.integers(1, 50), aim_bytes=st.none() | st.integers(MIB, 64 * MIB))
def test_shards_partition_the_units_exactly(data: Dataset, workers: int, aim_bytes: int | None) -> None:
    ends = planner.cut(data, workers=workers, aim_bytes=aim_bytes)
    assert ends.dtype == np.int64
    assert ends[-1] == data.units_total
    if data.units_total:
        assert ends[0] > 0
        assert (np.diff(ends) > 0).all(), "no shard is empty"
        read = [piece for a, b in zip([0, *ends[:-1]], ends, strict=True) for piece in data.slices(int(a), int(b))]
        covered: dict[str, int] = {}
        for piece in read:
            assert piece.begin == covered.get(piece.path, 0), "files are read in order, without gaps or overlaps"
            covered[piece.path] = piece.end
        units = np.diff(data.origins).tolist()
        assert covered == {path: n for path, n in zip(data.paths, units, strict=True) if n}
    else:
        assert ends.tolist() == [0]


@settings(max_examples=200, deadline=None)
@given(data=datasets().filter(lambda data: not data.divisible), workers=st.integers(1, 20))
def test_what_is_not_divisible_is_cut_at_cuts_only(data: Dataset, workers: int) -> None:
    ends = planner.cut(data, workers=workers)
    assert set(ends.tolist()) <= {*data.cuts.tolist(), data.units_total}


@settings(max_examples=200, deadline=None)
@given(data=datasets(), workers=st.integers(1, 20))
def test_the_smallest_size_is_within_the_dataset(data: Dataset, workers: int) -> None:
    sizes = planner.sizes(data, workers=workers)
    assert 1 <= sizes.units_min <= max(data.units_total, 1)
    assert 1 <= sizes.shards <= max(data.units_total, 1)


@pytest.mark.parametrize(("workers", "shards"), [(1, 16), (2, 16), (4, 32)])
def test_the_tabular_benchmark_is_cut_between_row_groups(workers: int, shards: int) -> None:
    w1 = dataset("row", [250_000] * 16, sizes=[250_000 * 132] * 16, cuts=list(range(125_000, 4_000_001, 125_000)))
    ends = planner.cut(w1, workers=workers)
    assert len(ends) == shards
    assert (ends % 125_000 == 0).all()


@pytest.mark.parametrize("count", [0, 3])
def test_an_empty_dataset_has_one_empty_shard(count: int) -> None:
    empty = dataset("row", [0] * count, cuts=[])
    assert planner.cut(empty, workers=4).tolist() == [0]


def test_a_tiny_dataset_is_one_shard_however_many_workers() -> None:
    assert planner.cut(dataset("row", [1000], sizes=[20_000]), workers=8).tolist() == [1000]
    assert planner.cut(dataset("row", [1], sizes=[100 * MIB]), workers=8).tolist() == [1]


def test_a_hundred_thousand_tiny_files_are_tens_of_shards() -> None:
    listing = planner.cut(dataset("file", [1] * 100_000, sizes=[700] * 100_000))
    assert 50 <= len(listing) <= 60
    assert np.diff(listing, prepend=0).max() <= planner.FILES_MAX
    lines = planner.cut(dataset("byte", [700] * 100_000))
    assert 50 <= len(lines) <= 60


def test_shards_of_a_listing_follow_the_files_sizes() -> None:
    sizes = [200 * MIB] * 4 + [1] * 400
    ends = planner.cut(dataset("file", [1] * 404, sizes=sizes))
    loads = np.add.reduceat(np.array(sizes), [0, *ends[:-1].tolist()])
    assert loads.max() <= planner.AIM_BYTES_FILES
    assert np.diff(ends, prepend=0)[0] <= 2


def test_one_large_file_of_lines_is_cut_anywhere_into_shards_of_the_aim() -> None:
    ends = planner.cut(dataset("byte", [1000 * MIB]))
    shards = np.diff(ends, prepend=0)
    assert len(ends) == 32
    assert shards.max() <= planner.AIM_BYTES
    assert shards.min() >= planner.AIM_BYTES // 2


def test_each_compressed_file_is_a_shard() -> None:
    ends = planner.cut(dataset("byte", [1000 * MIB, 0, 500 * MIB, 2000 * MIB], divisible=False))
    assert ends.tolist() == [1000 * MIB, 1500 * MIB, 3500 * MIB]


def test_row_groups_far_above_the_aim_are_cut_inside() -> None:
    huge = dataset("row", [1_000_000], sizes=[2000 * MIB])
    assert len(planner.cut(huge)) == 63


def test_few_row_groups_are_cut_inside_when_workers_would_have_nothing_to_do() -> None:
    groups = dataset("row", [1_000_000], sizes=[200 * MIB], cuts=[500_000, 1_000_000])
    assert planner.cut(groups, workers=1).tolist() == [500_000, 1_000_000]
    assert len(planner.cut(groups, workers=4)) == 32


def test_more_workers_get_more_shards_but_none_below_a_megabyte() -> None:
    data = dataset("byte", [20 * MIB])
    assert len(planner.cut(data, workers=1)) == 8
    shards = np.diff(planner.cut(data, workers=100), prepend=0)
    assert shards.min() >= planner.BYTES_MIN
