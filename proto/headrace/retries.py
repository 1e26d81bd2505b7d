"""When a request to a store is tried again: pure decisions; clocks, dice and sleeps are the caller's."""

import threading
from dataclasses import dataclass

RETRY_COST, TOKENS = 5.0, 500.0
"""What a retry takes from the budget and how much there is; an answer at the first try gives one back."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request is tried: `tries` in all, within `budget_s`; waits are drawn between 0 and a growing top."""

    tries: int = 6
    first_s: float = 0.2
    max_s: float = 5.0
    budget_s: float = 60.0
    timeout_s: float = 30.0  # silence of a server that ends a try

    def wait(self, failures: int, elapsed_s: float, draw: float, asked_s: float = 0.0) -> float | None:
        """Seconds before the next try, or None: give up.

        Args:
            failures: tries that have failed, 1 or more.
            elapsed_s: since the first try began.
            draw: a random number in ``[0, 1)``: full jitter, so that those who failed together don't come back so.
            asked_s: what the server asked for (Retry-After).
        """
        if failures >= self.tries:
            return None
        top = min(self.max_s, self.first_s * 2.0 ** (failures - 1))
        wait_s = max(top * draw, asked_s)
        return wait_s if elapsed_s + wait_s <= self.budget_s else None


class RetryBudget:
    """Retries that one process may make at a store: many while few requests fail, few while all do. Thread-safe."""

    def __init__(self, tokens: float = TOKENS) -> None:
        self._most = self._tokens = tokens
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether one more retry may be made."""
        with self._lock:
            if self._tokens < RETRY_COST:
                return False
            self._tokens -= RETRY_COST
            return True

    def answered(self, retries: int) -> None:
        """A request was answered after so many retries: what the last one cost comes back."""
        with self._lock:
            self._tokens = min(self._most, self._tokens + (RETRY_COST if retries else 1.0))
