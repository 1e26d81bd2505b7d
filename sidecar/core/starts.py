"""When a predictor that couldn't start, or ended before it was of any use, is started again, and when no more.

Not here: what starting is (`sidecar.predictors`).
"""

TRIES = 3
"""Of each of a stage's predictors before the model counts as one that can't be loaded."""
BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0


class Starts:
    """The starts of one stage's predictors."""

    def __init__(self, wanted: int) -> None:
        """`wanted`: how many predictors the stage should have."""
        self._wanted = wanted
        self._failed = 0  # in a row

    def worked(self) -> None:
        """A predictor gave a result: what comes later is another story."""
        self._failed = 0

    def failed(self, ready: int, random: float) -> float | None:
        """A start failed: seconds until the next one, or None, the model can't be loaded.

        Args:
            ready: predictors of the stage that are ready; while there is one, the stage isn't given up.
            random: in [0, 1), spreads the starts of many workers.
        """
        self._failed += 1
        round_number = (self._failed - 1) // self._wanted
        if round_number + 1 >= TRIES and ready == 0:
            return None
        return float(min(BACKOFF_S * 2 ** min(round_number, 10), BACKOFF_MAX_S) * (0.5 + random / 2))
