"""Requests to HDFS that fail: what was asked for is there once, whatever was lost on the way."""

import contextlib
import getpass
import hashlib
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from headrace.errors import BadJob, InputChanged, SinkError, SinkUnavailable, SourceRefused, SourceUnavailable
from headrace.httpfile import Pacing
from headrace.program import StorageOptions
from headrace.publish import HIDDEN, StagingGone, part_name
from headrace.remote_files import RemoteFiles
from headrace.retries import Patience
from headrace.stores import open_store
from headrace.stores.hdfs import HdfsStore
from headrace.stores.port import StoreUnavailable
from headrace.webhdfs import CONCAT_NAMES, WebHdfs
from tests.hdfs.cluster_fixture import HASTY, Cluster, Folder, HdfsProxy
from tests.object_store.bucket_fixture import Fault

UID = "0123456789abcdef"
NAME = part_name(0, UID, 1, "00000000", ".bin")
PART_BYTES = 64 << 10
BODY = bytes(range(256)) * (2 * PART_BYTES // 256) + b"the rest"


@dataclass(frozen=True)
class File:
    name: str
    size: int
    digest: str
    staged: str


@pytest.fixture
def store(hdfs_folder: Folder, hdfs_proxy: HdfsProxy) -> HdfsStore:
    made = HdfsStore(hdfs_folder.uri, UID, StorageOptions(endpoint=hdfs_proxy.url), HASTY, PART_BYTES)
    made.make()
    made.prepare()
    hdfs_proxy.seen.clear()
    return made


@pytest.fixture
def files(hdfs_proxy: HdfsProxy) -> RemoteFiles:
    return RemoteFiles(StorageOptions(endpoint=hdfs_proxy.url), HASTY)


def stage(store: HdfsStore, body: bytes = BODY) -> File:
    growing = store.stage(NAME)
    for begin in range(0, len(body), 10_000):
        growing.append(memoryview(body)[begin : begin + 10_000])
    return File(NAME, len(body), hashlib.blake2b(body, digest_size=16).hexdigest(), growing.finish())


# ---------------------------------------------------------------------- what is staged and published


@pytest.mark.parametrize("body", [b"", b"small", BODY, bytes(range(256)) * ((CONCAT_NAMES + 3) * PART_BYTES // 256)])
def test_a_staged_file_is_seen_by_nobody_until_it_is_published(
    store: HdfsStore, hdfs_folder: Folder, body: bytes
) -> None:
    file = stage(store, body)
    (staged,) = hdfs_folder.names()
    assert staged.startswith(f"{HIDDEN}/staging-{UID}/{NAME}~")
    for _ in range(2):
        store.publish(file)
        store.publish_taken([file])
        assert hdfs_folder.names() == [NAME]
    assert hdfs_folder.get(NAME) == body
    assert store.missing([file]) == []


CREATE = ("PUT", "op=CREATE", "~0001", "namenoderpcaddress")  # at the DataNode


@pytest.mark.parametrize("fault", [Fault.LOSE, Fault.FAIL, Fault.CUT])
@pytest.mark.parametrize(
    "signs",
    [("PUT", "op=CREATE", "~0000"), CREATE, ("POST", "op=CONCAT"), ("PUT", "op=RENAME"), ("GET", "GETFILESTATUS")],
    ids=lambda signs: "-".join(signs[1:3]),
)
@pytest.mark.parametrize("is_httpfs", [False, True], ids=["webhdfs", "without ids"])
def test_a_request_that_fails_on_the_way_is_made_again(
    store: HdfsStore, hdfs_folder: Folder, hdfs_proxy: HdfsProxy, fault: Fault, signs: tuple[str, ...], is_httpfs: bool
) -> None:
    hdfs_proxy.is_httpfs = is_httpfs
    hdfs_proxy.once(fault, *signs)
    file = stage(store)
    store.publish(file)
    assert hdfs_folder.names() == [NAME]  # and nothing is left of what was written twice
    assert hdfs_folder.get(NAME) == BODY


@pytest.mark.parametrize("fault", [Fault.LOSE, Fault.FAIL])
@pytest.mark.parametrize("is_httpfs", [False, True], ids=["webhdfs", "without ids"])
def test_an_object_whose_rename_was_not_answered_is_known_for_the_own_one(
    store: HdfsStore, hdfs_folder: Folder, hdfs_proxy: HdfsProxy, fault: Fault, is_httpfs: bool
) -> None:
    hdfs_proxy.is_httpfs = is_httpfs
    hdfs_proxy.once(fault, "op=RENAME")
    assert [store.create("x", b"mine"), store.create("x", b"other")] == [True, False]
    assert hdfs_folder.names() == ["x"]
    assert hdfs_folder.get("x") == b"mine"


def test_of_two_who_create_a_name_at_once_one_has_it(
    store: HdfsStore, hdfs_folder: Folder, hdfs_proxy: HdfsProxy
) -> None:
    def decide(method: str, path: str) -> Fault:
        if "op=RENAME" in path and "x" not in hdfs_folder.names():
            hdfs_folder.put("x", b"them")
        return Fault.PASS

    hdfs_proxy.fault = decide
    assert not store.create("x", b"mine")
    assert (hdfs_folder.names(), hdfs_folder.get("x")) == (["x"], b"them")


@pytest.mark.parametrize("signs", [("op=RENAME", "taken"), ("op=MKDIRS",), ("op=DELETE",), ("op=LISTSTATUS",)])
def test_taking_and_sweeping_again_changes_nothing(
    store: HdfsStore, hdfs_folder: Folder, hdfs_proxy: HdfsProxy, signs: tuple[str, ...]
) -> None:
    file = stage(store)
    hdfs_proxy.once(Fault.LOSE, *signs)
    store.take_all()
    assert store.missing([file]) == []
    store.publish_held([file])
    store.drop_staged()
    assert hdfs_folder.names() == [NAME]


def test_a_file_half_written_by_a_lost_try_never_becomes_the_file(store: HdfsStore, hdfs_folder: Folder) -> None:
    growing = store.stage(NAME)
    growing.append(memoryview(BODY))
    growing.discard()
    assert hdfs_folder.names() == []


def test_a_staged_file_that_is_shorter_than_committed_is_not_published(store: HdfsStore, hdfs_folder: Folder) -> None:
    file = stage(store)
    (staged,) = hdfs_folder.names()
    hdfs_folder.put(staged, BODY[:-1])
    store.take([file])
    with pytest.raises(StagingGone, match="bytes where"):
        store.publish_taken([file])
    assert store.missing([file]) == [NAME]


@pytest.mark.parametrize("staged", ["", "../../x 1", f"{NAME}~0000-0123456789abcdef", "x~0000-0123456789abcdef 1"])
def test_a_worker_that_names_another_place_as_staged_is_refused(store: HdfsStore, staged: str) -> None:
    file = File(NAME, 1, "", staged)
    for publish in (store.publish, lambda file: store.publish_taken([file]), lambda file: store.take([file])):
        with pytest.raises(SinkError, match="doesn't say where"):
            publish(file)


def test_a_worker_makes_no_staging_folder(store: HdfsStore, hdfs_folder: Folder) -> None:
    store.take_all()
    with pytest.raises(FileNotFoundError):
        stage(store)
    assert hdfs_folder.names() == []


def test_a_small_file_costs_four_requests_and_an_object_is_read_by_four(
    store: HdfsStore, hdfs_proxy: HdfsProxy
) -> None:
    store.publish(stage(store, b"rows"))
    ops = [line.partition("op=")[2].partition("&")[0] for line in hdfs_proxy.seen]
    assert ops == ["CREATE", "CREATE", "GETFILESTATUS", "RENAME"]
    hdfs_proxy.seen.clear()
    with store.open(NAME) as file:
        assert file.read() == b"rows"
    ops = [line.partition("op=")[2].partition("&")[0] for line in hdfs_proxy.seen]
    assert ops == ["GETFILESTATUS", "OPEN", "OPEN", "GETFILESTATUS"]


def test_parts_of_a_path_with_a_comma_cannot_be_joined(hdfs_folder: Folder) -> None:
    there = HdfsStore(f"{hdfs_folder.uri}/a,b", UID, hdfs_folder.storage, HASTY, PART_BYTES)
    there.make()
    there.prepare()
    with pytest.raises(OSError, match="no comma"):
        stage(there)
    there.publish(stage(there, b"one part"))
    assert hdfs_folder.get(f"a,b/{NAME}") == b"one part"


# ---------------------------------------------------------------------- who is asked, and as whom


@pytest.fixture
def stopped(hdfs: Cluster) -> Iterator[None]:
    os.kill(hdfs.pid, signal.SIGSTOP)
    yield
    os.kill(hdfs.pid, signal.SIGCONT)


def test_a_server_that_hangs_is_an_outage(hdfs_folder: Folder, stopped: None) -> None:
    pacing = Pacing(Patience(tries=2, first_s=0.01, timeout_s=0.5))
    with pytest.raises(StoreUnavailable, match=r"can't be reached: timed out \(after 2 tries\)"):
        HdfsStore(hdfs_folder.uri, UID, hdfs_folder.storage, pacing).size("x")
    with pytest.raises(SourceUnavailable, match="can't be read"):
        RemoteFiles(hdfs_folder.storage, pacing).stat(f"{hdfs_folder.uri}/x")


def test_tries_are_bounded_and_an_outage_is_told_apart_from_a_refusal(store: HdfsStore, hdfs_proxy: HdfsProxy) -> None:
    file = stage(store)
    hdfs_proxy.seen.clear()
    hdfs_proxy.fault = lambda method, path: Fault.REFUSE
    with pytest.raises(SinkUnavailable, match="503"):
        store.publish(file)
    assert len(hdfs_proxy.seen) == HASTY.patience.tries
    hdfs_proxy.fault = lambda method, path: Fault.DENY
    with pytest.raises(SinkError, match="AccessControlException") as raised:
        store.publish(file)
    assert not isinstance(raised.value, SinkUnavailable)
    assert len(hdfs_proxy.seen) == HASTY.patience.tries + 1
    hdfs_proxy.fault = lambda method, path: Fault.PASS
    store.publish(file)


def test_what_a_user_may_not_read_is_refused(hdfs_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    hdfs_folder.put("hidden/x", b"secret")
    hdfs_folder.allow("hidden", "700")
    monkeypatch.setenv("HADOOP_USER_NAME", "nobody")
    files = RemoteFiles(hdfs_folder.storage, HASTY)
    for ask in (files.stat, lambda path: list(files.list(path))):
        with pytest.raises(SourceRefused, match="Permission denied: user=nobody"):
            ask(f"{hdfs_folder.uri}/hidden/x")


def test_a_refusal_is_no_outage_also_where_it_comes_before_the_body_has_gone(
    hdfs: Cluster, hdfs_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hdfs_folder.put("x", b"")
    body = bytes(32 << 20)

    def put() -> str:
        client = WebHdfs(hdfs.authority, hdfs.storage, HASTY)
        return client.put(lambda: f"{hdfs_folder.path}/y", body, makes_folders=False)

    hdfs.admin("-setSpaceQuota", "1m", hdfs_folder.path)
    with pytest.raises(OSError, match="DSQuotaExceededException") as raised:
        put()
    assert not isinstance(raised.value, StoreUnavailable)
    monkeypatch.setenv("HADOOP_USER_NAME", "nobody")
    with pytest.raises(PermissionError, match="Permission denied: user=nobody"):
        put()


def test_names_of_users_and_tokens_come_from_the_environment(
    store: HdfsStore, hdfs_folder: Folder, hdfs_proxy: HdfsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> str:
        with pytest.raises(StoreUnavailable) as raised:
            HdfsStore(hdfs_folder.uri, UID, StorageOptions(endpoint=hdfs_proxy.url), HASTY).size("x")
        assert "hush" not in str(raised.value)
        return hdfs_proxy.seen[-1].rpartition("&")[2]

    hdfs_proxy.fault = lambda method, path: Fault.CUT
    monkeypatch.delenv("HADOOP_USER_NAME", raising=False)
    assert asked() == f"user.name={getpass.getuser()}"
    monkeypatch.setenv("HADOOP_USER_NAME", "somebody else")
    assert asked() == "user.name=somebody%20else"
    monkeypatch.setenv("HEADRACE_HDFS_TOKEN", "hush-hush\n")
    assert asked() == "delegation=hush-hush"


def test_a_connection_that_is_reset_while_it_is_made_is_tried_again() -> None:
    resets = 0
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reset_all() -> None:
            nonlocal resets
            with contextlib.suppress(OSError):  # the end
                while True:
                    came, _ = server.accept()
                    came.recv(1)  # of TLS' first words
                    came.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    came.close()
                    resets += 1

        thread = threading.Thread(target=reset_all, name="resets")
        thread.start()
        try:
            endpoint = f"https://127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(StoreUnavailable, match=r"can't be reached: .*reset by peer"):
                WebHdfs("name", StorageOptions(endpoint, anonymous=True), HASTY).status("/")
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert resets == HASTY.patience.tries


def test_a_cluster_that_wants_kerberos_says_what_it_takes(store: HdfsStore, hdfs_proxy: HdfsProxy) -> None:
    hdfs_proxy.fault = lambda method, path: Fault.NEGOTIATE
    with pytest.raises(PermissionError, match="delegation token, in the environment's HEADRACE_HDFS_TOKEN"):
        store.size("x")


def test_of_several_namenodes_the_active_one_is_found(
    hdfs: Cluster, hdfs_folder: Folder, hdfs_proxy: HdfsProxy
) -> None:
    hdfs_folder.put("x", b"abc")
    hdfs_proxy.fault = lambda method, path: Fault.STANDBY
    with socket.socket() as nobody:  # who listens
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        client = WebHdfs("nameservice1", StorageOptions(endpoint=f"{away},{hdfs_proxy.url}, {hdfs.url}/"), HASTY)
        for _ in range(2):
            found = client.status(f"{hdfs_folder.path}/x")
            assert found is not None
            assert found.size == 3
    assert len(hdfs_proxy.seen) == 1
    alone = WebHdfs("nameservice1", StorageOptions(endpoint=hdfs_proxy.url), HASTY)
    with pytest.raises(StoreUnavailable, match="StandbyException"):
        alone.status("/")


@pytest.mark.parametrize(("uri", "endpoint"), [("hdfs:///x", ""), ("hdfs://host/x", "http://a:1, b:2")])
def test_where_nobody_can_tell_whom_to_ask_the_job_is_bad(uri: str, endpoint: str) -> None:
    with pytest.raises(BadJob, match=r"spec\.sink\.storage: .*must name its HTTP server"):
        open_store(uri, storage=StorageOptions(endpoint=endpoint))
    with pytest.raises(SourceRefused, match="must name its HTTP server"):
        RemoteFiles(StorageOptions(endpoint=endpoint)).stat(uri)


# ---------------------------------------------------------------------- reading


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.LOSE, Fault.FAIL, Fault.REFUSE])
@pytest.mark.parametrize("signs", [("op=OPEN",), ("op=OPEN", "namenoderpcaddress"), ("op=GETFILESTATUS",)])
def test_a_half_sent_body_is_read_again(
    files: RemoteFiles, hdfs_folder: Folder, hdfs_proxy: HdfsProxy, fault: Fault, signs: tuple[str, ...]
) -> None:
    hdfs_folder.put("x", BODY)
    path = f"{hdfs_folder.uri}/x"
    found = files.stat(path)
    assert found is not None
    hdfs_proxy.times(2, fault, *signs)
    assert files.range(path, 10, 1000, size=found.size, version=found.version) == BODY[10:1000]


@pytest.mark.parametrize("step", ["OPEN&offset", "namenoderpcaddress"])
@pytest.mark.parametrize("body", [BODY[::-1], BODY[:5]])
def test_a_file_that_is_replaced_while_it_is_read_is_a_changed_input(
    files: RemoteFiles, hdfs_folder: Folder, hdfs_proxy: HdfsProxy, step: str, body: bytes
) -> None:
    hdfs_folder.put("x", BODY)
    path = f"{hdfs_folder.uri}/x"
    (found,) = files.list(f"{hdfs_folder.uri}/")

    def decide(method: str, asked: str) -> Fault:
        if step in asked:
            hdfs_folder.put("new", body)
            hdfs_folder.remove("x")
            hdfs_folder.rename("new", "x")
        return Fault.PASS

    hdfs_proxy.fault = decide
    hdfs_proxy.seen.clear()
    with pytest.raises(InputChanged, match="has changed"):
        files.range(path, 10, 1000, size=found.size, version=found.version)
    assert len(hdfs_proxy.seen) <= 3  # none is made again


def test_a_listing_is_whole_however_many_names_it_has(files: RemoteFiles, hdfs_folder: Folder) -> None:
    names = [f"{folder}/{i}" for folder in ("a", "b/c") for i in range(7)]
    for name in names:
        hdfs_folder.put(name, b"x")
    root = f"{hdfs_folder.uri}/"
    assert [found.path for found in files.list(root)] == [root + name for name in names]
    assert [found.path for found in files.list(f"{root}b/")] == [root + name for name in names[7:]]
    assert list(files.list(f"{root}none/")) == []
    assert [files.stat(f"{root}{name}") for name in ("b", "none", "a/1/x")] == [None, None, None]
