"""A whole sidecar in this process, with real predictors and files, and a coordinator that answers as a test says."""

import asyncio
import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.dataset import Slice
from headrace.program import (
    ErrorPolicy,
    Program,
    Ref,
    SinkColumn,
    SinkProgram,
    SourceProgram,
    StageInput,
    StageProgram,
)
from headrace.words import ExitCode
from sidecar.arena import Arena
from sidecar.coordinator_client import (
    Answer,
    CommitWish,
    CoordinatorClient,
    HeldLease,
    Lease,
    Registration,
    Report,
    Verdict,
)
from sidecar.core.batches import ShardKey
from sidecar.core.terms import Terms
from sidecar.driver import Driver

WAIT_S = 60.0
UID = "0123456789abcdef"

STAGES = '''
import os
import time

import numpy as np


class Twice:
    def __call__(self, batch):
        return {"y": batch["id"] * 2}


class Row:
    """Twice the id, of rows that may come with many columns."""

    def __call__(self, batch):
        return {"y": batch["id"] * 2, "sum": batch["x"].sum(axis=1)}


class Gate:
    """Twice the id; holds ids from `hold` on until the file `go` is there."""

    def __init__(self, folder, hold):
        self.folder, self.hold = folder, hold

    def __call__(self, batch):
        if batch["id"].max() >= self.hold:
            open(os.path.join(self.folder, "held"), "w").close()
            while not os.path.exists(os.path.join(self.folder, "go")):
                time.sleep(0.002)
        return {"y": batch["id"] * 2}


class Fatal:
    """Twice the id; the process dies of ids from `fatal` on."""

    def __init__(self, fatal):
        self.fatal = fatal

    def __call__(self, batch):
        if batch["id"].max() >= self.fatal:
            os._exit(3)
        return {"y": batch["id"] * 2}


class Late:
    """Empty lists in the first batch, numbers from then on."""

    def __call__(self, batch):
        return {"y": [[] for _ in batch["id"]] if batch["id"].min() == 0 else batch["id"] * 2.0}


class Slow:
    """Twice the id; every row takes `row_s`."""

    def __init__(self, row_s):
        self.row_s = row_s

    def __call__(self, batch):
        time.sleep(self.row_s * len(batch["id"]))
        return {"y": batch["id"] * 2}


class Bulky:
    """Twice the id in strings: mostly short, for some ids `large` bytes, for some more than the arena."""

    def __init__(self, large, many, huge):
        self.large, self.many, self.huge = large, set(many), set(huge)

    def __call__(self, batch):
        ids = batch["id"].tolist()
        sizes = [20 * self.large if i in self.huge else self.large if i in self.many else 1 for i in ids]
        return {"y": batch["id"] * 2, "text": np.array(["a" * size for size in sizes], dtype=object)}
'''


@dataclass
class Coordinator:
    """Grants `shards` in order, accepts every commit and split, and stops the worker when all are published.

    `answer` may change an answer before it leaves; `terms_renewed` says whether an exchange renews the lease.
    """

    path: Path
    staging: Path
    shards: list[tuple[int, int]]
    answer: Callable[[Report, Answer], None] = lambda report, answer: None
    is_renewing: Callable[[], bool] = lambda: True
    term: int = 1
    granted: int = 0
    kept: frozenset[ShardKey] = frozenset()
    reports: list[Report] = field(default_factory=list)
    registered: list[list[HeldLease]] = field(default_factory=list)
    commits: dict[ShardKey, CommitWish] = field(default_factory=dict)
    published: set[ShardKey] = field(default_factory=set)

    async def register(self, held: list[HeldLease], terms: Terms) -> Registration:
        self.registered.append(list(held))
        return self.registration(frozenset((lease.shard, lease.epoch) for lease in held))

    def registration(self, kept: frozenset[ShardKey] = frozenset()) -> Registration:
        return Registration(UID, self.term, "", str(self.staging), 10.0, 0.02, 3600.0, 0.1, kept)

    async def exchange(self, report: Report, terms: Terms) -> Answer:
        self.reports.append(report)
        now = asyncio.get_running_loop().time()
        if self.is_renewing():
            terms.renewed(now, now)
        answer = Answer(self.term, "", 0.02, [], {}, {}, [], [], {})
        for _ in range(min(report.want, len(self.shards) - self.granted)):
            answer.leases.append(self.lease(self.granted))
            self.granted += 1
        for wish in report.commits:
            answer.commits[wish.key] = Verdict("ACCEPTED", "")
        answer.ends |= dict(report.offers)
        for lease in report.published:
            answer.published[lease.shard, lease.epoch] = Verdict("ACCEPTED", "")
        if {(lease.shard, lease.epoch) for lease in report.published} | self.published >= {
            (shard, 1) for shard in range(len(self.shards))
        }:
            answer.directive = "stop"
        self.answer(report, answer)
        if answer.directive != "register":
            self.commits |= {wish.key: wish for wish in report.commits}
            self.published |= set(answer.published)
        await asyncio.sleep(0)
        return answer

    def lease(self, shard: int) -> Lease:
        begin, end = self.shards[shard]
        found = os.stat(self.path)
        rows = pq.read_metadata(self.path).num_rows
        return Lease(
            shard, 1, begin, end, (Slice(str(self.path), found.st_size, str(found.st_mtime_ns), begin, end, rows, 0),)
        )


