"""`headrace run` on an input in S3: a real server, and a proxy before it that breaks what comes through."""

import io
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.run_fixture import Site
from tests.object_store.bucket_fixture import Fault, Proxy, TestBucket

FILES, ROWS = 6, 500


def fill(bucket: TestBucket) -> None:
    for i in range(FILES):
        sink = io.BytesIO()
        pq.write_table(pa.table({"x": [float(ROWS * i + n) for n in range(ROWS)]}), sink, row_group_size=100)
        bucket.client.put_object(Bucket=bucket.name, Key=f"in/day={i}/part.parquet", Body=sink.getvalue())


def job(site: Site, bucket: TestBucket, proxy: Proxy, **spec: Any) -> Path:
    source = {
        "format": "parquet",
        "uri": f"s3://{bucket.name}/in/*/*.parquet",
        "storage": {"endpoint": proxy.url, "region": "us-east-1"},
    }
    columns = {"x": "source.x", "y": "double.y", "day": "source.day"}
    return site.job(source=source, sink={"columns": columns}, **spec)


def is_whole(site: Site) -> None:
    rows = pa.concat_tables([pq.read_table(path) for path in site.data_files()]).sort_by("x").to_pylist()
    assert rows == [{"x": float(n), "y": 2.0 * n, "day": n // ROWS} for n in range(FILES * ROWS)]
    site.verify()


def fail_reads(proxy: Proxy, fault: Fault, is_on: Callable[[], bool]) -> None:
    """Objects fail once each has been asked for its footer by planning."""
    planned: set[str] = set()

    def decide(method: str, path: str) -> Fault:
        name = path.partition("?")[0]
        if "list-type" in path:
            return Fault.PASS
        if len(planned) < FILES:
            planned.add(name)
            return Fault.PASS
        return fault if is_on() else Fault.PASS

    proxy.fault = decide


def test_a_job_reads_a_bucket_in_one_listing_and_two_requests_a_file(
    tmp_path: Path, bucket: TestBucket, proxy: Proxy
) -> None:
    fill(bucket)
    site = Site(tmp_path)
    site.run_complete(job(site, bucket, proxy), "--workers", "1")
    is_whole(site)
    assert len([path for path in proxy.seen if "list-type" in path]) == 1
    assert len(proxy.seen) == 1 + 2 * FILES


def test_requests_that_are_lost_lose_and_double_no_row(tmp_path: Path, bucket: TestBucket, proxy: Proxy) -> None:
    fill(bucket)
    site = Site(tmp_path)
    dice = random.Random(20261122)
    faults = (Fault.REFUSE, Fault.FAIL, Fault.CUT, Fault.LOSE)
    proxy.fault = lambda method, path: dice.choice(faults) if dice.random() < 0.3 else Fault.PASS
    site.run_complete(job(site, bucket, proxy, retries={"attempts": 1}), "--workers", "2")
    assert len(proxy.seen) > 1 + 2 * FILES
    is_whole(site)


@pytest.mark.slow
def test_a_job_waits_out_a_store_that_is_away_and_spends_no_attempt(
    tmp_path: Path, bucket: TestBucket, proxy: Proxy
) -> None:
    fill(bucket)
    site = Site(tmp_path)
    is_away = [True]
    fail_reads(proxy, Fault.REFUSE, lambda: is_away[0])
    with site.start(job(site, bucket, proxy, retries={"attempts": 1}), "--workers", "2") as running:
        stalled: dict[str, Any] = {}
        end = time.monotonic() + 40
        while not stalled.get("status") and time.monotonic() < end and running.poll() is None:
            told = site.headrace("status", "job", "-o", "json", "--state", str(site.state))
            found = json.loads(told.stdout)["conditions"] if told.code == 0 else []
            stalled = next((each for each in found if each["type"] == "Stalled"), {})
        assert stalled["reason"] == "SourceUnavailable", site.logs()
        assert f"s3://{bucket.name} can't be read: the server answers 503 SlowDown" in stalled["message"]
        is_away[0] = False
        stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 0, stdout + stderr + site.logs()
    assert json.loads(stdout)["phase"] == "Succeeded"
    is_whole(site)


def test_a_store_that_refuses_fails_the_job_at_once_and_the_same_command_continues_it(
    tmp_path: Path, bucket: TestBucket, proxy: Proxy
) -> None:
    fill(bucket)
    site = Site(tmp_path)
    is_closed = [True]
    fail_reads(proxy, Fault.DENY, lambda: is_closed[0])
    path = job(site, bucket, proxy)
    ran = site.run(path, "--workers", "1")
    assert ran.code == 1, ran.text
    failed = next(each for each in ran.document["conditions"] if each["type"] == "Failed")
    assert failed["reason"] == "SourceRefused"
    assert "the server answers 403 AccessDenied" in failed["message"]
    is_closed[0] = False
    site.run_complete(path, "--workers", "1")
    is_whole(site)


def test_a_missing_bucket_is_a_fault_of_the_job(tmp_path: Path, bucket: TestBucket, proxy: Proxy) -> None:
    site = Site(tmp_path)
    path = job(site, bucket, proxy)
    path.write_text(path.read_text().replace(f"s3://{bucket.name}/", "s3://no-such-bucket/"))
    ran = site.run(path)
    assert ran.code == 42, ran.text
    assert "404 NoSuchBucket" in ran.stdout + ran.stderr


def test_a_store_that_cannot_be_reached_while_planning_is_no_bad_job(
    tmp_path: Path, bucket: TestBucket, proxy: Proxy
) -> None:
    fill(bucket)
    site = Site(tmp_path)
    proxy.fault = lambda method, path: Fault.REFUSE
    ran = site.run(job(site, bucket, proxy))
    assert ran.code == 1, ran.text
    assert f"s3://{bucket.name} can't be read: the server answers 503 SlowDown" in ran.stdout + ran.stderr
