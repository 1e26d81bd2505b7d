"""When a worker speaks: at once where something waits for the answer, else what came up is said together."""

import asyncio
from collections.abc import Callable


class News:
    """That there is something to say. Belongs to one event loop."""

    def __init__(self, calm_s: float) -> None:
        """`calm_s`: how long news that can wait is gathered, from the end of the exchange before."""
        self._calm_s = calm_s
        self._told = asyncio.Event()

    def tell(self) -> None:
        """Something has come up."""
        self._told.set()

    def begin(self) -> None:
        """A report is about to be made, which holds all that was told."""
        self._told.clear()

    async def rest(self, wait_s: float, is_urgent: Callable[[], bool]) -> None:
        """Returns after `wait_s`, `calm_s` after which there was news, or with news that is urgent."""
        answered = asyncio.get_running_loop().time()
        end = answered + wait_s
        while True:
            try:
                async with asyncio.timeout_at(end):
                    await self._told.wait()
            except TimeoutError:
                return
            if is_urgent():
                return
            self._told.clear()
            end = min(end, answered + self._calm_s)
