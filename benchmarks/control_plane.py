"""The control plane over real gRPC: one coordinator on one core, a fleet of simulated workers that keep the protocol.

    python benchmarks/control_plane.py [--workers 500,1000,2000] [--seconds 60] [--plot FILE]

The coordinator is the real process, alone on one core (`taskset`); the fleet shares the others. A worker registers,
asks for leases, renews them with every heartbeat that the coordinator wants, says how far it is, answers splits,
commits each shard when it is through: everything but the rows and the files, which no coordinator touches (mode
`append`: workers don't publish, so none of their files is ever looked for). The coordinator sizes the shards by the
workers' rates as it always does, at 10 s of work; rates differ by a factor of up to three.

Latency of a lease: from the worker's call that wishes for it to the reply that grants it. Calls that were answered
with nothing to lease don't count. The first lease time is left out: everybody registers then.
"""

import argparse
import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from grpclib.client import Channel
from grpclib.exceptions import GRPCError

from headrace import v1
from headrace.channel import BROKEN, open_channel
from headrace.publish import part_name

WORKERS_PER_PROCESS = 500
CALL_TIMEOUT_S = 30.0
BYTES_PER_S = 1 << 20
"""Mean rate of a worker: ten seconds of it are above the smallest shard."""
FILE_BYTES = 128 << 20
WARM_UP_S = 15.0
"""Everybody registers, and the first grants, small until rates are known, are worked off."""
LEASES_AHEAD = 3
ROW_BYTES = 100
SCHEMA = '[["n","int64"]]'


@dataclass
class Figures:
    """What one fleet process saw after the warm-up."""

    lease_s: list[float] = field(default_factory=list)
    call_s: list[float] = field(default_factory=list)
    committed: int = 0
    stale: int = 0
    lost: int = 0  # answers that told a worker to register anew


class Worker:
    """One simulated worker: what a sidecar says, without what it does."""

    def __init__(self, stub: v1.WorkerServiceStub, name: str, figures: Figures, random: Random) -> None:
        self._stub, self._name, self._figures, self._random = stub, name, figures, random
        self._incarnation = secrets.token_hex(8)
        self._rate = BYTES_PER_S * random.uniform(0.5, 1.5)
        self._held: dict[tuple[int, int], v1.Grant] = {}  # in the order of their work; the first is being worked on
        self._begun_at = 0.0  # when that was begun
        self._offers: dict[tuple[int, int], int] = {}
        self._sequence = 0
        self._term = 0
        self._uid = ""
        self._heartbeat_s = 1.0

    async def work(self, until: float, counted_from: float) -> None:
        """Registers and keeps the protocol up to the instant `until`."""
        while time.monotonic() < until:
            try:
                await self._register(until)
                await self._exchange_on(until, counted_from)
            except (*BROKEN, GRPCError):
                await asyncio.sleep(self._random.uniform(0, self._heartbeat_s))

    async def _register(self, until: float) -> None:
        while time.monotonic() < until:
            held = self._held_messages(time.monotonic())
            reply = await self._stub.register(v1.RegisterRequest(self._name, self._incarnation, 1, held=held))
            self._term, self._heartbeat_s = reply.term, reply.heartbeat_s
            if reply.job_uid:
                self._uid = reply.job_uid
                return
            await asyncio.sleep(reply.retry_after_s)

    async def _exchange_on(self, until: float, counted_from: float) -> None:
        while time.monotonic() < until:
            asked = time.monotonic()
            held = self._held_messages(asked)
            done = [item for item in held[:1] if item.position == item.end]
            self._sequence += 1
            request = v1.ExchangeRequest(
                self._name,
                self._incarnation,
                self._term,
                self._sequence,
                held=held,
                want=max(0, LEASES_AHEAD - len(held) + len(done)),
                commits=[self._commit(item) for item in done],
                offers=[v1.SplitOffer(*key, at) for key, at in self._offers.items()],
                rows_per_second=self._rate / ROW_BYTES,
                stages=[v1.StageStats("model", 1, 1000, 1000, 10, 1.0)],
            )
            answer = await self._stub.exchange(request)
            if answer.directive == "register":
                self._figures.lost += 1
                return
            self._take(answer, time.monotonic() - asked, is_counted=asked >= counted_from)
            rest = answer.wait_s or self._heartbeat_s
            if self._held:
                grant = next(iter(self._held.values()))
                rest = min(rest, self._begun_at + (grant.end - grant.begin) / self._rate - time.monotonic())
            if not self._offers:
                await asyncio.sleep(max(0.0, rest))

    def _take(self, answer: v1.ExchangeReply, took: float, *, is_counted: bool) -> None:
        figures, now = self._figures, time.monotonic()
        first = next(iter(self._held), None)
        for verdict in (*answer.commits, *answer.stale):
            self._held.pop((verdict.shard, verdict.epoch), None)
        for ended in answer.answers:
            if (ended.shard, ended.epoch) in self._held:
                self._held[ended.shard, ended.epoch].end = ended.end
        self._offers = {}
        for grant in answer.grants:
            self._held[grant.shard, grant.epoch] = grant
        if next(iter(self._held), None) != first:
            self._begun_at = now
        for item in self._held_messages(now):
            if (item.shard, item.epoch) in {(ask.shard, ask.epoch) for ask in answer.asks}:
                self._offers[item.shard, item.epoch] = (item.position + item.end) // 2
        if is_counted:
            figures.call_s.append(took)
            figures.lease_s += [took] * bool(answer.grants)
            figures.committed += sum(verdict.outcome == "ACCEPTED" for verdict in answer.commits)
            figures.stale += len(answer.stale) + sum(verdict.outcome != "ACCEPTED" for verdict in answer.commits)

    def _held_messages(self, now: float) -> list[v1.Held]:
        messages = []
        for i, grant in enumerate(self._held.values()):
            read = int((now - self._begun_at) * self._rate) if i == 0 else 0
            end = self._offers.get((grant.shard, grant.epoch), grant.end)
            position = min(grant.begin + read, end)
            rows = (position - grant.begin) // ROW_BYTES
            messages.append(v1.Held(grant.shard, grant.epoch, grant.begin, grant.end, position, rows_done=rows))
        return messages

    def _commit(self, item: v1.Held) -> v1.Commit:
        rows = (item.end - item.begin) // ROW_BYTES
        name = part_name(item.shard, self._uid, item.epoch, secrets.token_hex(4), ".parquet")
        file = v1.StagedFile(name, "data", 1000, secrets.token_hex(16), rows)
        return v1.Commit(item.shard, item.epoch, item.begin, item.end, rows, 0, rows, 0, 0, files=[file], schema=SCHEMA)


