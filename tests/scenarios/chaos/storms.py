"""What a store does to a job, by a seed: throttling, errors, lost and half answers, half requests, outages.

One fault is one spell of it; spells and calm take turns. The same seed draws the same spells; which requests they hit
is up to the machine.

Not here: how a request is lost (`tests.object_store.bucket_fixture`).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.object_store.bucket_fixture import Fault

CALM_S = (0.2, 0.8)
SPELLS: dict[str, tuple[Fault, float, tuple[float, float]]] = {
    "store-throttles": (Fault.REFUSE, 0.7, (0.4, 1.2)),
    "store-fails": (Fault.FAIL, 0.7, (0.4, 1.2)),
    "store-cuts-answers": (Fault.CUT, 0.5, (0.4, 1.2)),
    "store-cuts-requests": (Fault.HALVE, 0.5, (0.4, 1.2)),
    "store-loses-answers": (Fault.LOSE, 0.5, (0.4, 1.2)),
    "store-is-away": (Fault.AWAY, 1.0, (1.5, 3.0)),
}
"""Kind -> what befalls a request, what share of them, and for how long."""
SEEN = (Fault.PASS, Fault.CUT, Fault.LOSE)
"""What leaves a request done."""


@dataclass
class _Spell:
    kind: str
    begin_s: float
    end_s: float
    hits: int = 0


@dataclass
class Storm:
    """Decides about each request; is over for good once the store has taken the output's `_SUCCESS`."""

    seed: int
    now: Callable[[], float] = time.monotonic
    _spells: list[_Spell] = field(default_factory=list)
    _is_over: bool = False

    def __post_init__(self) -> None:
        self._random = Random(self.seed)  # of the spells alone: how many requests come is up to the machine
        self._dice = Random(self.seed + 1)
        self._lock = threading.Lock()
        self._begun = self.now()

    def __call__(self, method: str, path: str) -> Fault:
        """What befalls one request."""
        with self._lock:
            fault = Fault.PASS if self._is_over else self._drawn(method)
            self._is_over |= method == "PUT" and path.endswith("/_SUCCESS") and fault in SEEN
            return fault

    @property
    def faults(self) -> list[dict[str, Any]]:
        """The spells that hit a request, as `headrace chaos` tells of its faults."""
        with self._lock:
            return [
                {"kind": x.kind, "what": f"{x.hits} requests", "at_s": round(x.begin_s, 3), "recovered_s": None}
                for x in self._spells
                if x.hits
            ]

    def _drawn(self, method: str) -> Fault:
        now = self.now() - self._begun
        while not self._spells or now >= self._spells[-1].end_s:
            begin_s = (self._spells[-1].end_s if self._spells else 0.0) + self._random.uniform(*CALM_S)
            kind = self._random.choice(list(SPELLS))
            self._spells.append(_Spell(kind, begin_s, begin_s + self._random.uniform(*SPELLS[kind][2])))
        spell = self._spells[-1]
        fault, share, _ = SPELLS[spell.kind]
        if fault is Fault.HALVE and method not in ("PUT", "POST"):
            return Fault.PASS
        if now < spell.begin_s or self._dice.random() >= share:
            return Fault.PASS
        spell.hits += 1
        return fault
