"""News of a worker on a real event loop."""

import asyncio

from sidecar.news import News

NEVER_S = 3600.0


def test_urgent_news_ends_the_rest_at_once() -> None:
    async def rest() -> None:
        news = News(calm_s=NEVER_S)
        asyncio.get_running_loop().call_soon(news.tell)
        await news.rest(NEVER_S, lambda: True)

    asyncio.run(asyncio.wait_for(rest(), 30))


def test_what_can_wait_is_gathered_until_the_calm_is_over_or_something_urgent_comes() -> None:
    async def rest() -> None:
        loop = asyncio.get_running_loop()
        news, urgent, asked = News(calm_s=0.05), [False], []

        def is_urgent() -> bool:
            asked.append(loop.time())
            return urgent[0]

        def tell_urgently() -> None:
            urgent[0] = True
            news.tell()

        answered = loop.time()
        loop.call_soon(news.tell)
        await news.rest(NEVER_S, is_urgent)
        assert asked
        assert loop.time() - answered >= 0.05

        news = News(calm_s=NEVER_S)
        loop.call_soon(news.tell)
        loop.call_later(0.01, tell_urgently)
        await news.rest(NEVER_S, is_urgent)

    asyncio.run(asyncio.wait_for(rest(), 30))


def test_without_news_the_rest_ends_after_its_time() -> None:
    async def rest() -> None:
        news = News(calm_s=NEVER_S)
        news.tell()
        news.begin()  # said already
        await news.rest(0.01, lambda: True)

    asyncio.run(asyncio.wait_for(rest(), 30))
