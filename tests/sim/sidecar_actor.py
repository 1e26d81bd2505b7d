"""A worker in a simulated world with the real sidecar: its client, its driver, its lease work and publishing.

Only what lies beside the leases is simulated: reading takes virtual time and makes rows of numbers, there is no arena,
no stage and no predictor; a lease's rows are written to a real file in one go. Messages are the real ones.

Not here: a worker that can be made to misbehave (`worker_actor`).
"""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from coordinator import wire
from headrace import v1
from headrace.errors import InputError, SinkError
from headrace.program import Program, program_from_json
from headrace.publish import REJECTED, staged_name
from headrace.stores.port import Growing, WorkerStore
from headrace.words import Incarnation, WorkerName
from sidecar.coordinator_client import Abandoned, CoordinatorClient, Refused, Registration
from sidecar.core.batches import ShardKey
from sidecar.core.terms import Terms
from sidecar.driver import Driver
from sidecar.flow import Flow
from sidecar.shard_run import ShardRun
from sidecar.writer import Staged
from tests.sim.coordinator_actor import CoordinatorActor
from tests.sim.lease_work import body_of
from tests.sim.processes import Process
from tests.sim.worker_actor import BLOCK_UNITS, Environment

COORDINATOR_TIMEOUT_S = 3600.0
"""Until a registration says otherwise; as the sidecar's `main` has it."""


class ModelFailed(InputError):
    """What a shard that is to fail fails of."""

    kind = "ModelFailed"


@dataclass
class Stub:
    """The worker service as a client sees it, across the simulated network."""

    process: Process
    environment: Environment

    async def register(self, request: v1.RegisterRequest) -> v1.RegisterReply:
        """As the generated stub."""

        async def ask(coordinator: CoordinatorActor) -> v1.RegisterReply | None:
            welcome = await coordinator.register(wire.introduction(request))
            return wire.welcome(welcome) if welcome is not None else None

        reply = await self.environment.network.call(self.process, ask)
        if reply is None:
            raise GRPCError(Status.FAILED_PRECONDITION, "a newer sidecar has registered")
        return reply

    async def exchange(self, request: v1.ExchangeRequest) -> v1.ExchangeReply:
        """As the generated stub."""

        async def ask(coordinator: CoordinatorActor) -> v1.ExchangeReply:
            return wire.answer(await coordinator.exchange(wire.report(request)))

        return await self.environment.network.call(self.process, ask)


class SimClient(CoordinatorClient):
    """The real client on a simulated network."""

    def __init__(self, stub: Stub, worker: WorkerName, incarnation: Incarnation) -> None:
        super().__init__("unix:nowhere", None, worker, incarnation, "")
        self._stub = stub  # type: ignore[assignment]


@dataclass
class NoArena:
    """Memory that nobody uses."""

    view: memoryview = field(default_factory=lambda: memoryview(b""))
    size: int = 4096


@dataclass
class Rows:
    """Stands for a writer: all rows of a lease, written when it is closed."""

    store: WorkerStore
    final: str
    kind: Literal["data", "rejects"]
    rows: list[int]
    growing: Growing | None = None

    def close(self) -> tuple[Staged, ...]:
        """As a writer's."""
        body = body_of(self.rows)
        self.growing = self.store.stage(self.final)
        try:
            self.growing.append(memoryview(body))
            staged = self.growing.finish()
        except OSError as error:
            raise SinkError(str(error)) from error
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        return (Staged(self.final, self.kind, len(body), digest, len(self.rows), staged),)

    def abort(self) -> None:
        """As a writer's."""
        if self.growing is not None:
            self.growing.discard()


