"""`headrace run` from and into Google's and Azure's stores: complete once, whoever is killed, whatever is refused."""

import io
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.run_fixture import Site
from tests.object_store.bucket_fixture import Fault
from tests.object_store.cloud_fixture import AZURE_KEYS, AzureContainer, Cloud

FILES, ROWS = 6, 4_000


@dataclass
class CloudSite:
    """A job from a bucket into the same bucket, through the proxy."""

    site: Site
    cloud: Cloud

    def job(self, mode: str = "fail", **spec: Any) -> Path:
        storage = self.cloud.bucket.options(self.cloud.proxy.url)
        source = {"format": "parquet", "uri": f"{self.cloud.bucket.uri}/in/*/*.parquet", "storage": storage}
        sink = {"uri": f"{self.cloud.bucket.uri}/some/out/", "storage": storage, "mode": mode, "format": "parquet"}
        return self.site.job(source=source, sink=sink, name=f"job-{mode}", **spec)

    def check(self, times: int = 1) -> dict[str, bytes]:
        """Every row is there so often, for `verify` and for a stranger with a plain client and pyarrow."""
        bucket = self.cloud.bucket
        objects = bucket.objects("some/out/")
        parts = {key: body for key, body in objects.items() if "/_" not in key}
        table = pa.concat_tables([pq.read_table(io.BytesIO(body)) for body in parts.values()])
        assert sorted(table["x"].to_pylist()) == sorted(list(range(FILES * ROWS)) * times)
        assert table["y"].to_pylist() == [2 * x for x in table["x"].to_pylist()]
        options = bucket.options(bucket.url)
        anonymous = ["--anonymous"] if options.get("anonymous") else []
        ran = self.site.headrace(
            "verify", f"{bucket.uri}/some/out", "--endpoint", options["endpoint"], *anonymous, "-o", "json"
        )
        assert ran.code == 0, ran.text
        assert ran.document["rows_out"] == times * FILES * ROWS
        assert bucket.staged() == []
        assert "some/out/_SUCCESS" in objects
        assert "some/out/_headrace/claim.json" not in objects
        return parts


def parquet(number: int) -> bytes:
    """One of the input's files."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": range(ROWS * number, ROWS * (number + 1))}), sink, row_group_size=1000)
    return sink.getvalue()


@pytest.fixture
def site(tmp_path: Path, cloud: Cloud) -> CloudSite:
    for i in range(FILES):
        cloud.put(f"in/day={i}/part.parquet", parquet(i))
    return CloudSite(Site(tmp_path), cloud)


def test_a_bucket_is_filled_added_to_and_replaced(site: CloudSite) -> None:
    document = site.site.run_complete(site.job())
    assert document["output"] == f"{site.cloud.bucket.uri}/some/out"
    reads = [line for line in site.cloud.proxy.seen if line.startswith("GET") and "/part.parquet" in unquote(line)]
    assert len(reads) == 2 * FILES
    first = site.check()
    site.site.run_complete(site.job("append"))
    assert first.items() < site.check(times=2).items()
    site.site.run_complete(site.job("replace"))
    assert not first.keys() & site.check().keys()


def test_keys_are_nowhere_but_in_the_environment(tmp_path: Path, azure_container: AzureContainer) -> None:
    azure_container.put("in/x.parquet", parquet(0))
    storage = azure_container.options(azure_container.url)
    site = Site(tmp_path)
    job = site.job(
        source={"format": "parquet", "uri": f"{azure_container.uri}/in/", "storage": storage},
        sink={"uri": f"{azure_container.uri}/out", "storage": storage},
    )
    site.run_complete(job)
    key = AZURE_KEYS["AZURE_STORAGE_KEY"].encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if key in path.read_bytes()]
    assert not [name for name, body in azure_container.objects().items() if key in body]


def test_a_bucket_that_is_not_empty_or_not_there_is_a_bad_job(site: CloudSite) -> None:
    site.cloud.put("some/out/part-1.parquet", b"")
    job = site.job()
    ran = site.site.run(job)
    assert (ran.code, "isn't empty" in ran.text) == (42, True), ran.text
    job.write_text(job.read_text().replace("bucket-", "no-such-bucket-"))
    ran = site.site.run(job)
    assert (ran.code, "404" in ran.text) == (42, True), ran.text


def test_requests_that_fail_now_and_then_are_made_again(site: CloudSite) -> None:
    dice = random.Random(20261122)
    faults = (Fault.REFUSE, Fault.FAIL, Fault.CUT, Fault.LOSE)
    site.cloud.proxy.fault = lambda method, path: dice.choice(faults) if dice.random() < 0.3 else Fault.PASS
    site.site.run_complete(site.job(retries={"attempts": 1}), "--workers", "2")
    site.check()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["stage", "publish", "finish"])
def test_an_outage_longer_than_all_tries_costs_no_attempt(site: CloudSite, step: str) -> None:
    bucket = site.cloud.bucket
    signs = (*bucket.signs.create, "manifest-") if step == "finish" else getattr(bucket.signs, step)
    site.cloud.proxy.times(12, Fault.REFUSE, *signs)
    document = site.site.run_complete(site.job(retries={"attempts": 1}))
    assert document["shards_quarantined"] == 0
    assert len([line for line in site.cloud.proxy.seen if all(sign in line for sign in signs)]) > 12
    site.check()


def killing(run: "psutil.Process", module: str) -> None:
    """Kills the run's coordinator or sidecar."""
    for child in run.children(recursive=True):
        if module in child.cmdline():
            os.kill(child.pid, signal.SIGKILL)
            return
    raise AssertionError(f"no {module} runs")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.LOSE], ids=["before", "after"])
@pytest.mark.parametrize(
    ("module", "step", "mode"),
    [
        ("sidecar", "stage", "fail"),
        ("sidecar", "publish", "fail"),
        ("coordinator", "publish", "fail"),
        ("coordinator", "manifest-", "replace"),
        ("coordinator", "_SUCCESS", "append"),
    ],
)
def test_whoever_is_killed_at_a_request_leaves_one_complete_output(
    site: CloudSite, module: str, step: str, mode: str, fault: Fault
) -> None:
    if mode != "fail":
        site.site.run_complete(site.job())
    signs = getattr(site.cloud.bucket.signs, step, (*site.cloud.bucket.signs.create, step))
    run: list[psutil.Process] = []
    kill: Callable[[], None] | None = lambda: killing(run[0], module)  # noqa: E731

    def decide(method: str, path: str) -> Fault:
        nonlocal kill
        if kill is None or not all(sign in f"{method} {path}" for sign in signs):
            return Fault.PASS
        now, kill = kill, None
        now()
        return fault

    site.cloud.proxy.fault = decide
    with site.site.start(site.job(mode)) as started:
        run.append(psutil.Process(started.pid))
        stdout, stderr = started.communicate(timeout=60)
        code = started.returncode
    if code == 75:  # a worker's budget of restarts may be spent; then the same command goes on
        code = site.site.run(site.job(mode)).code
    assert code == 0, stdout + stderr + site.site.logs()
    assert kill is None
    site.check(times=2 if mode == "append" else 1)
