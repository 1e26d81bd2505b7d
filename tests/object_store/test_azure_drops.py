"""Blocks of Azure's that are discarded: the blob that this takes counts as absent, wherever the work ends halfway."""

from collections.abc import Callable, Iterator

import pytest

from coordinator.output import Output, manifest_name, newest_manifest
from headrace.errors import SinkError
from headrace.publish import HIDDEN, REJECTED, StagingGone, part_name
from headrace.stores.bucket_store import BucketStore
from headrace.words import JobUid
from tests.object_store.bucket_fixture import Fault, Proxy, proxied
from tests.object_store.cloud_fixture import PART_BYTES, UID, AzureContainer, AzureDialect, Cloud
from tests.object_store.test_cloud_uploads import BODY, KEY, NAME, stage

MANIFEST = f"{HIDDEN}/{manifest_name(1)}"


@pytest.fixture
def azure(azure_container: AzureContainer) -> Iterator[Cloud]:
    with proxied(azure_container.url, AzureDialect()) as proxy:
        yield Cloud(azure_container, proxy)


def deny_deletes(proxy: Proxy) -> None:
    """As a token without the right to delete."""
    proxy.fault = lambda method, path: Fault.DENY if method == "DELETE" else Fault.PASS


def drop_halfway(azure: Cloud, *names: str) -> BucketStore:
    """Blocks under all names, discarded by a process that is refused before it deletes the blobs; gives its store."""
    store = azure.store()
    for name in names:
        stage(store, name=name)
    deny_deletes(azure.proxy)
    with pytest.raises(PermissionError):
        store.drop_staged()
    azure.proxy.fault = lambda method, path: Fault.PASS
    assert set(azure.bucket.objects().values()) == {b""}
    return store


def test_what_discards_blocks_is_no_file(azure: Cloud) -> None:
    store = drop_halfway(azure, MANIFEST)
    assert store.size(MANIFEST) is None
    assert list(store.names()) == list(store.names(f"{HIDDEN}/", deep=False)) == []
    assert newest_manifest(store) == (0, None)
    with pytest.raises(FileNotFoundError):
        store.open(MANIFEST)


@pytest.mark.parametrize("fault", [Fault.PASS, Fault.LOSE])
@pytest.mark.parametrize("body", [b"small", BODY], ids=["small", "large"])
def test_what_discards_blocks_is_taken_for_free(azure: Cloud, body: bytes, fault: Fault) -> None:
    store = drop_halfway(azure, MANIFEST)
    azure.proxy.once(fault, "PUT", MANIFEST, "comp=blocklist" if body == BODY else "manifest")
    makers: list[Callable[[], bool]] = [lambda: store.create_from(MANIFEST, lambda file: file.write(body))] * 2
    assert [make() for make in makers] == [True, False]
    assert store.open(MANIFEST).read() == body
    store.drop_staged()
    assert azure.bucket.objects() == {f"out/{MANIFEST}": body}


def test_the_next_sweep_deletes_what_discards_blocks_whoever_made_it(azure: Cloud) -> None:
    theirs = part_name(0, "ffffffffffffffff", 1, "00000000", ".bin")
    other = azure.store()
    other._uid = "ffffffffffffffff"
    stage(other, name=theirs)
    deny_deletes(azure.proxy)
    with pytest.raises(PermissionError):
        other.drop_staged()
    store = drop_halfway(azure, NAME, f"{REJECTED}/{NAME}", MANIFEST)
    assert len(azure.bucket.objects()) == 4
    store.drop_staged()
    assert azure.bucket.objects() == {}
    assert azure.bucket.staged() == []


def test_a_complete_output_is_rid_of_what_discards_blocks_and_gets_no_more_of_it(azure: Cloud) -> None:
    store = drop_halfway(azure, NAME)
    second = part_name(1, UID, 1, "00000000", ".bin")
    stage(store, name=second)
    azure.proxy.seen.clear()
    Output(store, job="job", uid=JobUid(UID), ledger="").clear()
    assert azure.bucket.objects() == {}
    assert [line for line in azure.proxy.seen if second in line] == []


def test_blocks_that_were_discarded_are_not_published_in_place_of_what_discarded_them(azure: Cloud) -> None:
    store = azure.store()
    file = stage(store)
    drop_halfway(azure)
    with pytest.raises(StagingGone):
        store.publish(file)
    assert store.missing([file]) == [NAME]
    again = stage(store)
    store.publish(again)
    assert azure.bucket.objects() == {KEY: BODY}


def test_a_worker_that_gives_a_file_up_makes_nothing_that_readers_see(azure: Cloud) -> None:
    store = azure.store()
    growing = store.stage(NAME)
    growing.append(memoryview(bytes(2 * PART_BYTES)))
    growing.append(memoryview(b"the rest"))
    growing.finish()
    deny_deletes(azure.proxy)
    growing.discard()
    assert azure.bucket.objects() == {}
    assert [line for line in azure.proxy.seen if "comp=block&" not in line] == []
    with pytest.raises(SinkError):
        store.create_from(MANIFEST, _half_a_manifest)
    assert azure.bucket.objects() == {}


def _half_a_manifest(file: object) -> None:
    file.write(BODY)  # type: ignore[attr-defined]
    raise SinkError("on purpose")
