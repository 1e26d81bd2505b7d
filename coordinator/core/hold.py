"""How much a worker may hold: about one interval of its work beyond what it is doing, less near the end of the job.

Not here: which shard it gets (`leases`).
"""

from dataclasses import dataclass
from typing import Final

SHARD_S: Final = 10.0
"""Work of one grant once the rate is known: seconds lost if a worker dies, against the cost of a file and a commit."""
_SHARD_S_MIN: Final = 0.5  # near the end: below this, a shard's own costs (open, encode, commit) are what is measured
_FIRST_SHARE: Final = 512
"""Before its rate is known, a worker gets two grants of this part of its share: one that is ten times slower than the
others, and can't give back what it has read, is then late by a few percent of the job."""
# For the sake of the smallest size, nor more than this part of the share, nor less than this part of that size: the
# model may be slow, and the job small.
_FIRST_SHARE_MOST: Final = 32
_FIRST_SHARE_ALONE: Final = 16  # nobody waits for it; row groups are rarely cut (each part would decode the whole)
_LEASES_FIRST: Final = 2  # reading the second overlaps writing the first
_LEASES_MAX: Final = 32  # shards that can't be cut to size: a message of the worker stays small


@dataclass(frozen=True, slots=True)
class Grantable:
    """One grant that may be made now."""

    units_max: int  # take about as much of the pending shard's front


def next_grant(
    *,
    rate: float | None,
    units_held: float,
    leases_held: int,
    units_pending: int,
    units_min: int,
    workers: int,
    interval_s: float,
    fleet_rate: float | None = None,
) -> Grantable | None:
    """Whether the worker may have one more lease, and of what size; ask again after each grant.

    Args:
        rate: units/s measured for this worker; None: not yet known.
        units_held: units of its leases that aren't through all stages yet.
        leases_held: how many leases those are.
        units_pending: units of the job that nobody works on.
        units_min: a grant below isn't worth its costs, unless its work is known to take long (`planner.Sizes`).
        workers: that share what is pending, this one included.
        interval_s: between its exchanges with the coordinator.
        fleet_rate: units/s of the whole job; None: not yet known.
    """
    if units_pending <= 0:
        # An empty dataset's one shard has no units.
        return Grantable(units_min) if leases_held == 0 else None
    share = units_pending / max(workers, 1)
    if rate is None or rate <= 0:
        if leases_held >= _LEASES_FIRST:
            return None
        if workers <= 1:
            return Grantable(max(units_min, int(share / _FIRST_SHARE_ALONE)))
        least = min(units_min, max(share / _FIRST_SHARE_MOST, units_min / _FIRST_SHARE_MOST))
        return Grantable(int(max(share / _FIRST_SHARE, least, 1)))
    if fleet_rate:
        # Of what is pending, a slow worker's share lasts as long as a fast one's.
        share = units_pending * min(1.0, rate / fleet_rate)
    # Twice the interval: what it is doing, and what it does when that is done before its next exchange.
    wanted = min(2 * rate * interval_s, max(share, rate * interval_s))
    if leases_held >= _LEASES_MAX or (leases_held >= _LEASES_FIRST and units_held >= wanted):
        return None
    # Half of the share: then what any worker holds at the end is small beside what was left when it took it.
    aim = min(rate * SHARD_S, share / 2)
    return Grantable(int(max(aim, rate * _SHARD_S_MIN, 1)))
