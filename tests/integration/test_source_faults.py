"""What goes wrong between a reader and an object store: nothing is lost or doubled, and each cause is told apart."""

import gzip
import io
import itertools
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.datasets import source_program
from headrace.dataset import Dataset
from headrace.errors import BadJob, InputChanged, SourceRefused, SourceUnavailable
from headrace.httpfile import HttpFiles, Pacing
from headrace.program import StorageOptions
from headrace.remote_files import RemoteFiles
from headrace.retries import Patience, RetryBudget
from headrace.s3_urls import S3Urls, list_objects
from sidecar.reader import Cursor, Source, open_source
from sidecar.reader.remote import CHUNK_BYTES
from tests.integration.source_fixture import Csv, Spec, Storage, plan_source
from tests.object_store.bucket_fixture import Fault, Proxy, TestBucket

HASTY = Pacing(Patience(tries=4, first_s=0.001, max_s=0.002, timeout_s=1.0))


def storage(proxy: Proxy) -> StorageOptions:
    return StorageOptions(endpoint=proxy.url, region="us-east-1")


def put(bucket: TestBucket, key: str, data: bytes, **more: Any) -> str:
    client_of(bucket).put_object(Bucket=bucket.name, Key=key, Body=data, **more)
    return f"s3://{bucket.name}/{key}"


@cache
def client_of(bucket: TestBucket) -> Any:
    return bucket.client  # each costs a fifth of a second


def opened(spec: Spec, columns: Sequence[str]) -> tuple[Source, Dataset]:
    planned = plan_source(spec, columns=columns, limit_rows=None)
    return open_source(source_program(spec, planned, columns, None)), planned.dataset


def ids(source: Source, dataset: Dataset, begin: int = 0, end: int | None = None) -> list[int]:
    end = dataset.units_total if end is None else end
    blocks = source.read(list(dataset.slices(begin, end)), Cursor(begin, end))
    return [value for block in blocks for value in block.rows.column("id").to_pylist()]


def parquet(table: pa.Table, rows: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=rows, compression="none", use_dictionary=False)
    return sink.getvalue()


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.FAIL, Fault.LOSE, Fault.CUT, Fault.HANG, Fault.MISS])
def test_a_range_that_is_lost_on_its_way_is_asked_for_again(bucket: TestBucket, proxy: Proxy, fault: Fault) -> None:
    data = bytes(range(256)) * 40
    path = put(bucket, "x.bin", data)
    files = RemoteFiles(storage(proxy), HASTY)
    found = files.stat(path)
    assert found is not None
    proxy.seen.clear()
    proxy.times(2, fault, "GET", "x.bin")
    assert files.range(path, 100, 5000, size=found.size, version=found.version) == data[100:5000]
    assert len(proxy.seen) == 3


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.CUT, Fault.LOSE])
def test_a_listing_that_is_lost_on_its_way_is_asked_for_again(bucket: TestBucket, proxy: Proxy, fault: Fault) -> None:
    paths = [put(bucket, f"in/{i:04}", b"") for i in range(5)]
    proxy.times(2, fault, "list-type=2")
    files = RemoteFiles(storage(proxy), HASTY)
    assert [found.path for found in files.list(f"s3://{bucket.name}/in/")] == paths


def test_a_long_listing_comes_in_pages(bucket: TestBucket, proxy: Proxy) -> None:
    paths = [put(bucket, f"in/{i:04} +é", b"") for i in range(7)]
    files = HttpFiles(S3Urls(storage(proxy), page_keys=3), HASTY, RetryBudget())
    assert [found.path for found in list_objects(files, bucket.name, "in/")] == paths
    assert len(proxy.seen) == 3


def test_a_store_that_stays_away_is_unavailable(bucket: TestBucket, proxy: Proxy) -> None:
    path = put(bucket, "x.bin", b"abc")
    proxy.fault = lambda method, path: Fault.REFUSE
    with pytest.raises(
        SourceUnavailable, match=rf"s3://{bucket.name} can't be read: .* 503 SlowDown .*\(after 4 tries"
    ):
        RemoteFiles(storage(proxy), HASTY).stat(path)
    assert len(proxy.seen) == 4


def test_what_is_refused_is_asked_for_once_and_no_secret_is_told(bucket: TestBucket, proxy: Proxy) -> None:
    path = put(bucket, "x.bin", b"abc")
    proxy.fault = lambda method, path: Fault.DENY
    with pytest.raises(SourceRefused, match=r"x\.bin: the server answers 403 AccessDenied") as raised:
        RemoteFiles(storage(proxy), HASTY).stat(path)
    assert len(proxy.seen) == 1
    assert "X-Amz" not in str(raised.value)


