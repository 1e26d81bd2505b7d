"""How fast a job goes and when it will end, from what was counted so far.

The rate is a mean over the last minute, the end a range: as wide as the rate has varied and as little as has been seen,
so that the first seconds promise nothing.

Not here: what counts as done (`leases`), how it is shown (the command line).
"""

import itertools
import math
from collections import deque
from dataclasses import dataclass
from typing import Final

_WINDOW_S: Final = 60.0  # what the rate is a mean of
_STEP_S: Final = 1.0  # between kept samples
_SPANS_MIN: Final = 3  # spans between samples before an end is named at all
_SPREAD_MIN: Final = 0.05  # no rate is known better than that
_SPREAD_MAX: Final = 0.8  # keeps the upper end within five times the mean


@dataclass(frozen=True, slots=True)
class Eta:
    """Seconds until the end, as a range."""

    low_s: float
    high_s: float


class Estimate:
    """Rates of one job. `now` is of one clock that never goes back; counts may, when a lease ends."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float, float]] = deque()  # (now, units done, rows done)

    def observe(self, now: float, units: float, rows: float) -> None:
        """What was done until now, live leases included; call as often as convenient."""
        samples = self._samples
        if len(samples) >= 2 and now - samples[-2][0] < _STEP_S:
            samples[-1] = (now, units, rows)
            return
        samples.append((now, units, rows))
        while len(samples) > 2 and now - samples[1][0] >= _WINDOW_S:
            samples.popleft()

    def pause(self) -> None:
        """The job was suspended: what was seen before says nothing about what comes."""
        self._samples.clear()

    @property
    def rows_per_second(self) -> float:
        """Mean of the window, 0 while nothing is known."""
        return self._mean(2)

    @property
    def units_per_second(self) -> float:
        """Mean of the window, 0 while nothing is known."""
        return self._mean(1)

    def eta(self, units_left: float) -> Eta | None:
        """When the rest will be done; None while nobody can know."""
        if units_left <= 0:
            return Eta(0.0, 0.0)
        mean = self.units_per_second
        rates = self._span_rates()
        if len(rates) < _SPANS_MIN or mean <= 0:
            return None
        # Standard error of the mean, twice; spans are not independent, so it is not let fall with all of their number.
        deviation = math.sqrt(sum((rate - mean) ** 2 for rate in rates) / (len(rates) - 1))
        spread = 2 * deviation / mean / math.sqrt(len(rates) / 2) + 1 / len(rates) ** 1.5
        spread = min(max(spread, _SPREAD_MIN), _SPREAD_MAX)
        return Eta(units_left / (mean * (1 + spread)), units_left / (mean * (1 - spread)))

    def _mean(self, column: int) -> float:
        if len(self._samples) < 2:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        span = last[0] - first[0]
        return max(0.0, (last[column] - first[column]) / span) if span > 0 else 0.0

    def _span_rates(self) -> list[float]:
        return [
            (b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(self._samples) if b[0] - a[0] >= _STEP_S / 2
        ]
