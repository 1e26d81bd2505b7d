"""`headrace run` into a bucket of a real S3 server: complete once, whoever is killed and whatever the store refuses."""

import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.run_fixture import Site
from tests.object_store.bucket_fixture import Fault, Proxy, TestBucket

ROWS = 40_000


@dataclass
class BucketSite:
    """A job from a local file into a bucket, through the proxy."""

    site: Site
    bucket: TestBucket
    proxy: Proxy

    def job(self, mode: str = "fail", **spec: Any) -> Path:
        storage = {"endpoint": self.proxy.url, "region": "us-east-1"}
        uri = f"s3://{self.bucket.name}/some/out/"
        sink = {"uri": uri, "storage": storage, "mode": mode, "format": "parquet"}
        return self.site.job(source={"format": "parquet", "uri": "in.parquet"}, sink=sink, name=f"job-{mode}", **spec)

    def check(self, times: int = 1) -> dict[str, bytes]:
        """Every row is there so often, for `verify` and for a stranger with plain botocore and pyarrow."""
        objects = self.bucket.objects("some/out/")
        parts = {key: body for key, body in objects.items() if "/_" not in key}
        table = pa.concat_tables([pq.read_table(io.BytesIO(body)) for body in parts.values()])
        assert sorted(table["x"].to_pylist()) == sorted(list(range(ROWS)) * times)
        assert table["y"].to_pylist() == [2 * x for x in table["x"].to_pylist()]
        ran = self.site.headrace(
            "verify", f"s3://{self.bucket.name}/some/out", "--endpoint", self.bucket.url, "-o", "json"
        )
        assert ran.code == 0, ran.text
        assert ran.document["rows_out"] == times * ROWS
        assert self.bucket.uploads() == []
        assert "some/out/_SUCCESS" in objects
        assert "some/out/_headrace/claim.json" not in objects
        return parts


