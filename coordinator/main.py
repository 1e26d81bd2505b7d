"""The coordinator process: constructs everything, serves, and ends everything in the reverse order.

    lifeline, signals
      └─ ledger (locked, replayed)
           └─ driver (term raised, jobs taken up)
                └─ gRPC on the socket, on loopback, HTTP
                     └─ "ready" on stdout

SIGTERM, SIGINT or the end of the lifeline stop it: no new calls, calls in progress are ended, decided facts written,
the lock given back. Nothing else needs to be saved: a killed coordinator restarts from the ledger just as well.
"""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import structlog

from coordinator import metrics
from coordinator.config import LEDGER, Config, read_config
from coordinator.driver import Driver
from coordinator.http import loopback_socket, serve_http
from coordinator.job_desk import JobDesk
from coordinator.journal import Journal, JournalDamaged, JournalFailed, JournalLocked, JournalTooNew
from coordinator.rpc import GracefulServer, serve_loopback, serve_unix
from coordinator.submission import warm_up
from coordinator.worker_desk import WorkerDesk
from headrace import collector
from headrace.channel import read_token
from headrace.errors import ConfigError
from headrace.log_stream import LossyStderr
from headrace.words import ExitCode

CLOSE_TIMEOUT_S = 1.0
LIFELINE_GRACE_S = 2.0
"""From the end of the lifeline to the end of this process, whatever it does: nobody may find it after five."""

log = structlog.get_logger()


def main(arguments: Sequence[str]) -> int:
    """Runs a coordinator until it is told to end; gives its exit code."""
    try:
        config = read_config(arguments)
        _set_up_log(config.log_json)
        return asyncio.run(_run(config))
    except (ConfigError, JournalDamaged, JournalTooNew) as error:
        print(f"headrace coordinator: {error}", file=LossyStderr())
        return ExitCode.BAD_CONFIG
    except (JournalLocked, JournalFailed) as error:
        print(f"headrace coordinator: {error}", file=LossyStderr())
        return ExitCode.TEMPORARY


async def _run(config: Config) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_Connections().on_error)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if config.lifeline_fd is not None:
        _watch_lifeline(loop, config.lifeline_fd, stopping)
    make_private_folder(config.state)
    async with contextlib.AsyncExitStack() as stack:
        driver = Driver(Journal.open(config.state / LEDGER), clock=loop.time)
        stack.push_async_callback(driver.close)
        await driver.start(awaits_submission=config.awaits_submission)
        desk = JobDesk(driver)
        ready = await _serve(config, driver, desk, stack)
        # Before anything is planned, nothing needs pyarrow: the process answers first.
        threading.Thread(target=warm_up, name="warm up", daemon=True).start()
        collector.resume(collector.PROMPT_MAX)
        print(f"ready {ready}", flush=True)
        stop = asyncio.create_task(stopping.wait(), name="stop")
        driver.broken.add_done_callback(lambda _: stopping.set())
        await stop
        if driver.broken.done():
            raise driver.broken.result()
    return ExitCode.DONE


async def _serve(config: Config, driver: Driver, desk: JobDesk, stack: contextlib.AsyncExitStack) -> str:
    """Starts all servers; gives the addresses in words."""
    workers = WorkerDesk(driver)
    places = []
    if config.socket is not None:
        check_private(config.socket.parent)
        await stack.enter_async_context(_unix(workers, desk, config.socket))
        places.append(f"unix:{config.socket}")
    if config.listen is not None:
        assert config.token_file is not None
        server, port = await serve_loopback(workers, desk, *config.listen, read_token(config.token_file))
        stack.push_async_callback(_end, server)
        places.append(f"{config.listen[0]}:{port}")
    http = _http_socket(config)
    if http is not None:
        from importlib.metadata import version

        built = version("headrace")
        runner = await serve_http(
            http,
            lambda: metrics.render(_scrape(driver, desk), built),
            lambda: driver.commits.failure is None,
        )
        stack.push_async_callback(runner.cleanup)
        places.append(f"http://127.0.0.1:{http.getsockname()[1]}")
    return " ".join(places)


def _http_socket(config: Config) -> socket.socket | None:
    """The socket for metrics and probes, if any is wished.

    Raises:
        ConfigError: its port can't be had.
    """
    if config.http_fd is not None:
        return socket.socket(fileno=config.http_fd)
    return None if config.http_port is None else loopback_socket(config.http_port)


def _scrape(driver: Driver, desk: JobDesk) -> metrics.Scrape:
    seats = list(driver.seats.values())
    return metrics.Scrape(desk.statuses(), seats, driver.counters, driver.now(), time.time())


@contextlib.asynccontextmanager
async def _unix(workers: WorkerDesk, desk: JobDesk, path: Path) -> AsyncIterator[None]:
    server, sock = await serve_unix(workers, desk, path)
    mine = os.stat(path).st_ino
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == mine:  # not a successor's
                path.unlink()
        await _end(server)
        sock.close()


async def _end(server: GracefulServer) -> None:
    await server.settle()
    server.close()
    # From Python 3.12 on this waits for clients to hang up, and a worker stays connected for life.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.wait_closed(), CLOSE_TIMEOUT_S)


def make_private_folder(path: Path) -> None:
    """Creates a folder that only this user can enter, or leaves one as it is.

    Raises:
        ConfigError: it can't be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The folder {path} can't be made: {error}") from error


def check_private(folder: Path) -> None:
    """Checks that nobody else can reach a socket in this folder; creates it if it is missing.

    Raises:
        ConfigError: others may enter it, or own it.
    """
    make_private_folder(folder)
    found = os.stat(folder)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"The socket's folder {folder} must be this user's and of mode 0700.")


class _Connections:
    """Errors of the loop. A connection that breaks the protocol is ended by asyncio; the first such is logged."""

    def __init__(self) -> None:
        self._is_noted = False

    def on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Takes what asyncio would print with a traceback each time."""
        if "protocol" not in context or "transport" not in context:
            loop.default_exception_handler(context)
        elif not self._is_noted:
            self._is_noted = True
            log.warning("a connection that doesn't speak gRPC was ended", error=repr(context.get("exception"))[:200])


def _watch_lifeline(loop: asyncio.AbstractEventLoop, descriptor: int, stopping: asyncio.Event) -> None:
    os.set_blocking(descriptor, False)

    def look() -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(descriptor, 4096):
                loop.remove_reader(descriptor)
                stopping.set()
                # A thread that plans can't be interrupted, and nobody waits for its plan any more.
                hurry = threading.Timer(LIFELINE_GRACE_S, os._exit, (ExitCode.TERMINATED,))
                hurry.daemon = True
                hurry.start()

    loop.add_reader(descriptor, look)


def _set_up_log(is_json: bool) -> None:
    renderer = structlog.processors.JSONRenderer() if is_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(LossyStderr()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
