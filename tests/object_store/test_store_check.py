"""What is found wrong with an output in a bucket before anything runs."""

import json
import os
import socket
from pathlib import Path

import pytest

from coordinator.cli.plan import make_plan, plan_lines
from coordinator.planning import sink_faults
from coordinator.spec import InferenceJob
from headrace.errors import Fault as JobFault
from tests.integration.run_fixture import Site
from tests.object_store.bucket_fixture import TestBucket


def faults_of(
    bucket: TestBucket, sink: str, *, source: str = "/in.parquet", exclude: str = "", mode: str = "fail"
) -> list[JobFault]:
    text = json.dumps(
        {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "InferenceJob",
            "metadata": {"name": "job"},
            "spec": {
                "source": {
                    "format": "parquet",
                    "uri": source.format(bucket.name),
                    "exclude": [exclude] * bool(exclude),
                },
                "pipeline": [{"name": "m", "python": "m:M", "inputs": {"x": "source.x"}}],
                "sink": {
                    "format": "parquet",
                    "uri": sink.format(bucket.name),
                    "storage": {"endpoint": bucket.url},
                    "columns": {"x": "source.x"},
                    "mode": mode,
                },
            },
        }
    )
    return sink_faults(InferenceJob.from_manifest(text), None)


@pytest.mark.parametrize(
    ("key", "mode", "is_refused"),
    [
        ("out/part-1.parquet", "fail", True),
        ("out/x=1/a.csv", "fail", True),
        ("out/_SUCCESS", "fail", True),
        ("out/_headrace/manifest-000001.jsonl", "fail", True),
        ("out/part-1.parquet", "append", False),
        ("out/part-1.parquet", "replace", False),
        ("out/_headrace/claim.json", "fail", False),  # the claim itself tells whose it is
        ("out2/part-1.parquet", "fail", False),
        ("outpart-1.parquet", "fail", False),
    ],
)
def test_only_an_empty_prefix_takes_a_new_output(bucket: TestBucket, key: str, mode: str, is_refused: bool) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"")
    faults = faults_of(bucket, "s3://{}/out", mode=mode)
    assert [fault.field for fault in faults] == ["spec.sink.uri"] * is_refused


@pytest.mark.parametrize(
    ("source", "is_refused"),
    [
        ("s3://{}/a/out", True),
        ("s3://{}/a/", True),
        ("s3://{}/", True),
        ("s3://{}/a/**/*.parquet", True),
        ("s3://{}/a/out/*.parquet", True),
        ("s3://{}/*/*/*.parquet", True),
        ("s3://{}/a/*.parquet", False),
        ("s3://{}/a/*/x.parquet", False),
        ("s3://{}/a/*/*/*.parquet", False),
        ("s3://{}/a/out/*.csv", False),
        ("s3://{}/a/in", False),
        ("s3://{}/a/ou", False),
        ("s3://{}2/a", False),
        ("/a/out", False),
    ],
)
def test_a_job_that_would_read_its_own_output_is_refused(bucket: TestBucket, source: str, is_refused: bool) -> None:
    faults = faults_of(bucket, "s3://{}/a/out", source=source)
    assert [fault.found.partition(" lies in")[0] for fault in faults] == [f"s3://{bucket.name}/a/out"] * is_refused


@pytest.mark.parametrize(
    ("exclude", "is_refused"), [("out/**", False), ("s3://{}/a/out", False), ("part-*", False), ("ou", True)]
)
def test_an_output_that_the_source_excludes_is_fine(bucket: TestBucket, exclude: str, is_refused: bool) -> None:
    source = "s3://{}/a/**/*.parquet"
    faults = faults_of(bucket, "s3://{}/a/out", source=source, exclude=exclude.format(bucket.name))
    assert len(faults) == is_refused


@pytest.mark.parametrize(
    ("uri", "form"),
    [
        ("s3://", "s3://BUCKET/PREFIX"),
        ("s3:///x", "s3://BUCKET/PREFIX"),
        ("gs:///x", "gs://BUCKET/PREFIX"),
        ("abfss:///x", "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX"),
    ],
)
def test_an_output_without_a_bucket_is_refused(bucket: TestBucket, uri: str, form: str) -> None:
    (fault,) = faults_of(bucket, uri)
    assert (fault.field, fault.expected) == ("spec.sink.uri", form)


@pytest.mark.parametrize("uri", ["hdfs://", "hdfs:///", "hdfs://host", "hdfs://host//"])
def test_an_output_in_hdfs_without_a_folder_is_refused(bucket: TestBucket, uri: str) -> None:
    assert faults_of(bucket, uri) == [JobFault("spec.sink.uri", f"{uri} names no folder", "hdfs://HOST/PATH")]


def test_an_output_without_a_container_is_refused(bucket: TestBucket) -> None:
    (fault,) = faults_of(bucket, "abfss://@acc.dfs.core.windows.net/x")
    assert fault.field == "spec.sink.storage"
    assert "names no container" in fault.found


def test_a_bucket_that_is_not_there_is_named(bucket: TestBucket) -> None:
    (fault,) = faults_of(bucket, "s3://{}-not/out")
    assert "NoSuchBucket" in fault.found


def test_a_plan_says_that_nobody_answered_for_the_output(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.parquet("in.parquet", {"x": [1.0]})
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    storage = {"endpoint": f"http://127.0.0.1:{port}", "region": "us-east-1", "anonymous": True}
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet"}, sink={"uri": "s3://bucket/out", "storage": storage}
    )
    made = make_plan(job, {}, os.environ, None, site.state)
    (warning,) = made["warnings"]
    assert warning.startswith("the output couldn't be looked at, and no run begins before it can: s3://bucket: ")
    assert f"127.0.0.1:{port}" in warning
    assert plan_lines(made)[-1] == f"  warning {warning}"
