"""Threads for blocking work: a cancelled wait lasts as long as the thread, and what they took is counted."""

import asyncio
import threading
import time
from functools import partial

import pytest

from sidecar.timed_threads import TimedThreads


def test_a_cancelled_call_ends_with_its_thread_and_not_before() -> None:
    async def main() -> None:
        threads = TimedThreads(1, "read")
        loop = asyncio.get_running_loop()
        begun, go_on = asyncio.Event(), threading.Event()

        def work() -> None:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait()

        call = asyncio.create_task(threads.call(work))
        await begun.wait()
        call.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not call.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        threads.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_calls_of_all_threads_are_counted_whether_they_give_or_raise() -> None:
    async def main() -> None:
        threads = TimedThreads(2, "write")
        together = threading.Barrier(2, timeout=20)

        def spin(divisor: int) -> int:
            together.wait()
            until = time.perf_counter() + 0.01
            while time.perf_counter() < until:
                pass
            return 6 // divisor

        calls = (threads.call(partial(spin, divisor)) for divisor in (2, 0))
        given, raised = await asyncio.gather(*calls, return_exceptions=True)
        assert given == 3
        assert isinstance(raised, ZeroDivisionError)
        assert threads.busy_s >= 0.02
        threads.close()

    asyncio.run(asyncio.wait_for(main(), 30))
