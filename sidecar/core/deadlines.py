"""How long a predictor may take for a batch before it counts as hanging, from what batches of its stage have taken.

A predictor's first batch may be slower than the rest by orders: it compiles kernels, reads weights lazily. It has a
history of its own. Until a stage has given its first result, nothing is known of it but an allowance.

Late turns: a loop that comes round much later than it wanted to was itself stopped (a suspended machine, SIGSTOP). Its
predictors were too, or have answered into sockets that it hasn't read yet, so every deadline moves by that delay.

A hang is expensive to see, and a batch that hangs is cut about ten times until its guilty row is alone. So only the
verdicts that count wait for long: the batch's first try and a row's last one. A try between them, of what is known to
have hung or failed, decides no more than where to cut next; it may be ended early by mistake.

Not here: who asks, and what becomes of a predictor that hangs (`sidecar.flow`).
"""

from collections.abc import Callable

FIRST_ALLOWANCE_S = 300.0
"""For the first result of a stage, whatever predictor gives it."""
FLOOR_S = 30.0
"""However fast the batches were: a busy machine can make any of them wait that long."""
SEARCH_FLOOR_S = 2.0
"""The same for a try that only says where to cut."""
FACTOR = 20.0
"""Times the longest batch so far."""
LATE_MARGIN_S = 1.0
"""A turn that comes later than this by more is taken for a stop; less is load."""


class BatchDeadline:
    """One stage's history. All times are seconds of a clock that never goes back."""

    def __init__(self, fixed_s: float | None) -> None:
        """`fixed_s` is retries.batchTimeout; None: from the history."""
        self._fixed_s = fixed_s
        self._longest_first_s: float | None = None
        self._longest_s: float | None = None
        self._begun: dict[int, float] = {}  # predictor -> when it began its batch
        self._warm: set[int] = set()  # predictors that have answered once

    def began(self, predictor: int, now: float) -> None:
        """It works on a batch from now on."""
        self._begun[predictor] = now

    def paused(self, predictor: int) -> None:
        """It works on nothing, or waits for us."""
        self._begun.pop(predictor, None)

    def answered(self, predictor: int, now: float) -> None:
        """It gave a result for the batch that it began last."""
        took_s = now - self._begun.pop(predictor, now)
        if predictor in self._warm:
            self._longest_s = max(self._longest_s or 0.0, took_s)
        else:
            self._warm.add(predictor)
            self._longest_first_s = max(self._longest_first_s or 0.0, took_s)

    def ended(self, predictor: int) -> None:
        """It is gone."""
        self._begun.pop(predictor, None)
        self._warm.discard(predictor)

    def has_answered(self, predictor: int) -> bool:
        """It has given a result."""
        return predictor in self._warm

    def allowed_s(self, predictor: int, *, is_search: bool = False) -> float:
        """What it may take for the batch it has, or would get, now; `is_search`: a try that only says where to cut."""
        if self._fixed_s is not None:
            return self._fixed_s
        if self._longest_first_s is None:
            return FIRST_ALLOWANCE_S
        # Before the first warm batch the cold ones stand for it.
        known = self._longest_s if predictor in self._warm else self._longest_first_s
        floor_s = SEARCH_FLOOR_S if is_search else FLOOR_S
        return max(floor_s, FACTOR * (self._longest_first_s if known is None else known))

    def overdue(self, now: float, is_search: Callable[[int], bool]) -> list[tuple[int, float]]:
        """Predictors past their deadline, and what they were allowed; `is_search` says it of a predictor's batch."""
        allowed = {predictor: self.allowed_s(predictor, is_search=is_search(predictor)) for predictor in self._begun}
        return [
            (predictor, allowed[predictor]) for predictor, at in self._begun.items() if now - at > allowed[predictor]
        ]

    def move(self, late_s: float) -> None:
        """We slept for so long: every batch began that much later."""
        for predictor in self._begun:
            self._begun[predictor] += late_s


def late_s(slept_s: float, wanted_s: float) -> float:
    """By how much a turn that wanted to sleep for `wanted_s` moves all deadlines."""
    late = slept_s - wanted_s
    return late if late > LATE_MARGIN_S else 0.0
