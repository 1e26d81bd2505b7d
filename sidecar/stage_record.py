"""What is measured of one stage on this worker: its predictors, the pieces they hold, and how long everything took.

Time comes in as an argument. Counts and sums only rise until the worker ends, so that differences of two reports mean
something.

Not here: who gets which piece (`sidecar.core.pipeline`), what is reported (`sidecar.report`).
"""

from bisect import bisect_left
from dataclasses import dataclass, field

from headrace.buckets import BATCH_ROWS, BATCH_SECONDS
from headrace.local.messages import Specs


def _zeros(bounds: tuple[float, ...]) -> list[int]:
    return [0] * (len(bounds) + 1)


@dataclass(slots=True)
class StageRecord:
    """What is measured of a stage since its host started; seconds are summed over its predictors."""

    rows_in: int = 0
    rows_out: int = 0
    batches: int = 0
    busy_s: float = 0.0
    restarts: int = 0
    hangs: int = 0  # of the restarts, those that the deadline of a batch made
    ready_s: float = 0.0  # of predictors that have ended
    load_s: float = 0.0  # longest time from the start of a predictor to its being ready
    rows_tried_again: dict[str, int] = field(default_factory=lambda: {"exception": 0, "crash": 0, "hang": 0})
    last_done_at: float | None = None
    seconds_counts: list[int] = field(default_factory=lambda: _zeros(BATCH_SECONDS))
    rows_counts: list[int] = field(default_factory=lambda: _zeros(BATCH_ROWS))
    predictors: dict[int, float] = field(default_factory=dict)  # ready predictor -> since when
    pieces: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # predictor -> (piece, rows) in order
    specs: Specs | None = None
    _loading: dict[int, float] = field(default_factory=dict)  # predictor -> when it was started
    _idle: dict[int, float] = field(default_factory=dict)  # predictor without a piece -> since when
    _blocked: dict[int, float] = field(default_factory=dict)  # predictor that waits for space -> since when
    _idle_s: float = 0.0
    _blocked_s: float = 0.0

    # ------------------------------------------------------------------ predictors

    def started(self, predictor: int, now: float) -> None:
        """A predictor's process is being started."""
        self._loading[predictor] = now

    def ready(self, predictor: int, specs: Specs, now: float) -> None:
        """A predictor has loaded its model."""
        self.specs = self.specs or specs
        self.load_s = max(self.load_s, now - self._loading.pop(predictor, now))
        self.predictors[predictor] = self._idle[predictor] = now

    def ended(self, predictor: int, now: float, *, is_hang: bool) -> list[tuple[int, int]]:
        """A predictor is gone; gives what it held, as (piece, rows)."""
        since = self.predictors.pop(predictor, None)
        self._loading.pop(predictor, None)
        self._idle_s += now - self._idle.pop(predictor, now)
        self._blocked_s += now - self._blocked.pop(predictor, now)
        if since is not None:
            self.ready_s += now - since
            self.restarts += 1
            self.hangs += is_hang
        return self.pieces.pop(predictor, [])

    # ------------------------------------------------------------------ pieces

    def sent(self, predictor: int, piece: int, rows: int, now: float) -> None:
        """A piece of `rows` rows was given to a predictor."""
        self.pieces.setdefault(predictor, []).append((piece, rows))
        self._idle_s += now - self._idle.pop(predictor, now)

    def came_back(self, predictor: int, piece: int, now: float) -> int:
        """A piece came back from a predictor, whatever became of it; returns its rows."""
        pieces = self.pieces[predictor]
        rows = next(rows for number, rows in pieces if number == piece)
        pieces.remove((piece, rows))
        if not pieces:
            self._idle[predictor] = now
        return rows

    def done(self, rows: int, busy_s: float, now: float) -> None:
        """A predictor computed `rows` rows in `busy_s`."""
        self.rows_in += rows
        self.rows_out += rows
        self.batches += 1
        self.busy_s += busy_s
        self.last_done_at = now
        self.seconds_counts[bisect_left(BATCH_SECONDS, busy_s)] += 1
        self.rows_counts[bisect_left(BATCH_ROWS, rows)] += 1

    def failed(self, rows: int) -> None:
        """The stage raised an exception on `rows` rows."""
        self.rows_in += rows
        self.batches += 1

    def blocked(self, predictor: int, now: float) -> None:
        """A result waits for space."""
        self._blocked.setdefault(predictor, now)

    def unblocked(self, predictor: int, now: float) -> None:
        """The space has been given, or the piece taken back."""
        self._blocked_s += now - self._blocked.pop(predictor, now)

    # ------------------------------------------------------------------ sums

    @property
    def rows_in_progress(self) -> int:
        """Rows that predictors hold."""
        return sum(rows for pieces in self.pieces.values() for _, rows in pieces)

    def predictor_s(self, now: float) -> float:
        """Seconds that predictors were ready."""
        return self.ready_s + sum(now - since for since in self.predictors.values())

    def wait_input_s(self, now: float) -> float:
        """Seconds that ready predictors had no piece."""
        return self._idle_s + sum(now - since for since in self._idle.values())

    def wait_output_s(self, now: float) -> float:
        """Seconds that predictors waited for space for a result."""
        return self._blocked_s + sum(now - since for since in self._blocked.values())
