"""How long an event loop in this process stood still by its own doing.

A machine that is busy with others makes any loop late, so lateness alone proves nothing. The kernel says of each thread
how long it was ready to run and got no core (`/proc/PID/task/TID/schedstat`, second number, nanoseconds). A loop's own
stall is its lateness without such waits of this process's threads: of any of them, since one that got no core may have
held the interpreter's lock. What is left is what the process did itself: computing, blocking, holding that lock.
"""

import asyncio
import contextlib
import time
from pathlib import Path

PERIOD_S = 0.005


class Stalls:
    """Looks every PERIOD_S how late the loop is."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        """Runs in the loop that is watched, until it is cancelled."""
        waits, computed, began = _core_waits(), time.thread_time(), time.perf_counter()
        while True:
            await asyncio.sleep(PERIOD_S)
            late = time.perf_counter() - began - PERIOD_S
            now = _core_waits()
            without_core = sum(wait - waits.get(thread, 0.0) for thread, wait in now.items())
            # Waits of several threads may overlap and hide a stall, never what the loop's thread computed.
            own = max(late - without_core, time.thread_time() - computed - PERIOD_S)
            self.longest_s = max(self.longest_s, own)
            waits, computed, began = now, time.thread_time(), time.perf_counter()


def _core_waits() -> dict[str, float]:
    """Seconds that each thread of this process was ready and got no core, since it began."""
    waits = {}
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            waits[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    return waits