@dataclass
class NumbersFeed:
    """Reads a lease block by block, in virtual time."""

    actor: "SidecarActor"
    program: Program

    async def read(self, run: ShardRun) -> None:
        """As the sidecar's feed."""
        while not run.is_cancelled:
            begin = run.position
            to = run.cursor.claim(min(begin + BLOCK_UNITS, run.limit))
            if to > begin:
                await asyncio.sleep((to - begin) / self.actor.units_per_s)
                run.cursor.hand_out(to)
                run.position = min(to, run.limit)
            else:
                await run.wait_end_agreed()
                if run.position >= run.end:
                    break
        if self.actor.fails_next:
            self.actor.fails_next = False
            raise ModelFailed("it was to fail")
        if not run.is_cancelled:
            self._fill(run)

    def _fill(self, run: ShardRun) -> None:
        poison, units = self.actor.environment.story.poison, range(run.lease.begin, run.position)
        rejected = [unit for unit in units if poison and unit % poison == poison - 1]
        out = [unit for unit in units if unit not in rejected]
        run.rows_read = run.rows_done = len(units)
        run.rows_out, run.rows_rejected = len(out), len(rejected)
        name = f"{run._stem()}.jsonl"
        if out:
            run._schema.agree(pa.schema([("n", pa.int64())]))
            run._writer = Rows(run._store, name, "data", out)  # type: ignore[assignment]
        if rejected:
            run._rejects = Rows(run._store, f"{REJECTED}/{name}", "rejects", rejected)  # type: ignore[assignment]


class IdleFlow(Flow):
    """A graph whose predictors were never started: everything has gone through it already."""

    async def open(self, socket_folder: Path, env: Mapping[str, str]) -> None:
        """Nothing to start."""

    async def watch(self) -> None:
        """Nothing to watch."""


class SimDriver(Driver):
    """The real driver with another feed, and nothing behind it."""

    def __init__(
        self, actor: "SidecarActor", client: CoordinatorClient, registration: Registration, terms: Terms
    ) -> None:
        program, arena = program_from_json(registration.program), NoArena()
        super().__init__(client, registration, program, terms, arena, soft_bytes=4096, cores=1)  # type: ignore[arg-type]
        self._flow.__class__ = IdleFlow
        self._feed = NumbersFeed(actor, program)  # type: ignore[assignment]

    @property
    def runs(self) -> Mapping[ShardKey, ShardRun]:
        """The work on every lease that it knows."""
        return self._runs

    @property
    def staging(self) -> str:
        """Where its files are staged."""
        return self._registration.staging

    async def _read_first(self, run: ShardRun) -> None:
        """There is no dataset without rows here."""


@dataclass
class SidecarActor:
    """One life of a worker's sidecar."""

    process: Process
    environment: Environment
    incarnation: Incarnation
    units_per_s: float
    terms: Terms = field(default_factory=lambda: Terms(0.0, COORDINATOR_TIMEOUT_S))
    fails_next: bool = False  # the next shard that is read raises
    _driver: SimDriver | None = None
    _is_stopped: bool = False

    @property
    def name(self) -> WorkerName:
        """The worker's, over all of its lives."""
        return WorkerName(self.process.name)

    @property
    def runs(self) -> Mapping[ShardKey, ShardRun]:
        """The work on every lease that it knows."""
        return self._driver.runs if self._driver is not None else {}

    def staged_paths(self) -> list[Path]:
        """All files that it has staged and not handed on."""
        if self._driver is None:
            return []
        staging = Path(self._driver.staging)
        return [staging / staged_name(file.name) for run in self.runs.values() for file in run.staged]

    async def main(self) -> None:
        """As the sidecar's `main`."""
        world = self.environment
        client = SimClient(Stub(self.process, world), self.name, self.incarnation)
        self.terms.heard(world.now)
        try:
            while not self._is_stopped:
                registration = await client.register((), self.terms)
                if registration.job_uid:
                    self.terms = Terms(registration.lease_ttl_s, registration.coordinator_timeout_s)
                    self.terms.renewed(world.now, world.now)
                    self._driver = SimDriver(self, client, registration, self.terms)
                    code = await self._driver.run(Path(), {})
                    world.note(self.name, f"exits with {code.name}")
                    return
                await asyncio.sleep(registration.retry_after_s)
        except (Abandoned, Refused) as error:
            world.note(self.name, f"exits of {type(error).__name__}")

    def drain(self) -> None:
        """SIGTERM."""
        self._is_stopped = True
        if self._driver is not None:
            self._driver.drain()
