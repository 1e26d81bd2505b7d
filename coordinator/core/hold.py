"""How much a worker may hold: about one interval of its work beyond what it is doing, less near the end of the job.

Not here: which shard it gets (`leases`).
"""

from dataclasses import dataclass
from typing import Final

SHARD_S: Final = 10.0
"""Work of one grant once the rate is known: seconds lost if a worker dies, against the cost of a file and a commit."""
_SHARD_S_MIN: Final = 0.5  # near the end: below this, a shard's own costs (open, encode, commit) are what is measured
# The first two grants are a sixteenth of a worker's share each: its rate is known early, a worker at a fifth of the
# mean speed isn't late by them, and row groups are rarely cut for it (each part would decode the whole group).
_FIRST_SHARE: Final = 16
_LEASES_FIRST: Final = 2  # reading the second overlaps writing the first
_LEASES_MAX: Final = 32  # shards that can't be cut to size: a message of the worker stays small


@dataclass(frozen=True, slots=True)
class Grantable:
    """One grant that may be made now."""

    units_max: int  # take about as much of the pending shard's front


def next_grant(
    *,
    rate: float | None,
    units_held: int,
    leases_held: int,
    units_pending: int,
    units_min: int,
    workers: int,
    interval_s: float,
) -> Grantable | None:
    """Whether the worker may have one more lease, and of what size; ask again after each grant.

    Args:
        rate: units/s measured for this worker; None: not yet known.
        units_held: units of its leases that it hasn't read yet.
        leases_held: how many leases those are.
        units_pending: units of the job that nobody works on.
        units_min: a grant below isn't worth its costs (`planner.Sizes`).
        workers: that share what is pending, this one included.
        interval_s: between its exchanges with the coordinator.
    """
    if units_pending <= 0:
        # An empty dataset's one shard has no units.
        return Grantable(units_min) if leases_held == 0 else None
    share = units_pending / max(workers, 1)
    if rate is None or rate <= 0:
        if leases_held >= _LEASES_FIRST:
            return None
        return Grantable(max(units_min, int(share / _FIRST_SHARE)))
    # Twice the interval: what it is doing, and what it does when that is done before its next exchange.
    wanted = min(2 * rate * interval_s, max(share, rate * interval_s))
    if leases_held >= _LEASES_MAX or (leases_held >= _LEASES_FIRST and units_held >= wanted):
        return None
    # Half of the share: then what any worker holds at the end is small beside what was left when it took it.
    aim = min(rate * SHARD_S, share / 2)
    return Grantable(int(max(aim, units_min, rate * _SHARD_S_MIN, 1)))
