"""Jobs on real processes under `headrace chaos`, round after round, each checked by `headrace verify` and by hand.

    python -m tests.scenarios.chaos.rounds [--faults 1000] [--seed N] [--folder F]

prints its seed first, one line per round, and the recovery times of all rounds at the end. One round is one job over
some 100,000 ids; what it is made of (format, workers, predictors, shards) is drawn from the seed. Every second round's
input and output lie in a bucket of a real S3 server, behind a proxy that throttles, fails, cuts and is away meanwhile
(`storms`). The check reads input and output with pyarrow alone and compares every id.
"""

import argparse
import json
import math
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tests.integration.faults_fixture import MARK, Faults
from tests.integration.run_fixture import HEADRACE
from tests.object_store.bucket_fixture import KEYS, Proxy, TestBucket, new_bucket, proxied, s3_server
from tests.scenarios.chaos.storms import Storm

ROUND_TIMEOUT_S = 300.0
LEFT_TIMEOUT_S = 5.0
ROWS_PER_FILE = 20_000
WIDTH = 32
OUTPUT = "out"
INPUT = "in"

STAGE = '''
import subprocess
import time


class Slow:
    """Three times the id and one, after a pause that lets faults fall; starts processes that never end."""

    def __init__(self, pause_s):
        self.pause_s = pause_s
        for own_session in (False, True):
            subprocess.Popen(["sleep", "7777"], start_new_session=own_session)

    def __call__(self, batch):
        time.sleep(self.pause_s)
        return {"y": batch["id"] * 3 + 1}
'''