@pytest.fixture
def site(tmp_path: Path, bucket: TestBucket, proxy: Proxy) -> BucketSite:
    made = Site(tmp_path)
    made.parquet("in.parquet", {"x": range(ROWS)}, row_group_size=ROWS // 8)
    return BucketSite(made, bucket, proxy)


def test_a_bucket_is_filled_added_to_and_replaced(site: BucketSite) -> None:
    document = site.site.run_complete(site.job())
    assert document["output"] == f"s3://{site.bucket.name}/some/out"
    first = site.check()
    site.site.run_complete(site.job("append"))
    assert first.items() < site.check(times=2).items()
    site.site.run_complete(site.job("replace"))
    assert not first.keys() & site.check().keys()


def test_a_bucket_that_is_not_empty_or_not_there_is_a_bad_job(site: BucketSite) -> None:
    site.site.run_complete(site.job())
    other = site.site.job(
        source={"format": "parquet", "uri": "in.parquet"},
        sink={"uri": f"s3://{site.bucket.name}/some/out", "storage": {"endpoint": site.proxy.url}},
        name="other",
    )
    ran = site.site.run(other)
    assert (ran.code, "isn't empty" in ran.text) == (42, True), ran.text
    other.write_text(other.read_text().replace(site.bucket.name, f"{site.bucket.name}-not"))
    ran = site.site.run(other)
    assert (ran.code, "NoSuchBucket" in ran.text) == (42, True), ran.text


def test_a_complete_job_is_complete_as_long_as_its_output_is(site: BucketSite) -> None:
    job = site.job()
    site.site.run_complete(job)
    requests = len(site.proxy.seen)
    site.site.run_complete(job)
    assert not [line for line in site.proxy.seen[requests:] if line.startswith(("PUT", "POST", "DELETE"))]
    site.bucket.client.delete_object(Bucket=site.bucket.name, Key="some/out/_SUCCESS")
    assert "_SUCCESS" in site.site.run(job).text


def test_keys_are_nowhere_but_in_the_environment(site: BucketSite) -> None:
    secret = "hush-hush-hush"
    site.site.run_complete(site.job(), AWS_SECRET_ACCESS_KEY=secret)
    files = [path for path in site.site.folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_requests_that_fail_now_and_then_are_made_again(site: BucketSite) -> None:
    count = 0

    def fault(method: str, path: str) -> Fault:
        nonlocal count
        count += 1
        return {3: Fault.REFUSE, 5: Fault.LOSE, 6: Fault.FAIL}.get(count % 8, Fault.PASS)

    site.proxy.fault = fault
    site.site.run_complete(site.job())
    site.check()


PUBLISH = ("POST", "/part-", "uploadId=")
FINISH = ("PUT", "manifest-")
SUCCESS = ("PUT", "_SUCCESS")
STAGE = ("PUT", "/part-", "partNumber=")


@pytest.mark.slow
@pytest.mark.parametrize("signs", [STAGE, PUBLISH, FINISH], ids=["stage", "publish", "finish"])
def test_an_outage_longer_than_all_tries_costs_no_attempt(site: BucketSite, signs: tuple[str, ...]) -> None:
    site.proxy.times(12, Fault.REFUSE, *signs)
    document = site.site.run_complete(site.job(retries={"attempts": 1}))
    assert document["shards_quarantined"] == 0
    refused = [line for line in site.proxy.seen if all(sign in line for sign in signs)]
    assert len(refused) > 12
    site.check()


def killing(run: "psutil.Process", module: str) -> None:
    """Kills the run's coordinator or sidecar."""
    for child in run.children(recursive=True):
        if module in child.cmdline():
            os.kill(child.pid, signal.SIGKILL)
            return
    raise AssertionError(f"no {module} runs")


@pytest.mark.slow
def test_a_coordinator_that_comes_back_in_an_outage_waits_for_its_store(site: BucketSite) -> None:
    run: list[psutil.Process] = []
    refused = 0

    def decide(method: str, path: str) -> Fault:
        nonlocal refused
        if not refused and all(sign in f"{method} {path}" for sign in PUBLISH):
            refused = 1
            killing(run[0], "coordinator")
        if not 0 < refused < 13 or "claim.json" not in path:  # which a restart looks at first
            return Fault.PASS
        refused += 1
        return Fault.REFUSE

    site.proxy.fault = decide
    with site.site.start(site.job()) as started:
        run.append(psutil.Process(started.pid))
        stdout, stderr = started.communicate(timeout=90)
    assert started.returncode == 0, stdout + stderr + site.site.logs()
    assert refused == 13
    site.check()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.LOSE], ids=["before", "after"])
@pytest.mark.parametrize(
    ("module", "signs", "mode"),
    [
        ("sidecar", STAGE, "fail"),
        ("sidecar", PUBLISH, "fail"),
        ("coordinator", PUBLISH, "fail"),
        ("coordinator", FINISH, "replace"),
        ("coordinator", SUCCESS, "append"),
        ("coordinator", ("POST", "?delete"), "replace"),
    ],
)
def test_whoever_is_killed_at_a_request_leaves_one_complete_output(
    site: BucketSite, module: str, signs: tuple[str, ...], mode: str, fault: Fault
) -> None:
    if mode != "fail":
        site.site.run_complete(site.job())
    run: list[psutil.Process] = []
    kill: Callable[[], None] | None = lambda: killing(run[0], module)  # noqa: E731

    def decide(method: str, path: str) -> Fault:
        nonlocal kill
        if kill is None or not all(sign in f"{method} {path}" for sign in signs):
            return Fault.PASS
        now, kill = kill, None
        now()
        return fault

    site.proxy.fault = decide
    with site.site.start(site.job(mode)) as started:
        run.append(psutil.Process(started.pid))
        stdout, stderr = started.communicate(timeout=60)
        code = started.returncode
    if code == 75:  # a worker's budget of restarts may be spent; then the same command goes on
        code = site.site.run(site.job(mode)).code
    assert code == 0, stdout + stderr + site.site.logs()
    assert kill is None
    site.check(times=2 if mode == "append" else 1)
