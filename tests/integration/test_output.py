"""The output folder: publishing twice changes nothing, claims keep jobs apart, the finish can begin again anywhere."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.core.facts import OutputFile
from coordinator.manifest import Header, ShardEntry, read_header
from coordinator.output import SUCCESS, LocalOutput
from headrace.errors import BadJob, SinkError
from headrace.publish import StagingGone, file_digest, parse_part_name, part_name, publish, staged_name
from headrace.words import JobUid

UID = JobUid("0123456789abcdef")


def output(folder: Path, uid: JobUid = UID, job: str = "numbers") -> LocalOutput:
    return LocalOutput(folder, job=job, uid=uid, ledger="ledger.sqlite")


def ready(folder: Path) -> LocalOutput:
    made = output(folder)
    made.claim()
    made.prepare()
    return made


def stage(out: LocalOutput, shard: int, text: bytes = b"rows", kind: str = "data", epoch: int = 1) -> OutputFile:
    name = part_name(shard, UID, epoch, "00000000", ".jsonl")
    name = name if kind == "data" else f"_headrace/rejected/{name}"
    (out.staging / staged_name(name)).write_bytes(text)
    return OutputFile(name, kind, len(text), hashlib.blake2b(text, digest_size=16).hexdigest(), 1)


def header(number: int = 1, base: str | None = None, uid: str = UID) -> Header:
    return Header("numbers", uid, number, base, "fail", "jsonl", "row", 0, 0)


def entry(shard: int, *files: OutputFile) -> ShardEntry:
    return ShardEntry(shard, 1, 0, 0, 0, 0, 0, 0, 0, files)


# ---------------------------------------------------------------------- publish


def test_publishing_twice_changes_nothing(tmp_path: Path) -> None:
    out = ready(tmp_path)
    file = stage(out, 0)
    staged = out.staging / staged_name(file.name)
    for _ in range(2):
        publish(staged, out.final(file.name), file.size, file.digest)
        assert out.final(file.name).read_bytes() == b"rows"
        assert not staged.exists()


def test_a_crash_between_link_and_unlink_is_made_good(tmp_path: Path) -> None:
    out = ready(tmp_path)
    file = stage(out, 0)
    staged = out.staging / staged_name(file.name)
    out.final(file.name).hardlink_to(staged)
    publish(staged, out.final(file.name), file.size, file.digest)
    assert not staged.exists()
    assert out.final(file.name).read_bytes() == b"rows"


def test_publishing_never_overwrites(tmp_path: Path) -> None:
    out = ready(tmp_path)
    file = stage(out, 0)
    out.final(file.name).write_bytes(b"ROWS")
    with pytest.raises(SinkError, match="other content"):
        publish(out.staging / staged_name(file.name), out.final(file.name), file.size, file.digest)
    assert out.final(file.name).read_bytes() == b"ROWS"


def test_a_staged_file_that_is_gone_is_no_publish(tmp_path: Path) -> None:
    out = ready(tmp_path)
    file = stage(out, 0)
    (out.staging / staged_name(file.name)).unlink()
    with pytest.raises(StagingGone):
        publish(out.staging / staged_name(file.name), out.final(file.name), file.size, file.digest)


def test_the_coordinator_publishes_only_what_was_committed(tmp_path: Path) -> None:
    out = ready(tmp_path)
    file = stage(out, 0)
    (out.staging / staged_name(file.name)).write_bytes(b"torn")
    out.take([file])
    with pytest.raises(StagingGone):
        out.publish_taken([file])
    assert not out.final(file.name).exists()


def test_a_worker_that_wakes_after_the_takeover_publishes_nothing_twice(tmp_path: Path) -> None:
    out = ready(tmp_path)
    file = stage(out, 0)
    staged = out.staging / staged_name(file.name)
    out.take([file])
    with pytest.raises(StagingGone):
        publish(staged, out.final(file.name), file.size, file.digest)
    for _ in range(2):
        out.take([file])
        out.publish_taken([file])
    publish(staged, out.final(file.name), file.size, file.digest)
    assert file_digest(out.final(file.name)) == file.digest


def test_names_say_their_lease() -> None:
    name = part_name(12, UID, 3, "abcdef0123", ".csv.gz")
    assert name == "part-00000012-01234567-3-abcdef01.csv.gz"
    assert parse_part_name(name) == (12, "01234567", 3)
    assert parse_part_name("part-x.csv") is None


# ---------------------------------------------------------------------- claim


def test_the_own_claim_found_again_is_success(tmp_path: Path) -> None:
    for _ in range(2):
        output(tmp_path).claim()
    assert json.loads((tmp_path / "_headrace/claim.json").read_text())["uid"] == UID


@pytest.mark.parametrize("other", [".", "..", "../..", "below", "below/it"])
def test_an_output_of_another_job_is_refused(tmp_path: Path, other: str) -> None:
    folder = tmp_path / "a" / "b" / "out"
    folder.mkdir(parents=True)
    theirs = folder / other
    theirs.mkdir(parents=True, exist_ok=True)
    output(theirs.resolve(), JobUid("ffffffffffffffff"), "theirs").claim()
    with pytest.raises(BadJob, match="theirs"):
        output(folder).claim()
    if other != ".":
        assert not (folder / "_headrace/claim.json").exists()


def test_a_released_claim_lets_the_next_job_in(tmp_path: Path) -> None:
    mine = ready(tmp_path)
    theirs = output(tmp_path, JobUid("ffffffffffffffff"), "theirs")
    theirs.release_claim()  # not its to release
    with pytest.raises(BadJob):
        theirs.claim()
    mine.release_claim()
    theirs.claim()


# ---------------------------------------------------------------------- finish


def finish(out: LocalOutput, files: list[OutputFile], base: str | None, old: list[str], number: int) -> None:
    for step in steps(out, files, base, old, number):
        step()


def steps(
    out: LocalOutput, files: list[OutputFile], base: str | None, old: list[str], number: int
) -> list[Callable[[], object]]:
    return [
        out.take_staging,
        out.drop_success,
        lambda: out.publish_held(files),
        lambda: out.sweep([file.name for file in files], base),
        lambda: out.write_manifest(header(number, base), [], [entry(i, file) for i, file in enumerate(files)]),
        lambda: out.delete_old(old),
        lambda: out.write_success({"rows": 1}),
        out.clear,
        out.release_claim,
    ]


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("crash_after", range(10))
def test_a_finish_that_begins_again_after_any_step_ends_the_same(tmp_path: Path, crash_after: int) -> None:
    out = ready(tmp_path)
    files = [stage(out, 0), stage(out, 1, kind="rejects")]
    stage(out, 2)  # of a lease that never committed
    (tmp_path / part_name(3, UID, 1, "0", ".jsonl")).write_bytes(b"published, then revoked")
    (tmp_path / "old.csv").write_bytes(b"old")
    for step in steps(out, files, None, ["old.csv"], 1)[:crash_after]:
        step()
    finish(output(tmp_path), files, None, ["old.csv"], 1)
    expected = [SUCCESS, "_headrace/manifest-000001.jsonl", *(file.name for file in files)]
    assert listing(tmp_path) == sorted(expected)
    assert json.loads((tmp_path / SUCCESS).read_text())["uid"] == UID


def test_replace_deletes_exactly_what_was_there_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "x=1").mkdir()
    (tmp_path / "x=1" / "old.csv").write_bytes(b"old")
    (tmp_path / SUCCESS).write_bytes(b"{}")
    out = ready(tmp_path)
    old = out.existing()
    assert old == ["x=1/old.csv"]
    (tmp_path / "came-later.txt").write_bytes(b"keep")
    file = stage(out, 0)
    finish(out, [file], None, old, 1)
    assert listing(tmp_path) == sorted(
        [SUCCESS, "_headrace/manifest-000001.jsonl", "came-later.txt", file.name],
    )
    assert not (tmp_path / "x=1").exists()


def test_the_sweep_spares_files_that_the_base_names(tmp_path: Path) -> None:
    out = ready(tmp_path)
    first = stage(out, 0)
    finish(out, [first], None, [], 1)
    out = ready(tmp_path)
    second = stage(out, 1, epoch=2)
    finish(out, [second], "manifest-000001.jsonl", [], 2)
    assert {first.name, second.name} <= set(listing(tmp_path))
    assert out.last_manifest() == (2, "manifest-000002.jsonl")


def test_a_manifest_of_another_job_is_never_overwritten(tmp_path: Path) -> None:
    out = ready(tmp_path)
    output(tmp_path, JobUid("f" * 16)).write_manifest(header(uid="f" * 16), [], [])
    with pytest.raises(SinkError, match="another job"):
        out.write_manifest(header(), [], [])
    assert read_header(tmp_path / "_headrace/manifest-000001.jsonl").uid == "f" * 16


def test_an_abandoned_job_leaves_nothing_but_what_others_put_there(tmp_path: Path) -> None:
    out = ready(tmp_path)
    file = stage(out, 0)
    stage(out, 1)
    publish(out.staging / staged_name(file.name), out.final(file.name), file.size, file.digest)
    (tmp_path / "theirs.txt").write_bytes(b"x")
    out.abandon()
    out.abandon()
    assert listing(tmp_path) == ["theirs.txt"]


def test_a_store_that_fails_is_a_sink_error(tmp_path: Path) -> None:
    out = ready(tmp_path)
    file = stage(out, 0)
    shutil.rmtree(tmp_path)
    with pytest.raises(SinkError):
        out.publish_held([file])
    with pytest.raises(SinkError):
        out.prepare()