@dataclass(frozen=True, slots=True)
class Round:
    """What one job is made of."""

    seed: int
    rows: int
    format: str
    workers: int
    predictors: int
    mode: str
    is_in_bucket: bool

    @staticmethod
    def drawn(seed: int) -> "Round":
        """From its seed alone."""
        random = Random(seed)
        return Round(
            seed=seed,
            rows=random.randrange(60_000, 120_000),
            format=random.choice(("parquet", "csv")),
            workers=random.choice((2, 2, 3)),
            predictors=random.choice((1, 2)),
            mode=random.choice(("fail", "fail", "replace")),
            is_in_bucket=seed % 2 == 1,  # so that any two rounds have both
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a round's input and output lie."""

    folder: Path
    bucket: TestBucket | None = None
    proxy: Proxy | None = None
    storm: Storm | None = None

    def uri(self, name: str) -> str:
        """As the job has it."""
        return name if self.bucket is None else f"s3://{self.bucket.name}/{name}"

    @property
    def storage(self) -> dict[str, Any]:
        """How the job comes there."""
        return {} if self.proxy is None else {"storage": {"endpoint": self.proxy.url, "region": "us-east-1"}}

    @property
    def verify_arguments(self) -> list[str]:
        """Of `headrace verify`, which no storm hits."""
        return [str(self.folder / OUTPUT)] if self.bucket is None else [self.uri(OUTPUT), "--endpoint", self.bucket.url]

    def fill(self) -> None:
        """Brings to the bucket what lies in the folder."""
        for path in sorted(self.folder.glob("*/*")) if self.bucket is not None else ():
            key = f"{path.parent.name}/{path.name}"
            self.bucket.client.put_object(Bucket=self.bucket.name, Key=key, Body=path.read_bytes())

    def fetch(self) -> None:
        """Brings the output from the bucket to the folder, and asks that nothing half done is left there."""
        if self.bucket is None:
            return
        shutil.rmtree(self.folder / OUTPUT, ignore_errors=True)
        for key, body in self.bucket.objects(f"{OUTPUT}/").items():
            path = self.folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        if left := self.bucket.uploads():
            raise RoundFailed(f"uploads are left: {left}")


@contextmanager
def place_of(folder: Path, round_: Round, server: str) -> Iterator[Place]:
    """The round's place; a bucket's storm begins with the first request."""
    if not round_.is_in_bucket:
        yield Place(folder)
        return
    with proxied(server) as proxy:
        storm = Storm(round_.seed)
        yield Place(folder, new_bucket(server), proxy, storm)


class RoundFailed(AssertionError):
    """A round that lost something, or didn't end; its folder is kept."""


def play(
    folder: Path, round_: Round, *, server: str, pause_s: float, every_s: float = 0.1, faults_max: int = 100_000
) -> dict[str, Any]:
    """Runs one round in `folder`, which must not exist.

    Args:
        server: URL of an S3 server.
        pause_s: longest SIGSTOP.
        every_s: from one recovery to the next fault.
        faults_max: after so many of its processes, the round goes on without.

    Returns:
        the document of `headrace chaos`, with what the store did among its faults.
    """
    with place_of(folder, round_, server) as place:
        arguments = ["--every", str(every_s), "--pause", str(pause_s), "--faults-max", str(faults_max)]
        return _play(place, round_, arguments)


def _play(place: Place, round_: Round, faults: Sequence[str]) -> dict[str, Any]:
    folder = place.folder
    site = Faults(folder)
    job = write_job(site, round_, place)
    place.fill()
    if place.proxy is not None and place.storm is not None:
        place.proxy.fault = place.storm
    arguments = ["--workers", str(round_.workers), "--seed", str(round_.seed), *faults]
    arguments += ["--together", "4", "--state", str(site.state), "-o", "json"]
    done = subprocess.run(
        [HEADRACE, "chaos", str(job), *arguments],
        cwd=folder,
        env={**os.environ, **KEYS, "TMPDIR": str(site.temporary), MARK: site.mark},
        capture_output=True,
        text=True,
        timeout=ROUND_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RoundFailed(f"{round_} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    document: dict[str, Any] = json.loads(done.stdout)
    if not document["is_nothing_lost"]:
        raise RoundFailed(f"{round_}: {document['findings']}")
    command = [HEADRACE, "verify", *place.verify_arguments]
    verified = subprocess.run(command, env={**os.environ, **KEYS}, capture_output=True, text=True, check=False)
    if verified.returncode != 0:
        raise RoundFailed(f"{round_}: {verified.stdout}{verified.stderr}")
    place.fetch()
    check_ids(folder, round_)
    site.wait_no_process(LEFT_TIMEOUT_S)
    document["faults"] += [] if place.storm is None else place.storm.faults
    return document


def write_job(site: Faults, round_: Round, place: Place) -> Path:
    """The round's input and job file."""
    (site.folder / "slow.py").write_text(STAGE)
    (site.folder / INPUT).mkdir()
    for number, first in enumerate(range(0, round_.rows, ROWS_PER_FILE)):
        ids = np.arange(first, min(first + ROWS_PER_FILE, round_.rows))
        noise = np.random.default_rng(number).standard_normal(len(ids))
        table = pa.table({"id": ids, **{f"f{i}": noise + i for i in range(WIDTH)}})
        path = site.folder / INPUT / f"{number:03d}.{round_.format}"
        if round_.format == "csv":
            pyarrow.csv.write_csv(table, path)
        else:
            pq.write_table(table, path, row_group_size=4096)
    csv = {"csv": {"lineBreaksInFields": False}} if round_.format == "csv" else {}
    if round_.mode == "replace":
        site.out.mkdir()
        pq.write_table(pa.table({"id": [-1]}), site.out / "old.parquet")
    return site.job(
        source={"format": round_.format, "uri": place.uri(f"{INPUT}/*.{round_.format}"), **csv, **place.storage},
        pipeline=[
            {
                "name": "slow",
                "python": "slow:Slow",
                "inputs": {"id": "source.id", "x": [f"source.f{i}" for i in range(WIDTH)]},
                "config": {"pause_s": 0.15},
                "predictors": {"min": round_.predictors, "max": round_.predictors},
            }
        ],
        sink={
            "columns": {"id": "source.id", "y": "slow.y"},
            "mode": round_.mode,
            "uri": place.uri(OUTPUT),
            **place.storage,
        },
    )


def check_ids(folder: Path, round_: Round) -> None:
    """Every id of the input is in the output once, with its own result; read with pyarrow alone.

    Raises:
        RoundFailed: one is missing, there twice, or wrong.
    """
    read = pyarrow.csv.read_csv if round_.format == "csv" else pq.read_table
    given = np.concatenate([read(path)["id"].to_numpy() for path in sorted((folder / INPUT).iterdir())])
    tables = [pq.read_table(path) for path in (folder / OUTPUT).glob("*.parquet")]
    ids = np.concatenate([table["id"].to_numpy() for table in tables])
    results = np.concatenate([table["y"].to_numpy() for table in tables])
    found, counts = np.unique(ids, return_counts=True)
    if not np.array_equal(found, np.unique(given)) or counts.max() > 1:
        missing, twice = np.setdiff1d(given, found), found[counts > 1]
        raise RoundFailed(f"{round_}: missing {missing[:10]} ({len(missing)}), twice {twice[:10]} ({len(twice)})")
    if not np.array_equal(results, ids * 3 + 1):
        raise RoundFailed(f"{round_}: wrong results for {ids[results != ids * 3 + 1][:10]}")


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.scenarios.chaos.rounds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", type=int, default=1000, help="go on until so many fell (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; each next one adds 1")
    parser.add_argument(
        "--pause", type=float, default=12.0, help="longest SIGSTOP in seconds; leases last 8 (default: %(default)s)"
    )
    parser.add_argument("--round-faults", type=int, default=100_000, help="most of one round; default: no bound")
    parser.add_argument("--folder", type=Path, default=None, help="where the rounds' folders go (default: temporary)")
    options = parser.parse_args()
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    root = options.folder or Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
    os.environ.update(KEYS)
    with s3_server() as server:
        _play_on(options, seed, root, server)
    return 0


def _play_on(options: argparse.Namespace, seed: int, root: Path, server: str) -> None:
    times: dict[str, list[float]] = {}
    counts: Counter[str] = Counter()
    fell = 0
    while fell < options.faults:
        round_ = Round.drawn(seed)
        folder, begun = root / f"round-{seed}", time.monotonic()
        document = play(folder, round_, server=server, pause_s=options.pause, faults_max=options.round_faults)
        shutil.rmtree(folder)
        fell += len(document["faults"])
        for fault in document["faults"]:
            times.setdefault(fault["kind"], []).extend([fault["recovered_s"]] * (fault["recovered_s"] is not None))
            counts[fault["kind"]] += 1
        print(f"{fell:5d} faults, {time.monotonic() - begun:5.1f} s: {round_}", flush=True)
        seed += 1
    for kind, seconds in sorted(times.items()):
        line = f"{kind:<19} {counts[kind]:4d} times"
        if seconds:
            p99 = sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]
            line += f", {len(seconds):4d} recoveries: median {statistics.median(seconds):.2f} s, p99 {p99:.2f} s"
        print(line)


if __name__ == "__main__":
    sys.exit(main())
