"""How fast the workers are, and what a job takes that is shared out ideally or simply.

A worker has a speed of its own (lognormal over the fleet; a tenth are stragglers at a fifth of theirs), which drops by
a random factor for random spans: other work comes and goes on its machine.

Not here: how the coordinator shares (`run`).
"""

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Crowd:
    """What workers are drawn from."""

    mean_rows_s: float = 1_000.0
    sigma: float = 0.5  # of the lognormal; the mean stays
    stragglers: float = 0.1  # share of the workers
    straggler_speed: float = 0.2
    calm_s: float = 240.0  # mean span without contention
    busy_s: float = 60.0  # mean span with
    busy_speed: tuple[float, float] = (0.2, 0.9)


class Speed:
    """One worker's rows/s over time, a step function that is drawn as far as it is looked at."""

    def __init__(self, base: float, crowd: Crowd, random: Random) -> None:
        self.base = base  # rows/s without contention
        self._crowd = crowd
        self._random = random
        self._times = [0.0]  # where steps begin
        self._rates: list[float] = []  # of the steps
        self._work = [0.0]  # rows that can be done before each of them
        self._is_busy = random.random() < crowd.busy_s / (crowd.calm_s + crowd.busy_s)

    def work_at(self, time: float) -> float:
        """Rows that can be done until then."""
        while self._times[-1] <= time:
            self._draw()
        i = bisect_right(self._times, time) - 1
        return self._work[i] + (time - self._times[i]) * self._rates[i]

    def time_of(self, work: float) -> float:
        """When so many rows can be done."""
        while self._work[-1] <= work:
            self._draw()
        i = bisect_right(self._work, work) - 1
        return self._times[i] + (work - self._work[i]) / self._rates[i]

    def _draw(self) -> None:
        crowd, random = self._crowd, self._random
        span_s = random.expovariate(1 / (crowd.busy_s if self._is_busy else crowd.calm_s))
        rate = self.base * (random.uniform(*crowd.busy_speed) if self._is_busy else 1.0)
        self._is_busy = not self._is_busy
        self._rates.append(rate)
        self._times.append(self._times[-1] + span_s)
        self._work.append(self._work[-1] + span_s * rate)


def draw(workers: int, seed: int, crowd: Crowd) -> list[Speed]:
    """The speeds of a fleet."""
    random = Random(f"fleet {seed}")
    slow = set(random.sample(range(workers), round(crowd.stragglers * workers)))
    return [
        Speed(
            crowd.mean_rows_s
            * random.lognormvariate(-(crowd.sigma**2) / 2, crowd.sigma)
            * (crowd.straggler_speed if i in slow else 1.0),
            crowd,
            Random(f"worker {seed} {i}"),
        )
        for i in range(workers)
    ]


def rows_within(speeds: Sequence[Speed], seconds: float) -> int:
    """Rows that the whole fleet can do in so many seconds: a job of so many rows has this fluid bound."""
    return int(sum(speed.work_at(seconds) for speed in speeds))


def even_split_s(speeds: Sequence[Speed], rows: int) -> float:
    """Job time if every worker gets an equal part at the start."""
    return max(speed.time_of(rows / len(speeds)) for speed in speeds)


def queue_s(speeds: Sequence[Speed], rows: int, parts: int = 8) -> float:
    """Job time if equal parts, so many per worker, are pulled from a queue, each worked off by who took it."""
    free = [(0.0, i) for i in range(len(speeds))]
    end = 0.0
    for _ in range(parts * len(speeds)):
        at, i = heapq.heappop(free)
        done = speeds[i].time_of(speeds[i].work_at(at) + rows / len(speeds) / parts)
        heapq.heappush(free, (done, i))
        end = max(end, done)
    return end
