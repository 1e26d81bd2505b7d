"""Cuts a dataset into shards, from metadata alone.

A shard aims at `aim_bytes` of reading, where a file counts for some bytes more than it has, because opening it costs
time too; smaller if the workers would otherwise have fewer than eight shards each, but never below `BYTES_MIN` for
that. Shards are equal parts of that weight, with their ends moved to where cutting costs nothing (ends of row groups
and files) when such a place is near. Everything is vectorised: ten million shards are arrays, never objects.

Not here: the fronts that grants take of a shard once the rate is known (`hold`), splits (`leases`).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.core.columns import Ints
from headrace.dataset import Dataset

_MIB: Final = 1 << 20
AIM_BYTES: Final = 32 * _MIB
"""Reading of one shard: small enough to lose (some seconds of a model's work), large enough for a file of output."""
AIM_BYTES_FILES: Final = 256 * _MIB
"""As AIM_BYTES for listings of files, whose bytes (images, texts) a pipeline mostly reduces to few."""
BYTES_MIN: Final = 1 * _MIB
"""No planned shard is smaller for the sake of having more; a megabyte is read in the time that a commit takes."""
FILES_MAX: Final = 2_000
"""Files of a shard: what makes it aim_bytes if they are all empty."""
SHARDS_MAX: Final = 10_000_000
"""What the lease table holds in 1 GB."""
_SHARDS_PER_WORKER: Final = 8  # the last shard of a worker is then an eighth of its share, before any split
_FILES_MIN: Final = 32  # of a shard of a listing, for the sake of having more
_GROUP_AIMS_MAX: Final = 4  # row groups up to this many aims are not cut: each part would decode the whole group
_BLOCK: Final = 1 << 20  # shards computed at a time, so that temporaries stay small beside the result


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the shards of a dataset should be."""

    shards: int  # how many to aim for
    units_min: int  # cutting a shard into smaller parts isn't worth it


def sizes(dataset: Dataset, *, workers: int = 1, aim_bytes: int | None = None) -> Sizes:
    """What `cut` aims for.

    Args:
        dataset: as planned.
        workers: how many are expected.
        aim_bytes: reading of one shard; None: the default of the dataset's unit.
    """
    units = dataset.units_total
    if units == 0:
        return Sizes(shards=1, units_min=1)
    is_listing = dataset.unit == "file"
    aim = _aim(dataset, aim_bytes)
    files = int(np.count_nonzero(np.diff(dataset.origins))) if not is_listing else units
    read = float(dataset.sizes.sum()) if is_listing else float(max(dataset.bytes_total, 1))
    weight = read + files * aim / FILES_MAX
    wanted = workers * _SHARDS_PER_WORKER
    possible = units // _FILES_MIN if is_listing else int(weight // BYTES_MIN)
    shards = max(math.ceil(weight / aim - 1e-9), min(wanted, possible), 1)
    units_min = 1 if is_listing else max(1, int(BYTES_MIN * units / read))
    return Sizes(shards=min(shards, units, SHARDS_MAX), units_min=min(units_min, units))


def cut(dataset: Dataset, *, workers: int = 1, aim_bytes: int | None = None) -> Ints:
    """Ends of the shards, int64 ``[shards]``, strictly rising; shard i covers ``[ends[i - 1], ends[i])``, from 0 on.

    An empty dataset has one shard ``[0, 0)``, so that an empty and valid output is written. Not divisible: every end is
    one of the dataset's cuts. Arguments as `sizes`.
    """
    units = dataset.units_total
    if units == 0:
        return np.zeros(1, np.int64)
    shards = sizes(dataset, workers=workers, aim_bytes=aim_bytes).shards
    knots, weights = _weights(dataset, _aim(dataset, aim_bytes) / FILES_MAX)
    inner = np.searchsorted(dataset.cuts, (1, units))
    cuts = dataset.cuts[inner[0] : inner[1]]  # a view: a copy of all cuts is most of the planner's memory
    only_cuts = not dataset.divisible or _groups_are_kept(dataset, cuts, _aim(dataset, aim_bytes), workers)
    ends = np.empty(shards, np.int64)
    for first in range(0, shards, _BLOCK):
        block = slice(first, min(first + _BLOCK, shards))
        at = np.arange(block.start + 1, block.stop + 1) * (weights[-1] / shards)
        ideal = np.rint(np.interp(at, weights, knots)).astype(np.int64)
        ends[block] = _to_cuts(ideal, cuts, units, None if only_cuts else units / shards / 2)
    ends[-1] = units
    return _rising(ends)


def _aim(dataset: Dataset, aim_bytes: int | None) -> int:
    return aim_bytes or (AIM_BYTES_FILES if dataset.unit == "file" else AIM_BYTES)


def _weights(dataset: Dataset, file_bytes: float) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Units and the weight of all before them, as a polyline that rises strictly in both."""
    origins = dataset.origins
    if dataset.unit == "file":
        steps = dataset.sizes + file_bytes
    else:
        units = np.diff(origins)
        steps = units * (max(dataset.bytes_total, 1) / dataset.units_total) + (units > 0) * file_bytes
        origins = origins[np.concatenate(([True], units > 0))]
        steps = steps[units > 0]
    return origins, np.concatenate(([0.0], np.cumsum(steps)))


def _groups_are_kept(dataset: Dataset, cuts: Ints, aim: int, workers: int) -> bool:
    """Whether rows are cut between row groups only: these are small enough, and enough for the workers."""
    group_bytes = dataset.bytes_total / (len(cuts) + 1)
    return dataset.unit == "row" and group_bytes <= _GROUP_AIMS_MAX * aim and len(cuts) + 1 >= 2 * workers


def _to_cuts(ideal: Ints, cuts: Ints, units: int, within: float | None) -> Ints:
    """Moves each unit to the nearest cut (0 and `units` are cuts too), if it is `within`; None: wherever it is."""
    places = np.searchsorted(cuts, ideal)
    above = np.where(places < len(cuts), cuts[np.minimum(places, len(cuts) - 1)] if len(cuts) else units, units)
    below = np.where(places > 0, cuts[np.maximum(places, 1) - 1] if len(cuts) else 0, 0)
    nearest = np.where(above - ideal <= ideal - below, above, below)
    if within is None:
        return nearest
    return np.where(np.abs(nearest - ideal) <= within, nearest, ideal)


def _rising(ends: Ints) -> Ints:
    """Drops empty shards."""
    keep = np.empty(len(ends), np.bool_)
    keep[0] = ends[0] > 0
    np.greater(ends[1:], ends[:-1], out=keep[1:])
    return ends if keep.all() else ends[keep]