async def fleet(address: str, workers: int, first: int, seconds: float) -> Figures:
    """Runs some of the workers on one loop, each with a connection of its own, as pods have."""
    figures, random = Figures(), Random(first)
    begun = time.monotonic()
    channels: list[Channel] = []

    async def one(number: int) -> None:
        await asyncio.sleep(random.uniform(0, WARM_UP_S / 2))
        channel = open_channel(address)
        channels.append(channel)
        stub = v1.WorkerServiceStub(channel, timeout=CALL_TIMEOUT_S)
        await Worker(stub, f"w{number}", figures, random).work(begun + WARM_UP_S + seconds, begun + WARM_UP_S)

    async with asyncio.TaskGroup() as group:
        for number in range(first, first + workers):
            group.create_task(one(number), name=f"w{number}")
    for channel in channels:
        channel.close()
    return figures


# ---------------------------------------------------------------------- the measurement


def write_job(folder: Path, nbytes: int) -> v1.SubmitRequest:
    """A job over `nbytes`, of one file under many names: nobody reads it but the planner, and that only its head."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    line = b'{"n":1}'.ljust(ROW_BYTES - 1) + b"\n"
    (folder / "in").mkdir()
    (folder / "in" / "0.jsonl").write_bytes(line * (FILE_BYTES // ROW_BYTES))
    for number in range(1, nbytes // FILE_BYTES + 1):
        os.link(folder / "in" / "0.jsonl", folder / "in" / f"{number}.jsonl")
    (folder / "out").mkdir()
    pq.write_table(pa.table({"n": pa.array([0], pa.int64())}), folder / "out" / "before.parquet")
    job = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "fleet"},
        "spec": {
            "source": {"format": "jsonl", "uri": str(folder / "in" / "*.jsonl")},
            "pipeline": [{"name": "model", "python": "model:Model", "inputs": {"n": "source.n"}}],
            "sink": {
                "format": "parquet", "uri": str(folder / "out"), "columns": {"n": "source.n"}, "mode": "append",
            },
        },
    }  # fmt: skip
    return v1.SubmitRequest(json.dumps(job), digest="fleet")


async def submit(address: str, request: v1.SubmitRequest) -> None:
    """Submits once the coordinator is there."""
    deadline = time.monotonic() + 30
    while True:
        channel = open_channel(address)
        try:
            await v1.JobServiceStub(channel, timeout=120).submit(request)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        finally:
            channel.close()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(workers: int, seconds: float) -> dict[str, float]:
    """One fleet size; the figures of its row."""
    cores = sorted(os.sched_getaffinity(0))
    own, others = cores[-1], cores[:-1] or cores
    with tempfile.TemporaryDirectory(prefix="headrace-fleet-") as name:
        folder = Path(name)
        address = f"unix:{folder / 'state' / 'socket'}"
        # Twice what the fleet reads: the measurement ends before the job's tail begins.
        request = write_job(folder, int(2 * workers * (seconds + WARM_UP_S) * BYTES_PER_S))
        command = ["taskset", "-c", str(own), sys.executable, "-m", "coordinator", "--state", str(folder / "state")]
        coordinator = subprocess.Popen([*command, "--socket", address.removeprefix("unix:")], stderr=subprocess.DEVNULL)
        try:
            asyncio.run(submit(address, request))
            fleets = []
            for first in range(0, workers, WORKERS_PER_PROCESS):
                count = min(WORKERS_PER_PROCESS, workers - first)
                arguments = ["--fleet", address, str(count), str(first), str(seconds)]
                pinned = ["taskset", "-c", ",".join(map(str, others))]
                fleets.append(subprocess.Popen([*pinned, sys.executable, __file__, *arguments], stdout=subprocess.PIPE))
            time.sleep(WARM_UP_S)
            begun, used = time.monotonic(), cpu_s(coordinator.pid)
            time.sleep(seconds)
            share = (cpu_s(coordinator.pid) - used) / (time.monotonic() - begun)
            answers = [process.communicate()[0] for process in fleets]
            for process in fleets:
                if process.returncode:
                    raise RuntimeError(f"a fleet process ended with {process.returncode}")
            found = list(map(json.loads, answers))
        finally:
            coordinator.send_signal(signal.SIGKILL)
            coordinator.wait()
    leases = sorted(took for part in found for took in part["lease_s"])
    calls = sorted(took for part in found for took in part["call_s"])
    return {
        "workers": workers,
        "calls_per_s": len(calls) / seconds,
        "leases": len(leases),
        "lease_p50_ms": 1e3 * leases[len(leases) // 2],
        "lease_p99_ms": 1e3 * leases[int(0.99 * len(leases))],
        "call_p99_ms": 1e3 * calls[int(0.99 * len(calls))],
        "commits_per_s": sum(part["committed"] for part in found) / seconds,
        "stale": sum(part["stale"] for part in found),
        "lost": sum(part["lost"] for part in found),
        "coordinator_cpu": share,
    }


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Latency of a lease and the coordinator's CPU over the size of the fleet."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    workers = [row["workers"] for row in rows]
    left.plot(workers, [row["lease_p99_ms"] for row in rows], "o-", label="p99")
    left.plot(workers, [row["lease_p50_ms"] for row in rows], "o-", label="p50")
    left.axhline(100, color="grey", linestyle=":", label="target of p99")
    left.set(xlabel="workers", ylabel="lease, ms", ylim=(0, None))
    left.legend()
    right.plot(workers, [row["coordinator_cpu"] for row in rows], "o-")
    right.axhline(1, color="grey", linestyle=":")
    right.set(xlabel="workers", ylabel="cores used by the coordinator", ylim=(0, 1.1))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures each fleet size in turn; one JSON line each."""
    if sys.argv[1:2] == ["--fleet"]:
        address, count, first, seconds = sys.argv[2:]
        figures = asyncio.run(fleet(address, int(count), int(first), float(seconds)))
        print(json.dumps(vars(figures)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="500,1000,2000", help="fleet sizes (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured seconds per size")
    parser.add_argument("--plot", type=Path, help="write a picture there")
    options = parser.parse_args()
    rows = []
    for workers in map(int, options.workers.split(",")):
        rows.append(measure(workers, options.seconds))
        print(json.dumps({key: round(value, 3) for key, value in rows[-1].items()}), flush=True)
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
