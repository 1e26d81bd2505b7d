"""Threads for blocking work, and how long they have been busy with it.

A call outlives the task that waits for it by no more than itself: a thread can't be interrupted, and what it reads and
where it writes is in use until it ends, so a cancelled wait ends with the thread.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class TimedThreads:
    """A few threads of one kind of work."""

    def __init__(self, count: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=name)
        self.busy_s = 0.0
        """Seconds in calls that have ended, of all threads together."""

    async def call(self, work: Callable[[], T]) -> T:
        """What `work` gives or raises, from one of the threads."""
        begun = ended = 0.0

        def timed() -> T:
            nonlocal begun, ended
            begun = time.perf_counter()
            try:
                return work()
            finally:
                ended = time.perf_counter()

        future = asyncio.get_running_loop().run_in_executor(self._threads, timed)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
        finally:
            self.busy_s += ended - begun

    def close(self) -> None:
        """Takes no more calls; those that wait are dropped, those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
