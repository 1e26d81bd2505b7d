"""Builds a sidecar and runs it: the only place of this package that constructs.

Read backwards for the order of shutdown: the driver ends its leases and hosts, then the arena goes, then the
connection. First SIGTERM drains, a second one ends at once. The lifeline's end of file (its writer died, however it
died) ends the process at once; the predictor hosts see their connection close and follow.

Not here: what a worker does (`sidecar.driver`).
"""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from headrace import collector
from headrace.channel import read_token
from headrace.errors import ConfigError, HeadraceError
from headrace.leftovers import SIDECAR_MARK, Leftovers
from headrace.log_stream import LossyStderr
from headrace.program import program_from_json
from headrace.words import ExitCode
from sidecar.config import PREFAULT_BYTES, SOFT_ARENA_BYTES, Config, read_config
from sidecar.core.terms import Terms

if TYPE_CHECKING:  # grpclib and pyarrow are imported while the process already waits for its coordinator
    from sidecar.coordinator_client import CoordinatorClient, Registration

COORDINATOR_TIMEOUT_S = 3600.0
"""Until a registration says otherwise."""
SWITCH_INTERVAL_S = 0.0005
"""Threads that hold the GIL for 5 ms, Python's default, would delay every batch by as much."""


def main(argv: list[str] | None = None) -> int:
    """Runs a sidecar; returns its exit code (headrace.words.ExitCode)."""
    try:
        config = read_config(argv)
        token = read_token(config.token_file) if config.token_file else None
    except ConfigError as error:
        print(f"headrace worker: {error}", file=sys.stderr)
        return ExitCode.BAD_CONFIG
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # No thread or predictor of this worker preempts another in the middle of a batch: each has work ahead.
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if config.verbose else logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(LossyStderr()),  # type: ignore[arg-type]
    )
    return asyncio.run(_run(config, token))


async def _run(config: Config, token: str | None) -> ExitCode:
    from sidecar.coordinator_client import Abandoned, CoordinatorClient, Refused

    loop = asyncio.get_running_loop()
    if config.lifeline_fd is not None:
        loop.add_reader(config.lifeline_fd, _die_with_parent, config.lifeline_fd)
    loop.set_exception_handler(_die_of_error)
    stop = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.asked)
    client = CoordinatorClient(config.coordinator, token, config.worker, secrets.token_hex(8), config.job_uid)
    imports = loop.run_in_executor(None, _import_early)  # 0.3 s, while the coordinator plans
    terms = Terms(lease_ttl_s=0.0, coordinator_timeout_s=COORDINATOR_TIMEOUT_S, heard_at=loop.time())
    try:
        while not stop.is_asked:
            registration = await client.register((), terms)
            if registration.job_uid:
                await imports
                return await _work(config, client, registration, stop)
            await stop.wait(registration.retry_after_s)
        return ExitCode.DONE
    except Abandoned:
        return ExitCode.TEMPORARY
    except Refused as error:
        print(f"headrace worker: {error}", file=sys.stderr)
        return ExitCode.FAILED
    except HeadraceError as error:
        print(f"headrace worker: {error}", file=sys.stderr)
        return ExitCode.BAD_JOB
    finally:
        client.close()


async def _work(config: Config, client: "CoordinatorClient", registration: "Registration", stop: "_Stop") -> ExitCode:
    from sidecar.arena import Arena
    from sidecar.driver import Driver

    loop = asyncio.get_running_loop()
    program = program_from_json(registration.program)
    terms = Terms(registration.lease_ttl_s, registration.coordinator_timeout_s)
    terms.renewed(loop.time(), loop.time())
    soft = program.arena_bytes or SOFT_ARENA_BYTES
    size = program.arena_bytes or max(SOFT_ARENA_BYTES, config.memory_bytes // 4)
    arena = Arena.create(size, prefault=min(soft, PREFAULT_BYTES))
    leftovers = Leftovers(SIDECAR_MARK, secrets.token_hex(16))
    leftovers.adopt()  # what a host leaves that is killed; its end ends this process too
    # Its own each time: the hosts of a killed sidecar may still be about to leave theirs.
    folder = Path(tempfile.mkdtemp(prefix="headrace-", dir=config.socket_folder))
    env = {"HEADRACE_JOB": program.job_name, "HEADRACE_WORKER": config.worker, **leftovers.environment}
    try:
        driver = Driver(client, registration, program, terms, arena, soft, config.cores)
        collector.resume()
        stop.on_asked = driver.drain
        return await driver.run(folder, env)
    finally:
        leftovers.end()
        shutil.rmtree(folder, ignore_errors=True)


def _import_early() -> None:
    import sidecar.driver  # noqa: F401


def _die_with_parent(lifeline: int) -> None:
    if not os.read(lifeline, 1):
        os._exit(ExitCode.TERMINATED)


def _die_of_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception in a callback is a defect: going on would mean guessing what state this process is in."""
    loop.default_exception_handler(context)
    os._exit(ExitCode.FAILED)


class _Stop:
    """What signals ask for."""

    def __init__(self) -> None:
        self.is_asked = False
        self.on_asked: Callable[[], None] | None = None
        self._event = asyncio.Event()

    def asked(self) -> None:
        """A signal came."""
        if self.is_asked:
            os._exit(ExitCode.TERMINATED)
        self.is_asked = True
        self._event.set()
        if self.on_asked:
            self.on_asked()

    async def wait(self, seconds: float) -> None:
        """Waits for a signal, `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