def test_a_listed_object_that_stays_missing_is_a_changed_input(bucket: TestBucket, proxy: Proxy) -> None:
    path = put(bucket, "x.bin", b"abc")
    proxy.fault = lambda method, path: Fault.MISS
    with pytest.raises(InputChanged, match="is not there"):
        RemoteFiles(storage(proxy), HASTY).range(path, 0, 3, size=3, version='"x"')
    assert len(proxy.seen) == 3


def test_without_credentials_the_job_is_told_how_to_give_them(
    bucket: TestBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "x.csv", b"id\n1\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    uri = [f"s3://{bucket.name}/x.csv"]
    nobody = StorageOptions(bucket.url, "eu-west-9")  # botocore keeps what it found for a region
    with pytest.raises(BadJob, match=r"(?i)credentials.*storage: \{anonymous: true\}"):
        plan_source(Spec("csv", uri, storage=Storage(nobody)), columns=None, limit_rows=None)


def test_without_botocore_the_job_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(BadJob, match=r"pip install 'headrace\[s3\]'"):
        plan_source(Spec("csv", ["s3://lake/x.csv"]), columns=None, limit_rows=None)


def test_an_anonymous_request_carries_no_signature(bucket: TestBucket, proxy: Proxy) -> None:
    path = put(bucket, "x.bin", b"abc", ACL="public-read")
    RemoteFiles(StorageOptions(proxy.url, anonymous=True), HASTY).tail(path, 10)
    assert proxy.seen == [f"GET /{bucket.name}/x.bin"]


@cache
def bodies() -> dict[str, tuple[Any, bytes]]:
    """Files of each format that isn't one request, by suffix."""
    rows = 1_500_000
    table = pa.table({"id": np.arange(rows)})
    arrow, stream = io.BytesIO(), io.BytesIO()
    for sink, make in ((arrow, pa.ipc.new_file), (stream, pa.ipc.new_stream)):
        with make(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=100_000)
    text = b"id\n" + b"".join(b"%d\n" % i for i in range(1_500_000))
    return {
        ".parquet": ("parquet", parquet(table, 300_000)),
        ".arrow": ("arrow", arrow.getvalue()),
        ".arrows": ("arrow", stream.getvalue()),
        ".csv": ("csv", text),
        ".csv.gz": ("csv", gzip.compress(text, 1)),
    }


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows", ".csv", ".csv.gz"])
@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_store_that_refuses_is_never_taken_for_a_damaged_file(
    bucket: TestBucket, proxy: Proxy, suffix: str, allowed: int
) -> None:
    kind, data = bodies()[suffix]
    assert len(data) > 2 * CHUNK_BYTES or suffix == ".csv.gz"
    path = put(bucket, f"x{suffix}", data)
    source, dataset = opened(Spec(kind, [path], on_corrupt="reject", storage=Storage(storage(proxy))), ["id"])
    answers = itertools.chain(itertools.repeat(Fault.PASS, allowed), itertools.repeat(Fault.DENY))
    proxy.fault = lambda method, path: next(answers)
    if suffix == ".csv.gz" and allowed:
        assert len(ids(source, dataset)) == 1_500_000  # it was one request
    else:
        with pytest.raises(SourceRefused, match="403 AccessDenied"):
            ids(source, dataset)
    source.close()


def test_planning_takes_no_refusal_for_damage(bucket: TestBucket, proxy: Proxy) -> None:
    put(bucket, "in/a.parquet", parquet(pa.table({"id": [1]}), 10))
    put(bucket, "in/b.parquet", parquet(pa.table({"id": [1]}), 10))
    proxy.fault = lambda method, path: Fault.DENY if "b.parquet" in path else Fault.PASS
    uri = f"s3://{bucket.name}/in/"
    with pytest.raises(BadJob, match=r"b\.parquet: the server answers 403 AccessDenied"):
        opened(Spec("parquet", [uri], on_corrupt="reject", storage=Storage(storage(proxy))), ["id"])


# ---------------------------------------------------------------------- requests


def test_small_objects_take_one_request_to_plan_and_one_to_read(bucket: TestBucket, proxy: Proxy) -> None:
    for i in range(12):
        put(bucket, f"in/{i:02}.parquet", parquet(pa.table({"id": np.arange(100) + 100 * i}), 30))
    source, dataset = opened(Spec("parquet", [f"s3://{bucket.name}/in/"], storage=Storage(storage(proxy))), ["id"])
    assert len(proxy.seen) == 1 + 12
    proxy.seen.clear()
    assert ids(source, dataset, 0, 650) == list(range(650))
    assert ids(source, dataset, 650, 1200) == list(range(650, 1200))
    assert len(proxy.seen) == 12
    source.close()


def test_of_a_large_object_the_wanted_columns_are_fetched_in_one_range_a_row_group(
    bucket: TestBucket, proxy: Proxy
) -> None:
    rows = 40_000
    wide = {f"c{i}": np.random.default_rng(i).random(rows) for i in range(30)}
    path = put(bucket, "big.parquet", parquet(pa.table({"id": np.arange(rows), **wide}), 10_000))
    source, dataset = opened(Spec("parquet", [path], storage=Storage(storage(proxy))), ["id"])
    proxy.seen.clear()
    assert ids(source, dataset, 5_000, 25_000) == list(range(5_000, 25_000))
    assert len(proxy.seen) == 4  # the footer, and three row groups
    source.close()


def test_text_is_fetched_in_chunks_each_once_by_neighbouring_leases(bucket: TestBucket, proxy: Proxy) -> None:
    count = 600_000
    data = b"id,text\n" + b"".join(b"%d,%024d\n" % (i, i) for i in range(count))
    chunks = -(-len(data) // CHUNK_BYTES)
    assert chunks >= 4
    path = put(bucket, "big.csv", data)
    spec = Spec("csv", [path], csv=Csv(line_breaks_in_fields=False), storage=Storage(storage(proxy)))
    source, dataset = opened(spec, ["id"])
    assert len(proxy.seen) <= 3  # what it is, and its head
    proxy.seen.clear()
    middle = dataset.units_total // 2
    assert ids(source, dataset, 0, middle) + ids(source, dataset, middle) == list(range(count))
    assert len(proxy.seen) == chunks
    source.close()


def test_row_groups_that_the_filter_drops_are_not_fetched(bucket: TestBucket, proxy: Proxy) -> None:
    rows = 400_000
    wide = {f"c{i}": np.random.default_rng(i).random(rows) for i in range(3)}
    path = put(bucket, "big.parquet", parquet(pa.table({"id": np.arange(rows), **wide}), 50_000))
    source, dataset = opened(Spec("parquet", [path], filter="id >= 350000", storage=Storage(storage(proxy))), ["id"])
    proxy.seen.clear()
    assert ids(source, dataset) == list(range(350_000, rows))
    assert len(proxy.seen) == 2
    source.close()


# ---------------------------------------------------------------------- regions


def test_a_bucket_in_another_region_is_asked_for_there(bucket: TestBucket) -> None:
    urls = S3Urls(StorageOptions(bucket.url, "us-east-1"))
    path = f"s3://{bucket.name}/x.bin"
    assert "us-east-1%2Fs3" in urls.url(path, None)
    assert not urls.is_moved(path, {})
    assert not urls.is_moved(path, {"x-amz-bucket-region": "us-east-1"})
    assert urls.is_moved(path, {"x-amz-bucket-region": "eu-central-1"})
    assert "eu-central-1%2Fs3" in urls.url(path, None)
    assert not urls.is_moved(path, {"x-amz-bucket-region": "eu-central-1"})  # a refusal there is a refusal
    assert "us-east-1%2Fs3" in urls.url("s3://other/x.bin", None)


def test_of_a_large_arrow_file_a_lease_fetches_its_own_part(bucket: TestBucket, proxy: Proxy) -> None:
    rows, step = 1_200_000, 100_000
    table = pa.table({"id": np.arange(rows), "a": np.random.default_rng(1).random(rows), "b": np.zeros(rows)})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=step)
    path = put(bucket, "big.arrow", sink.getvalue())
    assert len(sink.getvalue()) > 6 * CHUNK_BYTES
    source, dataset = opened(Spec("arrow", [path], storage=Storage(storage(proxy))), ["id"])
    proxy.seen.clear()
    assert ids(source, dataset, 6 * step, 7 * step) == list(range(6 * step, 7 * step))
    assert len(proxy.seen) <= 20  # what precedes it is counted, by two small requests a record batch
    proxy.seen.clear()
    assert ids(source, dataset, 7 * step, 8 * step) == list(range(7 * step, 8 * step))
    assert len(proxy.seen) <= 2
    source.close()


def test_urls_of_aws_name_the_region_so_that_nothing_redirects_them(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    urls = S3Urls(StorageOptions(region="eu-west-1"))
    assert urls.url("s3://lake/a/b c.csv", None).startswith("https://lake.s3.eu-west-1.amazonaws.com/a/b%20c.csv?")
    assert urls.url("s3://lake.x/k", None).startswith("https://s3.eu-west-1.amazonaws.com/lake.x/k?")
    with pytest.raises(SourceRefused, match="Invalid bucket name"):
        urls.url("s3://no bucket/k", None)
    with pytest.raises(SourceRefused, match="Invalid endpoint"):
        S3Urls(StorageOptions(endpoint="http://")).url("s3://lake/k", None)
