"""The gRPC services: workers', users', health and reflection, on a Unix socket and, with a token, on loopback.

Errors are gRPC statuses: INVALID_ARGUMENT with the faults as JSON in the message (`headrace.refusals`) for a job that
can't run, FAILED_PRECONDITION for one that isn't in the right state, NOT_FOUND, UNAUTHENTICATED, RESOURCE_EXHAUSTED
for a message over the limit, UNAVAILABLE while the process ends.

Not here: what is decided (`coordinator.worker_desk`, `coordinator.job_desk`), how messages become
values (`coordinator.wire`), which bytes are none (`coordinator.call_check`).
"""

import asyncio
import hmac
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import structlog
from google.protobuf import descriptor_pb2, descriptor_pool  # type: ignore[import-untyped]
from grpclib.const import Status
from grpclib.events import RecvRequest, listen
from grpclib.exceptions import GRPCError
from grpclib.health.service import Health
from grpclib.reflection.service import ServerReflection
from grpclib.server import Server

from coordinator import wire
from coordinator.call_check import MessageCodec, checked
from coordinator.driver import NoSuchJob, WrongState
from coordinator.job_desk import JobDesk
from coordinator.submission import Submission
from coordinator.worker_desk import BadReport, WorkerDesk
from headrace import v1
from headrace.channel import listen_unix
from headrace.errors import BadJob, HeadraceError, InputError, SinkError
from headrace.refusals import TEXT_MAX, faults_to_text
from headrace.words import TERMINAL_PHASES, ShardState

PROTOCOL = 1
WATCH_EVERY_S = 0.2
"""Least time between two messages of a watch; the last one comes at once."""
LIST_MAX = 1000
ANSWER_GRACE_S = 0.5
"""For calls in progress when the process ends: they take milliseconds, but for planning, which is asked again."""

log = structlog.get_logger()

T = TypeVar("T")
P = ParamSpec("P")

DESCRIPTORS = Path(v1.__file__).with_name("headrace.binpb")


class WorkerService(v1.WorkerServiceBase):
    """What workers call."""

    def __init__(self, desk: WorkerDesk) -> None:
        self._desk = desk

    async def register(self, register_request: v1.RegisterRequest) -> v1.RegisterReply:
        """Answers when what it promises is durable."""
        if register_request.protocol != PROTOCOL:
            raise GRPCError(
                Status.FAILED_PRECONDITION,
                f"This coordinator speaks protocol {PROTOCOL}, the worker {register_request.protocol}.",
            )
        if not register_request.worker or not register_request.incarnation:
            raise GRPCError(Status.INVALID_ARGUMENT, "A registration names its worker and incarnation.")
        return wire.welcome(await _answered(self._desk.register(wire.introduction(register_request))))

    async def exchange(self, exchange_request: v1.ExchangeRequest) -> v1.ExchangeReply:
        """Answers when what it promises, or denies, is durable."""
        return wire.answer(await _answered(self._desk.exchange(wire.report(exchange_request))))


class JobService(v1.JobServiceBase):
    """What users call."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk

    async def submit(self, submit_request: v1.SubmitRequest) -> v1.Job:
        """Plans and starts a job, or answers the one of this name and digest."""
        submission = Submission(
            manifest=submit_request.manifest,
            probes=submit_request.probes,
            limit_rows=submit_request.limit_rows or None,
            again=submit_request.again,
            digest=submit_request.digest,
            rejected=submit_request.rejected,
        )
        return wire.job(await _answered(self._desk.submit(submission)))

    async def get(self, job_request: v1.JobRequest) -> v1.Job:
        """One job's status."""
        return wire.job(_known(self._desk.status, job_request.name))

    async def list(self, list_request: v1.ListRequest) -> v1.ListReply:
        """All jobs of this ledger, in order of submission."""
        return v1.ListReply(jobs=[wire.job(status) for status in self._desk.statuses()])

    async def watch(self, job_request: v1.JobRequest) -> AsyncIterator[v1.Job]:
        """The status now and after changes, up to the terminal one."""
        name = job_request.name
        while True:
            change = _known(self._desk.next_change, name)
            status = _known(self._desk.status, name)
            yield wire.job(status)
            if status.phase in TERMINAL_PHASES:
                return
            await asyncio.wait([self._desk.end_of(name)], timeout=WATCH_EVERY_S)
            await asyncio.wait([change], timeout=1.0)

    async def cancel(self, job_request: v1.JobRequest) -> v1.Job:
        """Ends a job as Failed with reason Cancelled; workers drop what they hold."""
        return wire.job(await _answered(self._desk.cancel(job_request.name)))

    async def suspend(self, job_request: v1.JobRequest) -> v1.Job:
        """Grants nothing more until `Resume`; workers hand back."""
        return wire.job(await _answered(self._desk.suspend(job_request.name)))

    async def resume(self, job_request: v1.JobRequest) -> v1.Job:
        """Goes on with a suspended job."""
        return wire.job(await _answered(self._desk.resume(job_request.name)))

    async def scale(self, scale_request: v1.ScaleRequest) -> v1.Job:
        """Sets the most workers that get leases of the job."""
        return wire.job(await _answered(self._desk.scale(scale_request.name, scale_request.workers_max)))

    async def list_shards(self, shards_request: v1.ShardsRequest) -> v1.ShardsReply:
        """Shards by id; `after` is the `next` of the page before, 0 for the first page."""
        state = None
        if shards_request.state:
            try:
                state = ShardState(wire.STATES.index(shards_request.state))
            except ValueError:
                raise GRPCError(
                    Status.INVALID_ARGUMENT, f"state: {shards_request.state!r} is none of {', '.join(wire.STATES)}"
                ) from None
        limit = _limit(shards_request.limit)
        views = _known(self._desk.shards, shards_request.name, state, shards_request.after - 1, limit)
        shown = views[-1].shard + 1 if len(views) == limit else 0
        return v1.ShardsReply(shards=[wire.shard(view) for view in views], next=shown)

    async def list_workers(self, job_request: v1.JobRequest) -> v1.WorkersReply:
        """Workers seen since this coordinator started, of one job or (no name) of all."""
        rows = _known(self._desk.workers, job_request.name)
        return v1.WorkersReply(workers=[wire.worker(seat, leases, ago_s) for seat, leases, ago_s in rows])

    async def list_rejects(self, rejects_request: v1.RejectsRequest) -> v1.RejectsReply:
        """Rejects files and corrupt ranges of committed shards; `after` is the `next` of the page before."""
        limit = _limit(rejects_request.limit)
        page = await _answered(self._desk.rejects(rejects_request.name, rejects_request.after, limit))
        return v1.RejectsReply(
            files=[v1.RejectFile(shard=shard, path=path, rows=rows) for shard, path, rows in page.files],
            rows=page.rows,
            next=page.next,
            corrupt=[v1.CorruptFile(path, begin, end, reason) for path, begin, end, reason in page.corrupt],
            unit=page.unit,
        )


