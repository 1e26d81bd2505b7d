"""How long a sidecar may trust its leases, and how long it goes on without its coordinator.

Durations come from the coordinator, instants from this process's monotonic clock. Trust counts from the *start* of the
call that renewed, minus a margin, so the lessee always stops before the lessor; safety rests on epochs all the same.
"""

from dataclasses import dataclass

MARGIN_SHARE = 0.2
"""Of the lease time: covers clocks that run at different rates and a reply that was long on its way."""


@dataclass(slots=True)
class Terms:
    """The lease clock of one registration."""

    lease_ttl_s: float
    coordinator_timeout_s: float
    trusted_until: float = float("-inf")
    heard_at: float = float("-inf")

    def renewed(self, asked_at: float, heard_at: float) -> None:
        """The coordinator answered at `heard_at` a call begun at `asked_at`."""
        self.trusted_until = max(self.trusted_until, asked_at + self.lease_ttl_s * (1 - MARGIN_SHARE))
        self.heard(heard_at)

    def heard(self, heard_at: float) -> None:
        """The coordinator answered, but took nothing of what was said: it must be told who this is."""
        self.heard_at = heard_at

    def is_trusted(self, now: float) -> bool:
        """Whether a shard may be taken and output published now; computing and staging go on regardless."""
        return now < self.trusted_until

    def is_abandoned(self, now: float) -> bool:
        """Whether the coordinator has been away for longer than the job allows."""
        return now - self.heard_at > self.coordinator_timeout_s
