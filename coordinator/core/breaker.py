"""When a job pauses whose input or output lies in a store that fails, and when it tries again.

    closed ──a lease fails for its store──▶ open until `retry_at` ──▶ PROBES leases, then open again for longer
       ▲                                                                │
       └────────────── a lease granted since then is read ──────────────┘

Nobody's attempt is spent on an outage. A shard that fails again although others were read meanwhile is charged: then it
isn't the store.
"""

from headrace.words import ShardId

FIRST_S, MAX_S = 1.0, 60.0
"""Pauses double from the first to the longest."""
PROBES = 2
"""Leases of one try: with two, one bad file doesn't keep the others from being read."""


class Breaker:
    """One job's pauses. Times are in seconds of one clock."""

    def __init__(self) -> None:
        self.is_open = False
        self.text = ""  # what the last failure said
        self.retry_at = 0.0
        self._opened_at = 0.0  # leases granted before fail of the same outage
        self._pause_s = 0.0
        self._probes = 0
        self._worked_at = float("-inf")
        self._failed_at: dict[ShardId, float] = {}

    def failed(self, shard: ShardId, granted_at: float, now: float, text: str) -> bool:
        """The lease of a shard ended for want of its input: whether that is the shard's own fault."""
        is_own = self._failed_at.get(shard, now) < self._worked_at
        self._failed_at[shard] = now
        self.text = text
        if not self.is_open:
            self.is_open = True
            self._pause_s = FIRST_S
        elif granted_at >= self._opened_at:
            self._pause_s = min(2 * self._pause_s, MAX_S)
        else:
            return is_own
        self._opened_at = now
        self.retry_at = now + self._pause_s
        self._probes = 0
        return is_own

    def worked(self, granted_at: float, now: float) -> None:
        """Input of a lease was read."""
        if not self.is_open:
            self._worked_at = now
        elif granted_at >= self._opened_at:
            self._worked_at = now
            self.is_open = False

    def allows(self, now: float) -> bool:
        """Whether one more lease may be granted."""
        return not self.is_open or (now >= self.retry_at and self._probes < PROBES)

    def granted(self, now: float) -> None:
        """A lease was granted. Those that try the store have a pause's time to be read before there are others."""
        if self.is_open:
            self._probes += 1
            if self._probes == PROBES:
                self._probes = 0
                self.retry_at = now + max(self._pause_s, FIRST_S)
