"""Requests to S3 that fail: what was asked for is there once, whatever was lost on the way."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from coordinator.output import manifest_name, newest_manifest
from headrace.errors import SinkError, SinkUnavailable
from headrace.program import StorageOptions
from headrace.publish import StagingGone, part_name
from headrace.stores.s3 import S3Store
from headrace.stores.s3_upload import part_size
from tests.object_store.bucket_fixture import HASTY, Fault, Proxy, TestBucket

UID = "0123456789abcdef"
NAME = part_name(0, UID, 1, "00000000", ".bin")
KEY = f"out/{NAME}"
PART_BYTES = 256 << 10
BODY = bytes(range(256)) * (PART_BYTES // 256) + b"the rest"


@dataclass(frozen=True)
class File:
    name: str
    size: int
    digest: str
    staged: str


@pytest.fixture
def store(bucket: TestBucket, proxy: Proxy) -> S3Store:
    storage = StorageOptions(endpoint=proxy.url, region="us-east-1")
    return S3Store(f"s3://{bucket.name}/out", UID, storage, HASTY, PART_BYTES)


def stage(store: S3Store, body: bytes = BODY, name: str = NAME) -> File:
    growing = store.stage(name)
    for begin in range(0, len(body), 1 << 20):
        growing.append(memoryview(body)[begin : begin + (1 << 20)])
    return File(name, len(body), hashlib.blake2b(body, digest_size=16).hexdigest(), growing.finish())


@pytest.mark.parametrize("body", [b"", b"small", BODY])
def test_a_staged_file_is_seen_by_nobody_until_it_is_published(store: S3Store, bucket: TestBucket, body: bytes) -> None:
    file = stage(store, body)
    assert bucket.objects() == {}
    assert store.missing([file]) == []
    for _ in range(2):
        store.publish(file)
        store.publish_taken([file])
        assert bucket.objects() == {KEY: body}
    assert store.missing([file]) == []
    assert bucket.uploads() == []


@pytest.mark.parametrize("fault", [Fault.LOSE, Fault.REFUSE, Fault.FAIL, Fault.HANG, Fault.HALVE, Fault.AWAY])
@pytest.mark.parametrize(
    "signs", [("POST", "uploads"), ("PUT", "partNumber=1"), ("PUT", "partNumber=2"), ("POST", "uploadId")]
)
def test_a_request_that_fails_on_the_way_is_made_again(
    store: S3Store, bucket: TestBucket, proxy: Proxy, fault: Fault, signs: tuple[str, ...]
) -> None:
    proxy.once(fault, *signs)
    file = stage(store)
    store.publish(file)
    assert bucket.objects() == {KEY: BODY}
    store.drop_staged()  # of an upload begun twice, one is left
    assert bucket.uploads() == []
    assert bucket.objects() == {KEY: BODY}


@pytest.mark.parametrize("signs", [("GET", "uploads"), ("GET", "uploadId"), ("DELETE", "uploadId")])
def test_half_an_answer_is_no_answer_also_where_it_is_an_error(
    store: S3Store, bucket: TestBucket, proxy: Proxy, signs: tuple[str, ...]
) -> None:
    stage(store, b"rows")
    proxy.times(2, Fault.CUT, *signs)
    store.drop_staged()
    assert bucket.uploads() == []


def test_an_outage_is_told_apart_from_a_refusal(store: S3Store, proxy: Proxy) -> None:
    file = stage(store, b"rows")
    proxy.fault = lambda method, path: Fault.REFUSE
    with pytest.raises(SinkUnavailable, match="SlowDown"):
        store.publish(file)
    proxy.fault = lambda method, path: Fault.PASS
    store.publish(file)


def test_tries_are_bounded(store: S3Store, proxy: Proxy) -> None:
    file = stage(store, b"rows")
    proxy.seen.clear()
    proxy.fault = lambda method, path: Fault.FAIL
    with pytest.raises(SinkUnavailable):
        store.publish(file)
    assert len(proxy.seen) == HASTY.patience.tries


def test_a_small_file_costs_three_requests(store: S3Store, proxy: Proxy) -> None:
    store.publish(stage(store, b"rows"))
    assert [line.partition(" ")[0] for line in proxy.seen] == ["POST", "PUT", "POST"]


def test_a_half_sent_body_is_read_again(store: S3Store, proxy: Proxy) -> None:
    store.publish(stage(store))
    proxy.times(2, Fault.CUT, "GET", NAME)
    with store.open(NAME) as file:
        assert file.read() == BODY


def test_publishing_never_overwrites(store: S3Store, bucket: TestBucket) -> None:
    file = stage(store, b"rows")
    bucket.client.put_object(Bucket=bucket.name, Key=KEY, Body=b"ROWS")
    for publish in (store.publish, lambda file: store.publish_taken([file])):
        with pytest.raises(SinkError, match="other content"):
            publish(file)
    assert bucket.objects() == {KEY: b"ROWS"}


def test_a_worker_that_wakes_when_its_upload_is_gone_publishes_nothing(store: S3Store, bucket: TestBucket) -> None:
    file = stage(store, b"rows")
    store.drop_staged()
    assert store.missing([file]) == [NAME]
    for publish in (store.publish, lambda file: store.publish_taken([file])):
        with pytest.raises(StagingGone):
            publish(file)
    assert bucket.objects() == {}


def test_an_upload_of_other_parts_is_aborted_and_counts_as_gone(store: S3Store, bucket: TestBucket) -> None:
    file = stage(store, b"rows")
    false = File(file.name, file.size, file.digest, file.staged.replace('"\\"', '"\\"0'))
    with pytest.raises(StagingGone):
        store.publish_taken([false])
    assert (bucket.objects(), bucket.uploads()) == ({}, [])


def test_only_this_jobs_uploads_are_dropped(store: S3Store, bucket: TestBucket) -> None:
    theirs = f"out/{part_name(0, 'ffffffffffffffff', 1, '00000000', '.bin')}"
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=theirs)
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key="out/notes.txt")
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"other/{NAME}")
    stage(store, b"rows")
    store.drop_staged()
    assert sorted(bucket.uploads()) == sorted([theirs, "out/notes.txt", f"other/{NAME}"])


@pytest.mark.parametrize("staged", ["", "[]", "{}", '["id","token"]', '["id","token",7]', "null"])
def test_a_commit_that_names_no_upload_is_refused(store: S3Store, staged: str) -> None:
    with pytest.raises(SinkError):
        store.publish_taken([File(NAME, 4, "0" * 32, staged)])


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_created_is_ones_own_also_when_the_answer_was_lost(store: S3Store, proxy: Proxy, lost: bool) -> None:
    if lost:
        proxy.once(Fault.LOSE, "PUT", "claim.json")
    assert store.create("claim.json", b"mine")
    assert not store.create("claim.json", b"theirs")
    assert store.open("claim.json").read() == b"mine"


def test_a_long_object_is_created_once(store: S3Store, bucket: TestBucket) -> None:
    makers: list[Callable[[], bool]] = [
        lambda body=body: store.create_from("manifest", lambda file: file.write(body))  # type: ignore[misc]
        for body in (BODY, b"another")
    ]
    assert [make() for make in makers] == [True, False]
    assert bucket.objects() == {"out/manifest": BODY}
    assert bucket.uploads() == []


def test_a_long_manifest_begun_twice_leaves_no_upload(store: S3Store, bucket: TestBucket, proxy: Proxy) -> None:
    proxy.once(Fault.LOSE, "POST", "uploads")
    assert store.create_from("_headrace/manifest-000001.jsonl", lambda file: file.write(BODY))
    assert bucket.uploads() == ["out/_headrace/manifest-000001.jsonl"]
    store.drop_staged()
    assert bucket.uploads() == []
    assert bucket.objects() == {"out/_headrace/manifest-000001.jsonl": BODY}


def test_a_manifest_that_is_not_listed_yet_is_found(store: S3Store, proxy: Proxy) -> None:
    for number in (1, 2, 3):
        store.create(f"_headrace/{manifest_name(number)}", b"")
    proxy.unlisted = "manifest-000003"
    assert list(store.names("_headrace/")) == [f"_headrace/{manifest_name(number)}" for number in (1, 2)]
    assert newest_manifest(store) == (3, manifest_name(3))


def test_a_published_file_that_is_not_listed_yet_counts_as_published(store: S3Store, proxy: Proxy) -> None:
    file = stage(store, b"rows")
    store.publish(file)
    proxy.unlisted = "part-"
    assert list(store.names()) == []
    assert store.missing([file]) == []
    store.publish_taken([file])


def test_ten_thousand_parts_hold_five_terabytes() -> None:
    sizes = [part_size(8 << 20, number) for number in range(10_000)]
    assert sum(sizes) > 5 << 40
    assert max(sizes) < 5 << 30  # no part may be larger


def test_without_botocore_it_is_said_what_to_install() -> None:
    code = """
import sys
sys.modules["botocore"] = None
from headrace.errors import BadJob
from headrace.stores import open_store
try:
    open_store("s3://bucket/out")
except BadJob as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("spec.sink.uri: s3://bucket/out needs a package that isn't installed")
    assert "pip install 'headrace[s3]'" in told


def test_keys_never_show_in_an_error(bucket: TestBucket) -> None:
    store = S3Store(f"s3://{bucket.name}-missing/out", UID, bucket.storage, HASTY)
    with pytest.raises(OSError, match="does not exist") as caught:
        store.create("x", b"")
    assert "test" not in str(caught.value)
