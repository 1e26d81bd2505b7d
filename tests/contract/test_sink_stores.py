"""What every store of outputs must do, whatever it is: one suite for a local folder and real servers."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pytest

from coordinator.core.facts import OutputFile
from coordinator.manifest import Header, ShardEntry, read_header
from coordinator.output import CLAIM, SUCCESS, Output
from headrace.errors import BadJob, SinkError
from headrace.program import StorageOptions
from headrace.publish import REJECTED, StagingGone, part_name
from headrace.stores import open_store
from headrace.stores.azure import AzureStore
from headrace.stores.port import Growing, OutputStore
from headrace.words import JobUid
from tests.hdfs.cluster_fixture import Folder
from tests.object_store.cloud_fixture import CloudBucket

UID, THEIRS = "0123456789abcdef", "fedcba9876543210"


@dataclass(frozen=True)
class Place:
    """Where an output lies, and a way to it that knows nothing of stores."""

    uri: str
    storage: StorageOptions

    def store(self, uid: str = UID) -> OutputStore:
        return open_store(self.uri, uid, self.storage)

    def output(self, uid: str = UID, job: str = "numbers") -> Output:
        return Output(self.store(uid), job=job, uid=JobUid(uid), ledger="ledger.sqlite")

    def beside(self, way: str) -> "Place":
        """Another place, as a relative path leads there."""
        scheme, _, path = self.uri.rpartition("://")
        names: list[str] = path.split("/")
        for name in way.split("/"):
            if name == "..":
                names.pop()
            elif name != ".":
                names.append(name)
        return replace(self, uri="/".join(names) if not scheme else f"{scheme}://{'/'.join(names)}")


@pytest.fixture(params=["local", "s3", "gs", "abfss", "hdfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(str(tmp_path / "a" / "b" / "out"), StorageOptions())
    if request.param == "hdfs":
        folder: Folder = request.getfixturevalue("hdfs_folder")
        return Place(f"{folder.uri}/a/b/out", folder.storage)
    if request.param != "s3":
        cloud: CloudBucket = request.getfixturevalue({"gs": "gcs_bucket", "abfss": "azure_container"}[request.param])
        return Place(f"{cloud.uri}/a/b/out", cloud.storage(cloud.url))
    bucket = request.getfixturevalue("bucket")
    return Place(f"s3://{bucket.name}/a/b/out", bucket.storage)


@pytest.fixture
def output(place: Place) -> Output:
    made = place.output()
    made.claim()
    made.prepare()
    return made


def name_of(shard: int, kind: str = "data", uid: str = UID, epoch: int = 1) -> str:
    name = part_name(shard, uid, epoch, "00000000", ".jsonl")
    return name if kind == "data" else f"{REJECTED}/{name}"


def staging(output: Output, name: str, body: bytes) -> Growing:
    growing = output.store.stage(name)
    growing.append(memoryview(body))
    return growing


def stage(output: Output, shard: int, body: bytes = b"rows\n", kind: str = "data", epoch: int = 1) -> OutputFile:
    name = name_of(shard, kind, epoch=epoch)
    staged = staging(output, name, body).finish()
    return OutputFile(name, kind, len(body), hashlib.blake2b(body, digest_size=16).hexdigest(), 1, staged)


def put(store: OutputStore, name: str, body: bytes) -> None:
    if not store.create(name, body):
        store.remove([name])
        assert store.create(name, body)


def content(store: OutputStore) -> dict[str, bytes]:
    return {name: read(store, name) for name in store.names()}


def read(store: OutputStore, name: str) -> bytes:
    with store.open(name) as file:
        return file.read()


def visible(store: OutputStore) -> list[str]:
    return sorted(name for name in store.names() if not name.startswith("_"))


# ---------------------------------------------------------------------- objects


def test_what_is_created_is_there_whole_and_once(output: Output) -> None:
    store = output.store
    assert [store.create("x", b"first"), store.create("x", b"second")] == [True, False]
    assert (read(store, "x"), store.size("x")) == (b"first", 5)


def test_a_long_object_is_created_once_too(output: Output) -> None:
    def write(file: BinaryIO) -> None:
        for _ in range(3):
            file.write(b"x" * 100_000)

    assert [output.store.create_from("x", write), output.store.create_from("x", lambda file: None)] == [True, False]
    assert read(output.store, "x") == b"x" * 300_000


def test_an_object_whose_writing_fails_never_is(output: Output) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyError

    with pytest.raises(KeyError):
        output.store.create_from("x", write)
    assert visible(output.store) == []


def test_what_is_not_there_is_said_to_be_missing(output: Output) -> None:
    assert output.store.size("x") is None
    with pytest.raises(FileNotFoundError):
        output.store.open("x")
    output.store.remove(["x", "y/z"])


def test_an_object_can_be_read_from_anywhere(output: Output) -> None:
    put(output.store, "x", bytes(range(200)))
    with output.store.open("x") as file:
        assert [file.seek(-3, 2), file.read()] == [197, bytes([197, 198, 199])]
        assert [file.seek(10), file.read(2), file.tell()] == [10, bytes([10, 11]), 12]


def test_names_are_listed_by_prefix(output: Output) -> None:
    for name in ("part-1", "part-2", "_SUCCESS"):
        put(output.store, name, b"")
    assert sorted(output.store.names("part-", deep=False)) == ["part-1", "part-2"]
    assert set(output.store.names()) == {"part-1", "part-2", "_SUCCESS", CLAIM}
    assert list(output.store.names("nothing")) == []


def test_names_of_outputs_may_be_any(place: Place) -> None:
    odd = place.beside("../näh? 100%25+more &x=1/out")
    output = odd.output()
    output.claim()
    output.prepare()
    file = stage(output, 0)
    output.store.publish(file)
    assert visible(output.store) == [file.name]
    assert read(output.store, file.name) == b"rows\n"
    with pytest.raises(BadJob):
        odd.beside("below").output(THEIRS).claim()
    output.store.remove([file.name])
    assert visible(output.store) == []


# ---------------------------------------------------------------------- claims


def test_the_own_claim_found_again_is_success(place: Place) -> None:
    for _ in range(2):
        place.output().claim()
    assert json.loads(read(place.store(), CLAIM))["uid"] == UID


@pytest.mark.parametrize("way", [".", "..", "../..", "below", "below/it"])
def test_an_output_of_another_job_there_above_or_below_is_refused(place: Place, way: str) -> None:
    place.beside(way).output(THEIRS, "theirs").claim()
    with pytest.raises(BadJob, match="theirs"):
        place.output().claim()
    if way != ".":
        assert place.store().size(CLAIM) is None


def test_outputs_side_by_side_are_free(place: Place) -> None:
    place.beside("../out2").output(THEIRS).claim()
    place.beside("../ou").output(THEIRS).claim()
    place.output().claim()


def test_a_released_claim_lets_the_next_job_in(place: Place, output: Output) -> None:
    theirs = place.output(THEIRS, "theirs")
    theirs.release_claim()  # not its to release
    with pytest.raises(BadJob):
        theirs.claim()
    output.release_claim()
    theirs.claim()


def test_a_claim_that_is_gone_stops_its_job(output: Output) -> None:
    output.check_claim()
    output.store.remove([CLAIM])
    with pytest.raises(SinkError, match="its claim is gone"):
        output.check_claim()


# ---------------------------------------------------------------------- publishing


def test_nobody_sees_a_file_before_it_is_published_and_twice_is_once(output: Output) -> None:
    file = stage(output, 0)
    assert visible(output.store) == []
    for _ in range(2):
        output.store.publish(file)
        assert read(output.store, file.name) == b"rows\n"


def test_publishing_never_overwrites(output: Output) -> None:
    file = stage(output, 0)
    put(output.store, file.name, b"ROWS\n")
    with pytest.raises(SinkError, match="other content"):
        output.store.publish(file)
    output.take([file])
    with pytest.raises(SinkError, match="other content"):
        output.publish_taken([file])
    assert read(output.store, file.name) == b"ROWS\n"


def test_the_coordinator_publishes_what_a_worker_did_not(output: Output) -> None:
    files = [stage(output, 0), stage(output, 0, b"why\n", "rejects")]
    output.store.publish(files[0])
    for _ in range(2):
        output.take(files)
        output.publish_taken(files)
    output.store.publish(files[1])  # a worker that wakes late finds it done
    assert [read(output.store, file.name) for file in files] == [b"rows\n", b"why\n"]


def test_a_staged_file_that_is_gone_is_no_publish(output: Output) -> None:
    name = name_of(0)
    growing = staging(output, name, b"rows\n")
    digest = hashlib.blake2b(b"rows\n", digest_size=16).hexdigest()
    file = OutputFile(name, "data", 5, digest, 1, growing.finish())
    growing.discard()
    if isinstance(output.store, AzureStore):  # whose blocks only a sweep discards
        output.store.drop_staged()
    with pytest.raises(StagingGone):
        output.store.publish(file)
    output.take([file])
    with pytest.raises(StagingGone):
        output.publish_taken([file])
    output.take_staging()
    assert output.missing([file]) == [file.name]


def test_what_is_discarded_after_it_was_published_stays(output: Output) -> None:
    name = name_of(0)
    growing = staging(output, name, b"rows\n")
    digest = hashlib.blake2b(b"rows\n", digest_size=16).hexdigest()
    output.store.publish(OutputFile(name, "data", 5, digest, 1, growing.finish()))
    growing.discard()
    assert read(output.store, name) == b"rows\n"


def test_a_worker_that_wakes_after_the_sweep_publishes_nothing(output: Output) -> None:
    file = stage(output, 0)
    output.take_staging()
    output.sweep([], None)
    with pytest.raises(StagingGone):
        output.store.publish(file)
    assert visible(output.store) == []


def test_a_file_half_written_is_no_file(output: Output) -> None:
    staging(output, name_of(0), b"rows\n")
    output.take_staging()
    output.sweep([], None)
    assert visible(output.store) == []
    assert list(output.leases_seen()) == []


def test_the_leases_of_files_are_seen_staged_and_published(output: Output) -> None:
    stage(output, 1)
    stage(output, 2, kind="rejects", epoch=3)
    published = stage(output, 4)
    output.store.publish(published)
    put(output.store, name_of(5, uid=THEIRS), b"")
    assert sorted(output.leases_seen()) == [(1, 1, False), (2, 3, False), (4, 1, True)]


def test_a_published_file_that_was_removed_is_missed(output: Output) -> None:
    kept, rejects, removed = stage(output, 1), stage(output, 1, kind="rejects"), stage(output, 2)
    for file in (kept, rejects, removed):
        output.store.publish(file)
    output.check_published([kept.name, rejects.name, removed.name])
    output.store.remove([removed.name])
    output.check_published([kept.name, rejects.name])
    with pytest.raises(SinkError, match=f"{removed.name} was published .* isn't there"):
        output.check_published([kept.name, removed.name])


# ---------------------------------------------------------------------- finish


def header(number: int = 1, base: str | None = None, uid: str = UID) -> Header:
    return Header("numbers", uid, number, base, "fail", "jsonl", "row", 0, 0)


def entry(shard: int, *files: OutputFile) -> ShardEntry:
    return ShardEntry(shard, 1, 0, 0, 0, 0, 0, 0, 0, files)


def steps(output: Output, files: list[OutputFile], base: str | None, old: list[str]) -> Iterator[Callable[[], object]]:
    number = 1 if base is None else 2
    manifest = f"_headrace/manifest-{number:06d}.jsonl"
    yield output.take_staging
    yield output.drop_success
    yield lambda: output.publish_held(files)
    yield lambda: output.sweep([file.name for file in files], base)
    yield lambda: output.write_manifest(header(number, base), [], [entry(i, file) for i, file in enumerate(files)])
    yield lambda: output.delete_old(old)
    yield lambda: output.write_success({"manifest": manifest})
    yield output.clear
    yield output.release_claim


@pytest.mark.parametrize("crash_after", range(10))
def test_a_finish_that_begins_again_after_any_step_ends_the_same(
    place: Place, output: Output, crash_after: int
) -> None:
    files = [stage(output, 0), stage(output, 1, kind="rejects")]
    stage(output, 2)  # of a lease that never committed
    put(output.store, name_of(3), b"published, then revoked")
    put(output.store, "old.csv", b"old")
    put(output.store, SUCCESS, b"{}")
    for step, _ in zip(steps(output, files, None, ["old.csv"]), range(crash_after), strict=False):
        step()
    again = place.output()
    for step in steps(again, files, None, ["old.csv"]):
        step()
    expected = {SUCCESS, "_headrace/manifest-000001.jsonl", *(file.name for file in files)}
    assert set(content(again.store)) == expected
    assert json.loads(read(again.store, SUCCESS))["uid"] == UID
    assert list(again.store.staged_names()) == []


def test_replace_deletes_exactly_what_was_there_at_the_start(place: Place) -> None:
    if place.uri.startswith("/"):
        (Path(place.uri) / "x=1").mkdir(parents=True)
    store = place.store()
    put(store, "x=1/old.csv", b"old")
    put(store, SUCCESS, b"{}")
    output = place.output()
    output.claim()
    output.prepare()
    old = output.existing()
    assert old == ["x=1/old.csv"]
    put(store, "came-later.txt", b"keep")
    file = stage(output, 0)
    for step in steps(output, [file], None, old):
        step()
    assert set(content(store)) == {SUCCESS, "_headrace/manifest-000001.jsonl", "came-later.txt", file.name}


def test_the_sweep_spares_files_that_the_base_names(place: Place, output: Output) -> None:
    first = stage(output, 0)
    for step in steps(output, [first], None, []):
        step()
    output = place.output()
    output.claim()
    output.prepare()
    second = stage(output, 1, epoch=2)
    for step in steps(output, [second], "manifest-000001.jsonl", []):
        step()
    assert visible(output.store) == sorted([first.name, second.name])
    assert output.last_manifest() == (2, "manifest-000002.jsonl")


def test_a_manifest_of_another_job_is_never_overwritten(place: Place, output: Output) -> None:
    place.output(THEIRS).write_manifest(header(uid=THEIRS), [], [])
    with pytest.raises(SinkError, match="another job"):
        output.write_manifest(header(), [], [])
    assert read_header(output.manifest("manifest-000001.jsonl")).uid == THEIRS


def test_an_abandoned_job_leaves_nothing_but_what_others_put_there(place: Place, output: Output) -> None:
    file = stage(output, 0)
    stage(output, 1)
    output.store.publish(file)
    put(output.store, "theirs.txt", b"x")
    for _ in range(2):
        place.output().abandon()
    assert set(content(output.store)) == {"theirs.txt"}
    assert list(output.store.staged_names()) == []
