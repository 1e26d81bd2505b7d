"""Requests to Google's and Azure's stores that fail: what was asked for is there once, whatever was lost on the way."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from coordinator.output import manifest_name, newest_manifest
from headrace.errors import SinkError, SinkUnavailable
from headrace.publish import StagingGone, part_name
from headrace.stores.bucket_store import BucketStore
from tests.object_store.bucket_fixture import Fault
from tests.object_store.cloud_fixture import HASTY, PART_BYTES, UID, Cloud, GcsBucket, new_gcs_bucket

NAME = part_name(0, UID, 1, "00000000", ".bin")
KEY = f"out/{NAME}"
BODY = bytes(range(256)) * (PART_BYTES // 256) + b"the rest"


@dataclass(frozen=True)
class File:
    name: str
    size: int
    digest: str
    staged: str


def stage(store: BucketStore, body: bytes = BODY, name: str = NAME) -> File:
    growing = store.stage(name)
    for begin in range(0, len(body), 1 << 20):
        growing.append(memoryview(body)[begin : begin + (1 << 20)])
    return File(name, len(body), hashlib.blake2b(body, digest_size=16).hexdigest(), growing.finish())


@pytest.mark.parametrize("body", [b"", b"small", BODY], ids=["empty", "small", "large"])
def test_a_staged_file_is_seen_by_nobody_until_it_is_published(cloud: Cloud, body: bytes) -> None:
    store = cloud.store()
    file = stage(store, body)
    assert cloud.bucket.objects() == {}
    assert store.missing([file]) == []
    assert list(store.staged_names()) == [NAME]
    for _ in range(2):
        store.publish(file)
        store.publish_taken([file])
        assert cloud.bucket.objects() == {KEY: body}
    assert store.missing([file]) == []
    assert list(store.staged_names()) == []
    assert cloud.bucket.staged() == []


def test_a_file_of_many_parts_is_whole(cloud: Cloud) -> None:
    store = cloud.store()
    body = b"".join(bytes([i]) * PART_BYTES for i in range(70)) + b"the rest"
    file = stage(store, body)
    assert store.missing([file]) == []
    store.publish(file)
    assert cloud.bucket.objects() == {KEY: body}
    assert cloud.bucket.staged() == []


@pytest.mark.parametrize("fault", [Fault.LOSE, Fault.REFUSE, Fault.FAIL, Fault.HANG, Fault.CUT])
@pytest.mark.parametrize("step", ["stage", "second", "publish"])
def test_a_request_that_fails_on_the_way_is_made_again(cloud: Cloud, fault: Fault, step: str) -> None:
    store = cloud.store()
    cloud.proxy.once(fault, *getattr(cloud.bucket.signs, step))
    file = stage(store)
    store.publish(file)
    assert cloud.bucket.objects() == {KEY: BODY}
    store.drop_staged()
    assert cloud.bucket.staged() == []
    assert cloud.bucket.objects() == {KEY: BODY}


def test_an_outage_is_told_apart_from_a_refusal(cloud: Cloud) -> None:
    store = cloud.store()
    file = stage(store, b"rows")
    cloud.proxy.fault = lambda method, path: Fault.REFUSE
    with pytest.raises(SinkUnavailable, match="503"):
        store.publish(file)
    cloud.proxy.fault = lambda method, path: Fault.DENY
    with pytest.raises(SinkError, match="403") as caught:
        store.publish(file)
    assert not isinstance(caught.value, SinkUnavailable)
    cloud.proxy.fault = lambda method, path: Fault.PASS
    store.publish(file)


def test_tries_are_bounded(cloud: Cloud) -> None:
    store = cloud.store()
    file = stage(store, b"rows")
    cloud.proxy.seen.clear()
    cloud.proxy.fault = lambda method, path: Fault.FAIL
    with pytest.raises(SinkUnavailable):
        store.publish(file)
    assert len(cloud.proxy.seen) == HASTY.patience.tries


def test_a_small_file_costs_few_requests(cloud: Cloud) -> None:
    store = cloud.store()
    store.publish(stage(store, b"rows"))
    assert [line.partition(" ")[0] for line in cloud.proxy.seen] == cloud.bucket.signs.small_file


def test_a_half_sent_body_is_read_again(cloud: Cloud) -> None:
    store = cloud.store()
    store.publish(stage(store))
    cloud.proxy.times(2, Fault.CUT, *cloud.bucket.signs.reading)
    with store.open(NAME) as file:
        assert file.read() == BODY


def test_publishing_never_overwrites(cloud: Cloud) -> None:
    store = cloud.store()
    file = stage(store, b"rows")
    cloud.bucket.put(KEY, b"ROWS")
    for publish in (store.publish, lambda file: store.publish_taken([file])):
        with pytest.raises(SinkError, match="other content"):
            publish(file)
    assert cloud.bucket.objects() == {KEY: b"ROWS"}


def test_a_worker_that_wakes_when_its_staging_is_gone_publishes_nothing(cloud: Cloud) -> None:
    store = cloud.store()
    file = stage(store)
    store.drop_staged()
    assert store.missing([file]) == [NAME]
    assert cloud.bucket.objects() == {}
    for publish in (store.publish, lambda file: store.publish_taken([file])):
        with pytest.raises(StagingGone):
            publish(file)
    assert cloud.bucket.objects() == {}


def test_what_a_late_request_brings_back_is_not_published(gcs_bucket: GcsBucket) -> None:
    store = gcs_bucket.store(gcs_bucket.url)
    file = stage(store, b"rows")
    (piece,) = gcs_bucket.staged()
    store.drop_staged()
    gcs_bucket.put(piece, b"rows")
    with pytest.raises(StagingGone):
        store.publish(file)
    assert store.missing([file]) == [NAME]
    assert gcs_bucket.objects() == {}


def test_what_a_bucket_keeps_of_deleted_pieces_is_not_published(gcs_url: str) -> None:
    bucket = new_gcs_bucket(gcs_url, versioned=True)
    store = bucket.store(bucket.url)
    file = stage(store)
    store.drop_staged()
    with pytest.raises(StagingGone):
        store.publish(file)
    assert bucket.objects() == {}


def test_two_who_publish_at_once_both_succeed(cloud: Cloud) -> None:
    store, other = cloud.store(), cloud.store()
    files = [stage(store, name=part_name(shard, UID, 1, "00000000", ".bin")) for shard in range(12)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(each.publish_taken, files) for each in (store, other)]:
            done.result()
    assert cloud.bucket.objects() == {f"out/{file.name}": BODY for file in files}
    assert cloud.bucket.staged() == []


def test_what_was_published_stays_when_all_that_is_staged_is_dropped(cloud: Cloud) -> None:
    store = cloud.store()
    cloud.proxy.fault = lambda method, path: Fault.REFUSE if method == "DELETE" else Fault.PASS
    store.publish(stage(store))
    cloud.proxy.fault = lambda method, path: Fault.PASS
    store.drop_staged()
    assert cloud.bucket.objects() == {KEY: BODY}
    assert cloud.bucket.staged() == []


def test_only_this_jobs_staging_is_dropped(cloud: Cloud) -> None:
    store = cloud.store()
    stage(store)
    theirs = part_name(0, "ffffffffffffffff", 1, "00000000", ".bin")
    other = cloud.store()
    other._uid = "ffffffffffffffff"
    file = stage(other, name=theirs)
    store.drop_staged()
    assert list(store.staged_names()) == []
    other.publish(file)
    assert cloud.bucket.objects() == {f"out/{theirs}": BODY}


@pytest.mark.parametrize("staged", ["", "[]", "{}", '["token"]', '["token",7,"x"]', "null"])
def test_a_commit_that_names_nothing_staged_is_refused(cloud: Cloud, staged: str) -> None:
    with pytest.raises(SinkError):
        cloud.store().publish_taken([File(NAME, 4, "0" * 32, staged)])


def test_a_commit_of_another_size_is_not_there(cloud: Cloud) -> None:
    store = cloud.store()
    file = stage(store)
    assert store.missing([replace(file, size=file.size + 1)]) == [NAME]
    assert store.missing([file]) == []


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_created_is_ones_own_also_when_the_answer_was_lost(cloud: Cloud, lost: bool) -> None:
    store = cloud.store()
    if lost:
        cloud.proxy.once(Fault.LOSE, *cloud.bucket.signs.create, "claim.json")
    assert store.create("claim.json", b"mine")
    assert not store.create("claim.json", b"theirs")
    assert store.open("claim.json").read() == b"mine"


def test_a_long_object_is_created_once(cloud: Cloud) -> None:
    store = cloud.store()
    makers: list[Callable[[], bool]] = [
        lambda body=body: store.create_from("manifest", lambda file: file.write(body))  # type: ignore[misc]
        for body in (BODY, BODY + b"another")
    ]
    assert [make() for make in makers] == [True, False]
    assert cloud.bucket.objects() == {"out/manifest": BODY}
    store.drop_staged()
    assert cloud.bucket.objects() == {"out/manifest": BODY}


def test_a_manifest_that_is_not_listed_yet_is_found(cloud: Cloud) -> None:
    store = cloud.store()
    for number in (1, 2, 3):
        store.create(f"_headrace/{manifest_name(number)}", b"")
    cloud.proxy.unlisted = "manifest-000003"
    assert list(store.names("_headrace/")) == [f"_headrace/{manifest_name(number)}" for number in (1, 2)]
    assert newest_manifest(store) == (3, manifest_name(3))


def test_a_staged_file_that_is_not_listed_yet_is_not_missing(cloud: Cloud) -> None:
    store = cloud.store()
    file = stage(store)
    cloud.proxy.unlisted = "part-"
    assert store.missing([file]) == []
    store.publish_taken([file])
    assert cloud.bucket.objects() == {KEY: BODY}


def test_a_published_file_that_is_not_listed_yet_counts_as_published(cloud: Cloud) -> None:
    store = cloud.store()
    file = stage(store, b"rows")
    store.publish(file)
    cloud.proxy.unlisted = "part-"
    assert list(store.names()) == []
    assert store.missing([file]) == []
    store.publish_taken([file])


def test_what_a_missing_bucket_is_said_to_be(cloud: Cloud) -> None:
    bucket = replace(cloud.bucket, name=f"{cloud.bucket.name}-not")  # type: ignore[type-var]
    store = bucket.store(cloud.proxy.url)
    with pytest.raises(OSError, match=r"404"):
        store.create("x", b"")
    with pytest.raises(OSError, match=r"404"):
        list(store.names())


@pytest.mark.parametrize(("uri", "module", "extra"), [("gs://bucket/out", "google.auth", "gcs")])
def test_without_its_package_it_is_said_what_to_install(uri: str, module: str, extra: str) -> None:
    code = """
import sys
sys.modules[sys.argv[2]] = None
from headrace.errors import BadJob
from headrace.stores import open_store
try:
    open_store(sys.argv[1])
except BadJob as error:
    print(error)
"""
    command = [sys.executable, "-c", code, uri, module]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"spec.sink.uri: {uri} needs a package that isn't installed")
    assert f"pip install 'headrace[{extra}]'" in told
