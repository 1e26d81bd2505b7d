"""Metrics and probes over HTTP on loopback, only where asked for: importing aiohttp takes a quarter of a second."""

from collections.abc import Callable

from aiohttp import web

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def serve_http(port: int, metrics: Callable[[], str], is_ready: Callable[[], bool]) -> tuple[web.AppRunner, int]:
    """Serves `/metrics`, `/livez` and `/readyz` on 127.0.0.1; gives the runner, to be cleaned up, and the port.

    Raises:
        OSError: the port is taken.
    """

    async def show_metrics(request: web.Request) -> web.Response:
        return web.Response(body=metrics().encode(), headers={"Content-Type": CONTENT_TYPE})

    async def livez(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if is_ready() else web.Response(text="not ready\n", status=503)

    app = web.Application()
    app.add_routes([web.get("/metrics", show_metrics), web.get("/livez", livez), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, int(runner.addresses[0][1])