class GracefulServer(Server):
    """A server that can let the calls in progress be answered before it is closed."""

    def __init__(self, services: list[Any]) -> None:
        super().__init__(services, codec=MessageCodec())
        self._calls: set[asyncio.Task[Any]] = set()
        self._has_stranger = False

    def note_call(self) -> None:
        """The current task serves a call that is to be answered; a watch, which ends with its job, is none."""
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def note_stranger(self) -> None:
        """Somebody called without the token; logged the first time."""
        if not self._has_stranger:
            self._has_stranger = True
            log.warning("a call without this coordinator's token was refused")

    async def settle(self) -> None:
        """Waits until no call is in progress, for ANSWER_GRACE_S at most: who cancels a job hears so."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=ANSWER_GRACE_S)


def make_server(workers: WorkerDesk, jobs: JobDesk, token: str | None) -> GracefulServer:
    """A server of all services; every call is checked for its length and, if there is a `token`, for that."""
    ours: list[Any] = [WorkerService(workers), JobService(jobs)]
    services = [*ours, Health(dict.fromkeys(ours, ()))]
    _register_descriptors()
    # Extended twice, reflection also lists its own first self, which the second takes the place of.
    server = GracefulServer(ServerReflection.extend(ServerReflection.extend(services)))
    _guard(server, token)
    return server


async def serve_unix(workers: WorkerDesk, jobs: JobDesk, path: Path) -> tuple[GracefulServer, socket.socket]:
    """Serves on a Unix socket; the mode of its folder is the permission. Gives the server and its socket."""
    server = make_server(workers, jobs, token=None)
    sock = listen_unix(path)
    # create_server takes any listening stream socket; create_unix_server would unlink the path at the end.
    await server.start(sock=sock)
    return server, sock


async def serve_loopback(
    workers: WorkerDesk, jobs: JobDesk, host: str, port: int, token: str
) -> tuple[GracefulServer, int]:
    """Serves on loopback with a token; gives the server and its port."""
    server = make_server(workers, jobs, token)
    sock = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setblocking(False)
    await server.start(sock=sock)
    return server, int(sock.getsockname()[1])


def _guard(server: GracefulServer, token: str | None) -> None:
    expected = f"Bearer {token}".encode() if token is not None else None

    async def check(event: RecvRequest) -> None:
        if expected is not None:
            shown = str(event.metadata.get("authorization", "")).encode()
            if not hmac.compare_digest(shown, expected):
                server.note_stranger()
                raise GRPCError(Status.UNAUTHENTICATED, "This coordinator asks for its bearer token.")
        if not event.method_name.endswith("/Watch"):
            server.note_call()
        takes_stream = event.method_name.endswith("/ServerReflectionInfo")
        event.method_func = checked(event.method_func, may_be_empty=takes_stream)  # type: ignore[assignment]

    listen(server, RecvRequest, check)


def _register_descriptors() -> None:
    """Puts our services into protobuf's pool: betterproto doesn't, and reflection describes only what is there."""
    pool = descriptor_pool.Default()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())


async def _answered(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except (HeadraceError, OSError) as error:
        raise _status(error) from error


def _known(query: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return query(*args, **kwargs)
    except HeadraceError as error:
        raise _status(error) from error


def _status(error: Exception) -> GRPCError:
    match error:
        case BadJob():
            return GRPCError(Status.INVALID_ARGUMENT, faults_to_text(error))
        case BadReport():
            return GRPCError(Status.INVALID_ARGUMENT, str(error)[:TEXT_MAX])
        case NoSuchJob():
            return GRPCError(Status.NOT_FOUND, str(error)[:TEXT_MAX])
        case WrongState() | SinkError() | InputError():
            return GRPCError(Status.FAILED_PRECONDITION, str(error)[:TEXT_MAX])
        case _:
            return GRPCError(Status.UNAVAILABLE, str(error)[:TEXT_MAX])


def _limit(asked: int) -> int:
    return min(asked or 100, LIST_MAX)
