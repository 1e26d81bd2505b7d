"""The job service as the commands use it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from headrace import v1
from headrace.channel import BROKEN, open_channel
from headrace.errors import HeadraceError
from headrace.limits import CALL_TIMEOUT_S
from headrace.refusals import faults_from_text
from headrace.words import TERMINAL_PHASES

SUBMIT_TIMEOUT_S = 600.0
"""Planning reads the footers of all files before it answers."""

WATCH_SILENT_MAX_S = 30.0
"""A coordinator says how a job stands every second or two, whatever happens."""

Unreachable = BROKEN


class Rejected(HeadraceError):
    """The coordinator understood and said no."""


class NotFound(Rejected):
    """No job of that name."""


@asynccontextmanager
async def job_service(address: str, token: str | None = None) -> AsyncIterator[v1.JobServiceStub]:
    """A stub on a channel that is closed after the block; statuses become `BadJob`, `NotFound` or `Rejected`."""
    channel: Channel = open_channel(address, token)
    try:
        yield v1.JobServiceStub(channel, timeout=CALL_TIMEOUT_S)
    except GRPCError as error:
        raise as_error(error) from error
    finally:
        channel.close()


def as_error(error: GRPCError) -> HeadraceError:
    """What a status means to a user."""
    message = str(error.message or error.status.name)
    if error.status is Status.INVALID_ARGUMENT and (bad := faults_from_text(message)):
        return bad
    return NotFound(message) if error.status is Status.NOT_FOUND else Rejected(message)


async def follow(
    address: str,
    token: str | None,
    name: str,
    away_max_s: float = float("inf"),
    silent_max_s: float = WATCH_SILENT_MAX_S,
) -> AsyncIterator[v1.Job]:
    """Statuses of a job up to its terminal one, through losses and restarts of the coordinator.

    A stream that says nothing for `silent_max_s` is opened anew.

    Raises:
        Rejected: the coordinator has been away for over `away_max_s`.
    """
    heard_at = time.monotonic()
    while True:
        channel = open_channel(address, token)
        try:
            # The stream has no deadline as a whole: it ends with the job.
            jobs = aiter(v1.JobServiceStub(channel).watch(v1.JobRequest(name=name)))
            while job := await asyncio.wait_for(anext(jobs, None), silent_max_s):
                yield job
                heard_at = time.monotonic()
                if job.phase in TERMINAL_PHASES:
                    return
        except Unreachable:
            pass
        except GRPCError as error:
            if error.status is not Status.UNAVAILABLE:
                raise as_error(error) from error
        finally:
            channel.close()
        if time.monotonic() - heard_at > away_max_s:
            raise Rejected(f"No coordinator answers at {address} any more: the job isn't being run now.")
        await asyncio.sleep(0.1)
