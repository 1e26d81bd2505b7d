"""A local store over HTTP whose every GET takes 30 ms: an object store's first byte, without its noise.

python store.py FOLDER          prints its URL; a folder lists its files, a file can be read by range
"""

import asyncio
import sys
from pathlib import Path

from aiohttp import web

LATENCY_S = 0.030


@web.middleware
async def delayed(request: web.Request, handler) -> web.StreamResponse:
    """HEAD takes as long as GET: a store looks the object up for both."""
    await asyncio.sleep(LATENCY_S)
    response: web.StreamResponse = await handler(request)
    return response


async def serve(folder: Path) -> None:
    app = web.Application(middlewares=[delayed])
    app.router.add_static("/", folder, show_index=True)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
