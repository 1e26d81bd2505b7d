"""How often workers come by and how long they may be silent, so that all of them together keep one core free.

A call costs the coordinator a millisecond of CPU. A small fleet gets short times, so that what is lost is soon seen; a
large one comes by as rarely as it must, and its leases last as much longer.

Not here: who waits for how long (`coordinator.worker_desk`), what the worker makes of it (its own terms).
"""

from typing import Final

HEARTBEAT_S: Final = 1.0
EXCHANGES_MAX: Final = 300.0
"""Heartbeats per second of a whole fleet; grants and commits come on top."""
IDLE_S: Final = 0.1
"""When a worker without work asks again: another's split or the end may be near."""
LEASE_BEATS: Final = 3.0
"""Heartbeats that a lease outlives: one may be lost and the next late."""


def heartbeat_s(workers: int) -> float:
    """Between two calls of a worker that has work."""
    return max(HEARTBEAT_S, workers / EXCHANGES_MAX)


def idle_s(workers: int) -> float:
    """Between two calls of a worker that has none."""
    return max(IDLE_S, workers / EXCHANGES_MAX)


def lease_ttl_s(workers: int, least_s: float) -> float:
    """How long a lease lasts without a call, `least_s` at least."""
    return max(least_s, LEASE_BEATS * heartbeat_s(workers))
