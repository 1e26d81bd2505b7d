"""The output in a local folder: what links, folders and torn files make of it, beside what holds for every store."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from coordinator.core.facts import OutputFile
from coordinator.output import Output
from headrace.errors import SinkError
from headrace.publish import REJECTED, StagingGone, file_digest, parse_part_name, part_name, publish, staged_name
from headrace.stores.local import LocalStore
from headrace.words import JobUid

UID = JobUid("0123456789abcdef")


class LocalOutput(Output):
    """An output in a folder, and its places."""

    def __init__(self, folder: Path, uid: JobUid, job: str) -> None:
        super().__init__(LocalStore(folder, uid), job=job, uid=uid, ledger="ledger.sqlite")
        self.folder = folder
        self.staging = Path(self.store.staging)

    def final(self, name: str) -> Path:
        return self.folder / name


def ready(folder: Path) -> LocalOutput:
    made = LocalOutput(folder, UID, "numbers")
    made.claim()
    made.prepare()
    return made


def stage(out: LocalOutput, shard: int, text: bytes = b"rows", kind: str = "data", epoch: int = 1) -> OutputFile:
    name = part_name(shard, UID, epoch, "00000000", ".jsonl")
    name = name if kind == "data" else f"_headrace/rejected/{name}"
    (out.staging / staged_name(name)).write_bytes(text)
    return OutputFile(name, kind, len(text), hashlib.blake2b(text, digest_size=16).hexdigest(), 1)


# ---------------------------------------------------------------------- publish


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


# ---------------------------------------------------------------------- finish


def test_folders_that_replace_left_empty_are_removed_but_the_outputs_own(tmp_path: Path) -> None:
    (tmp_path / "x=1" / "y=2").mkdir(parents=True)
    (tmp_path / "x=1" / "y=2" / "old.csv").write_bytes(b"old")
    (tmp_path / "x=2").mkdir()
    (tmp_path / "x=2" / "old.csv").write_bytes(b"old")
    out = ready(tmp_path)
    old = out.existing()
    (tmp_path / "x=2" / "came-later.csv").write_bytes(b"keep")
    out.delete_old(old)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_headrace", "x=2"]
    assert (tmp_path / REJECTED).is_dir()
    assert os.listdir(tmp_path / "x=2") == ["came-later.csv"]


def test_a_store_that_fails_is_a_sink_error(tmp_path: Path) -> None:
    out = ready(tmp_path)
    file = stage(out, 0)
    shutil.rmtree(tmp_path)
    with pytest.raises(SinkError):
        out.publish_held([file])
    with pytest.raises(SinkError):
        out.prepare()
