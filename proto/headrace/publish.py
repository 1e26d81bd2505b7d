"""Publishing a staged file on a local file system: making it visible, by the worker or the coordinator.

Both may do it at the same time and as often as they like: a name is linked once, never overwritten, and a name found
again counts as published only with the size and digest that the ledger holds (docs/architecture.md, "Exactly once").

    staging/NAME ──link──▶ OUTPUT/NAME ──▶ fsync the folder ──▶ unlink the staged name

Not here: who may publish and when (`coordinator.driver`), what is staged (`sidecar.writer`).
"""

import hashlib
import os
import re
from pathlib import Path
from typing import BinaryIO

from headrace.errors import SinkError

HIDDEN = "_headrace"
"""Folder inside the output for all that readers must not see; names beginning with `_` are skipped by them."""

REJECTED = f"{HIDDEN}/rejected"

_DATA_NAME = re.compile(r"part-(\d{8,})-([0-9a-z]{1,16})-(\d+)-([0-9a-z]{1,16})(\.[a-z0-9.]+)")
_READ_BYTES = 1 << 20


class StagingGone(SinkError):
    """The staged file isn't there and neither is the published one."""


def part_name(shard: int, uid: str, epoch: int, random: str, suffix: str) -> str:
    """Name of an output file. `(shard, epoch)` names one lease for ever and `random` one try of writing it."""
    return f"part-{shard:08d}-{uid[:8]}-{epoch}-{random[:8]}{suffix}"


def parse_part_name(name: str) -> tuple[int, str, int] | None:
    """``(shard, first 8 letters of the uid, epoch)`` of a file name, or None where it isn't one of ours."""
    match = _DATA_NAME.fullmatch(name)
    return (int(match[1]), match[2], int(match[3])) if match else None


def staged_name(name: str) -> str:
    """Where a file with the final name `name` lies in the staging folder; data and rejects never share one."""
    return name.removeprefix(f"{HIDDEN}/").replace("/", "--")


def file_digest(path: Path) -> str:
    """blake2b-128 of a file's bytes, hex."""
    with open(path, "rb", buffering=0) as file:
        return stream_digest(file)


def stream_digest(file: BinaryIO) -> str:
    """blake2b-128 of what is left to read, hex."""
    digest = hashlib.blake2b(digest_size=16)
    while block := file.read(_READ_BYTES):
        digest.update(block)
    return digest.hexdigest()


def publish(staged: Path, final: Path, size: int, digest: str, *, verify: bool = False) -> None:
    """Makes `staged` visible as `final`; doing it again, or after the other party did, changes nothing.

    `verify` also reads the staged file back and compares its digest: for the coordinator, which did not write it.

    Raises:
        StagingGone: neither name exists, or the staged file isn't what was committed.
        SinkError: `final` exists with other content, or the store fails.
    """
    try:
        if verify and not is_same(staged, size, digest):
            if is_same(final, size, digest):
                fsync_folder(final.parent)  # whoever linked it may have died before this
                staged.unlink(missing_ok=True)
                return
            raise StagingGone(f"{staged} is missing or isn't what was committed, and {final.name} isn't published.")
        try:
            if not verify and staged.stat().st_size != size:
                raise StagingGone(f"{staged} has {staged.stat().st_size} bytes where {size} were committed.")
            os.link(staged, final)
        except FileExistsError:
            if not is_same(final, size, digest):
                raise SinkError(f"{final} exists with other content; it is not overwritten.") from None
        except FileNotFoundError as error:
            if staged.exists():
                raise SinkError(f"The folder of {final} is missing.") from error
            if not is_same(final, size, digest):
                raise StagingGone(f"{staged} is gone and {final.name} isn't published.") from error
        # Before the staged name goes: a machine that dies here must not lose both.
        fsync_folder(final.parent)
        staged.unlink(missing_ok=True)
    except OSError as error:
        raise SinkError(f"{final} can't be published: {error}") from error


def fsync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_same(path: Path, size: int, digest: str) -> bool:
    """Whether the file is there, whole, and what was committed."""
    try:
        return path.stat().st_size == size and file_digest(path) == digest
    except FileNotFoundError:
        return False
