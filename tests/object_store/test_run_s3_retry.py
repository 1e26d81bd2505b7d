"""Rejects in a bucket: shown, exported and run again from there."""

from pathlib import Path

import pyarrow.parquet as pq

from tests.integration.run_fixture import Site
from tests.integration.test_run_retry import PICKY, picky
from tests.object_store.bucket_fixture import TestBucket


def test_rejects_in_a_bucket_are_shown_and_run_again(tmp_path: Path, bucket: TestBucket) -> None:
    site = Site(tmp_path)
    site.write("picky.py", PICKY)
    site.parquet("in/0.parquet", {"x": range(1000), "t": ["t"] * 1000})
    uri, where = f"s3://{bucket.name}/out", ("--endpoint", bucket.url, "--region", "us-east-1")
    sink = {"sink": {"uri": uri, "storage": {"endpoint": bucket.url, "region": "us-east-1"}}}
    site.run_complete(picky(site, [3, 500, 700], **sink))
    shown = site.headrace("rejects", uri, *where, "-o", "json").document
    assert [(row["address"], row["class"]) for row in shown["rejects"]] == [
        (3, "ValueError"),
        (500, "ValueError"),
        (700, "ValueError"),
    ]
    assert site.headrace("rejects", uri, *where, "--export", "rejects.parquet").code == 0
    assert pq.read_table(tmp_path / "rejects.parquet")["x"].to_pylist() == [3, 500, 700]

    job = str(picky(site, [500], **sink))
    ran = site.headrace("retry", "--rejected", job, "--state", str(site.state), "-o", "json")
    assert ran.code == 0, ran.text + site.logs()
    assert (ran.document["rows_out"], ran.document["rows_rejected"]) == (2, 1)
    proven = site.headrace("verify", uri, *where, "-o", "json")
    assert proven.code == 0, proven.text
    assert (proven.document["rows_out"], proven.document["rows_rejected"]) == (999, 1)
    assert bucket.uploads() == []
    shown = site.headrace("rejects", uri, *where, "-o", "json").document
    assert [row["address"] for row in shown["rejects"]] == [500]
