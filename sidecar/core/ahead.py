"""How many batches are admitted ahead of the predictors: what is admitted must be finished, so a drain waits for it.

    few  ──a result of every stage──▶  as many as take AHEAD_S, between few and all that the arena has room for

Few keep every predictor busy: one batch that it executes and one to go on with.

Not here: whether the bytes of a batch fit (`space`).
"""

from collections.abc import Mapping
from math import inf

from sidecar.core.stages import CREDITS

AHEAD_S = 2.0
"""Seconds of the slowest stage's work that are admitted, unless its predictors need more to be busy."""
NEW_SHARE = 0.25
"""Of a batch in the mean time of a stage's batches."""


class Ahead:
    """The number of batches that may be in flight."""

    def __init__(self, predictors: Mapping[str, int], most: int) -> None:
        """`predictors`: how many each stage has; `most`: batches, however quick they are."""
        self._predictors = predictors
        self._most = most
        self._least = min(most, CREDITS * sum(predictors.values()) + len(predictors) + 1)
        self._seconds: dict[str, float] = {}  # stage -> mean seconds of a batch in a predictor

    def done(self, stage: str, seconds: float) -> None:
        """A predictor of `stage` took `seconds` for a batch."""
        mean = self._seconds.get(stage, seconds)
        self._seconds[stage] = mean + NEW_SHARE * (seconds - mean)

    @property
    def batches(self) -> int:
        """How many may be in flight."""
        if len(self._seconds) < len(self._predictors):
            return self._least
        slowest = max(seconds / self._predictors[stage] for stage, seconds in self._seconds.items())
        wanted = AHEAD_S / slowest if slowest > 0 else inf
        return self._most if wanted >= self._most else max(self._least, int(wanted))
