"""Metrics and probes over HTTP on loopback, only where asked for: importing aiohttp takes a quarter of a second.

Not here: what the metrics say (`coordinator.metrics`).
"""

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from headrace.errors import ConfigError

if TYPE_CHECKING:
    from aiohttp import web

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def loopback_socket(port: int) -> socket.socket:
    """A socket that listens on 127.0.0.1; port 0 picks a free one.

    Raises:
        ConfigError: the port can't be had.
    """
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigError(f"Port {port} of 127.0.0.1 can't be had: {os.strerror(error.errno or 0)}.") from error


async def serve_http(sock: socket.socket, metrics: Callable[[], str], is_ready: Callable[[], bool]) -> "web.AppRunner":
    """Serves `/metrics`, `/livez` and `/readyz` on a socket that listens; gives the runner, to be cleaned up."""
    from aiohttp import web

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
    await web.SockSite(runner, sock).start()
    return runner