@dataclass
class Bench:
    """One sidecar's surroundings in a folder."""

    folder: Path
    rows: int
    stage: str
    config: dict[str, Any] = field(default_factory=dict)
    width: int = 0
    outputs: tuple[str, ...] = ("y",)
    shards: int = 4
    arena_bytes: int = 16 << 20
    batch_rows: int = 256
    group: int = 16_384  # rows of a row group

    def __post_init__(self) -> None:
        (self.folder / "stages.py").write_text(STAGES)
        self.out = self.folder / "out"
        self.staging = self.out / "staging"
        self.staging.mkdir(parents=True)
        (self.out / "_headrace" / "rejected").mkdir(parents=True)
        data: dict[str, Any] = {"id": np.arange(self.rows)}
        data |= {f"f{i}": np.arange(self.rows, dtype=np.float32) for i in range(self.width)}
        table = pa.table(data)
        path = self.folder / "data.parquet"
        pq.write_table(table, path, row_group_size=self.group)
        cuts = [self.rows * i // self.shards for i in range(self.shards + 1)]
        self.coordinator = Coordinator(path, self.staging, list(pairwise(cuts)))
        self.arena = Arena.create(self.arena_bytes, prefault=self.arena_bytes)
        inputs = [StageInput("id", (Ref("source", "id"),))]
        if self.width:
            refs = tuple(Ref("source", f"f{i}") for i in range(self.width))
            inputs.append(StageInput("x", refs, stacked=True))
        self.program = Program(
            job_name="job",
            job_uid=UID,
            source=SourceProgram(
                "parquet",
                tuple(table.column_names),
                base64.b64encode(table.schema.serialize().to_pybytes()).decode(),
                units=self.rows,
            ),
            stages=(
                StageProgram(
                    "stage",
                    "python",
                    f"stages:{self.stage}",
                    tuple(inputs),
                    config=json.dumps(self.config),
                    search_path=(str(self.folder),),
                    batch_rows=self.batch_rows,
                    predictors_max=1,
                ),
            ),
            sink=SinkProgram(
                "parquet",
                str(self.out),
                (
                    SinkColumn("id", Ref("source", "id")),
                    *(SinkColumn(name, Ref("stage", name)) for name in self.outputs),
                ),
            ),
            errors=ErrorPolicy(max_rejected_rows=self.rows),
        )

    def driver(self, terms: Terms | None = None) -> Driver:
        client = cast(CoordinatorClient, self.coordinator)
        terms = terms or Terms(10.0, 3600.0)
        return Driver(
            client, self.coordinator.registration(), self.program, terms, self.arena, self.arena_bytes, cores=2
        )

    async def run(self, driver: Driver) -> ExitCode:
        async with asyncio.timeout(WAIT_S):
            return await driver.run(self.folder, {"HEADRACE_JOB": "job", "HEADRACE_WORKER": "worker-0"})

    async def run_new(self, *, is_cut_short: bool = False) -> ExitCode:
        """Runs a new driver to its end; nothing is left in the arena, unless it is cut short."""
        driver = self.driver()
        code = await self.run(driver)
        if not is_cut_short:
            assert driver._flow.arena_used == 0
        return code

    def out_ids(self) -> list[int]:
        """All ids of the published files, each with its own prediction."""
        files = sorted(self.out.glob("part-*"))
        if not files:
            return []
        table = pa.concat_tables(pq.read_table(file) for file in files)
        ids: list[int] = table["id"].to_pylist()
        assert table["y"].to_pylist() == [2 * i for i in ids]
        return sorted(ids)

    def rejected(self) -> dict[int, str]:
        """Rejected ids and why."""
        files = (self.out / "_headrace" / "rejected").glob("*.parquet")
        return {row["id"]: row["_class"] for file in files for row in pq.read_table(file).to_pylist()}

    def staged(self) -> list[str]:
        return [path.name for path in self.staging.iterdir()]
