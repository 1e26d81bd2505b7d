"""One job's output: claim, publishing, the finish; in whatever store it lies.

    OUT/part-*                          data, published one by one (held modes: all at the end)
    OUT/_SUCCESS                        last
    OUT/_headrace/claim.json            which job may write here; created conditionally
    OUT/_headrace/rejected/part-*       rejects
    OUT/_headrace/manifest-NNNNNN.jsonl

Every step may be done again after a crash at any point and then changes nothing that was done. All of it is blocking:
the driver calls it in threads, one call per job at a time, but for `take` and `publish_taken`.

Not here: where files are staged and what makes a name durable (`headrace.stores`), when a step is due and that it is
journaled (`coordinator.finish`), what a manifest says (`coordinator.manifest`).
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from coordinator.core.facts import OutputFile
from coordinator.manifest import (
    Entry,
    Header,
    InputFile,
    ManifestDamaged,
    ShardEntry,
    Totals,
    read_header,
    read_manifest,
    write_manifest,
)
from headrace.errors import BadJob, Fault, SinkError, SinkUnavailable
from headrace.publish import HIDDEN, REJECTED, parse_part_name
from headrace.stores.port import OutputStore, StoreUnavailable
from headrace.words import Epoch, JobUid, ShardId

SUCCESS = "_SUCCESS"
CLAIM = f"{HIDDEN}/claim.json"
FIELD = "spec.sink.uri"
_MANIFEST_NAME = re.compile(rf"{HIDDEN}/manifest-(\d{{6,}})\.jsonl", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of an output, to be opened."""

    store: OutputStore
    name: str

    def open(self, mode: Literal["rb"] = "rb", /) -> BinaryIO:
        """Opens it; `mode` makes it look like a path.

        Raises:
            OSError: it isn't there, or the store fails.
        """
        return self.store.open(self.name)

    def __str__(self) -> str:
        return self.store.place_of(self.name)


class Output:
    """The output of one job.

    `ledger` names the ledger that knows the job, for people who find its claim. Methods raise `SinkError` where the
    store fails, `SinkUnavailable` where it may work again later.
    """

    def __init__(self, store: OutputStore, *, job: str, uid: JobUid, ledger: str) -> None:
        self.store = store
        self._claim = {"job": job, "uid": str(uid), "ledger": ledger}
        self._uid = uid

    @property
    def place(self) -> str:
        """What users call it."""
        return self.store.place

    # ------------------------------------------------------------------ claim

    def claim(self) -> None:
        """Makes the output this job's; its own claim found again is success.

        Raises:
            BadJob: another job claims this output, one above it or one below it.
        """
        with _sink_errors(self.place, "claimed"):
            try:
                self.store.make()
            except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
                fault = Fault(
                    FIELD, f"{self.place} can't be made: {error.strerror or error}", "a folder that can be written"
                )
                raise BadJob([fault]) from error
            body = json.dumps(self._claim).encode() + b"\n"
            made = self.store.create(CLAIM, body)
            if made and self.store.create(CLAIM, body):
                raise SinkError(
                    f"{self.place}: this store overwrites objects that were to be created only if they weren't there "
                    "(If-None-Match); no output is safe in it."
                )
            found = self._read(CLAIM)
            if not made and found.get("uid") != self._uid:
                raise BadJob([_conflict(found, self.store.place_of(CLAIM), "this folder")])
            # Looked at after the own claim is there: of two jobs that nest, at least one sees the other.
            other = next(self.store.around(CLAIM), None)
            if other is not None:
                if made:
                    self.store.remove([CLAIM])
                where, place, theirs = other
                raise BadJob([_conflict(_object(theirs), place, where)])

    def check_claim(self) -> None:
        """Checks that this job's claim is still there.

        Raises:
            SinkError: it is gone, and nobody knows what became of the files beside it.
        """
        with _sink_errors(self.place, "looked at"):
            if self._read(CLAIM).get("uid") != self._uid:
                raise SinkError(
                    f"The output {self.place} was removed or changed before the job was complete: its claim is gone. "
                    "Start the job anew with --again."
                )

    def leases_seen(self) -> Iterator[tuple[ShardId, Epoch, bool]]:
        """The lease of each file of this job that lies here, and whether the file is published."""
        with _sink_errors(self.place, "listed"):
            for prefix in ("part-", f"{REJECTED}/part-"):
                for name in self.store.names(prefix, deep=False):
                    yield from self._lease_of(name, is_published=True)
            for name in self.store.staged_names():
                yield from self._lease_of(name, is_published=False)

    def _lease_of(self, name: str, *, is_published: bool) -> Iterator[tuple[ShardId, Epoch, bool]]:
        parsed = parse_part_name(name.removeprefix(f"{REJECTED}/"))
        if parsed is not None and parsed[1] == self._uid[:8]:
            yield ShardId(parsed[0]), Epoch(parsed[2]), is_published

    def prepare(self) -> None:
        """Makes what workers stage into; they never do."""
        with _sink_errors(self.place, "prepared"):
            self.store.prepare()

    def release_claim(self) -> None:
        """Gives the output free for other jobs."""
        with _sink_errors(self.place, "given free"):
            if self._read(CLAIM).get("uid") == self._uid:
                self.store.remove([CLAIM])

    # ------------------------------------------------------------------ before the run

    def existing(self) -> list[str]:
        """Names of all visible files and rejects there now, relative and sorted: what `replace` will delete."""
        with _sink_errors(self.place, "listed"):
            return sorted(self._existing())

    def has_files(self) -> bool:
        """Whether there are any of `existing`."""
        with _sink_errors(self.place, "listed"):
            return any(self._existing())

    def last_manifest(self) -> tuple[int, str | None]:
        """Number and file name of the newest manifest; ``(0, None)`` where there is none."""
        with _sink_errors(self.place, "listed"):
            return newest_manifest(self.store)

    # ------------------------------------------------------------------ publishing

    def take(self, files: Sequence[OutputFile]) -> None:
        """Takes one commit's staged files away, so that its worker publishes no others, however late it wakes."""
        with _sink_errors(self.place, "taken over"):
            self.store.take(files)

    def publish_taken(self, files: Sequence[OutputFile]) -> None:
        """Publishes files that `take` took.

        Raises:
            StagingGone: a file is neither staged as committed nor published.
        """
        with _sink_errors(self.place, "published"):
            self.store.publish_taken(files)

    # ------------------------------------------------------------------ the finish, in this order

    def take_staging(self) -> None:
        """Takes all that is staged away: from here on no worker publishes or stages anything that counts."""
        with _sink_errors(self.place, "finished"):
            self.store.take_all()

    def missing(self, files: Iterable[OutputFile]) -> list[str]:
        """Names of files that neither lie whole where `take_staging` left them nor are published."""
        with _sink_errors(self.place, "finished"):
            return self.store.missing(files)

    def drop_success(self) -> None:
        """Removes the `_SUCCESS` of an earlier job."""
        with _sink_errors(self.place, "finished"):
            found = self._read_if_there(SUCCESS)
            if found is not None and found.get("uid") != self._uid:
                self.store.remove([SUCCESS])

    def publish_held(self, files: Iterable[OutputFile]) -> None:
        """Held modes: publishes everything that was committed."""
        with _sink_errors(self.place, "published"):
            self.store.publish_held(files)

    def sweep(self, named: Iterable[str], base: str | None) -> int:
        """Removes this job's files that neither `named` nor a manifest of the base chain names; gives their number.

        Nothing that is staged becomes a file any more.
        """
        with _sink_errors(self.place, "swept"):
            self.store.drop_staged()
            keep = _hashes([*[named], *(self._names_of(name) for name in self._chain(base))])
            loose = [
                name
                for prefix in ("part-", f"{REJECTED}/part-")
                for name in self.store.names(prefix, deep=False)
                if any(self._lease_of(name, is_published=True)) and not _has(keep, name)
            ]
            self.store.remove(loose)
            return len(loose)

    def check_published(self, names: Iterable[str]) -> None:
        """Looks for every published file by its name: workers say that they published, and files can be removed.

        Raises:
            SinkError: one isn't there.
        """
        with _sink_errors(self.place, "looked through"):
            there = _hashes([self.store.names(prefix, deep=False) for prefix in ("part-", f"{REJECTED}/part-")])
            for name in names:
                if not _has(there, name) and self.store.size(name) is None:  # a listing may lag
                    raise SinkError(
                        f"{name} was published in {self.place} and isn't there: it was removed while the job ran. "
                        "Start the job anew with --again."
                    )

    def write_manifest(self, header: Header, inputs: Iterable[InputFile], entries: Iterable[Entry]) -> str:
        """Creates the manifest; one's own found again is success. Gives its file name.

        Raises:
            SinkError: another job wrote a manifest of this number.
        """
        name = manifest_name(header.number)
        with _sink_errors(self.place, "described in a manifest"):
            file = self.manifest(name)
            if self.store.size(file.name) is None:
                self.store.create_from(file.name, lambda body: write_manifest(body, header, inputs, entries))
            if read_header(file).uid != self._uid:
                raise SinkError(f"{file} was written by another job: this output was changed while the job ran.")
        return name

    def is_described(self) -> bool:
        """Whether this job has written its manifest."""
        with _sink_errors(self.place, "looked at"):
            _, newest = newest_manifest(self.store)
            return newest is not None and read_header(self.manifest(newest)).uid == self._uid

    def delete_old(self, names: Iterable[str]) -> None:
        """Modes `replace` and `retry`: deletes exactly the listed files."""
        with _sink_errors(self.place, "replaced"):
            self.store.remove(names)

    def write_success(self, summary: dict[str, Any]) -> None:
        """Writes `_SUCCESS`, with the job's summary as JSON inside."""
        with _sink_errors(self.place, "marked complete"):
            body = json.dumps({**self._claim, **summary}, indent=1).encode() + b"\n"
            if not self.store.create(SUCCESS, body) and self._read(SUCCESS).get("uid") != self._uid:
                self.store.remove([SUCCESS])
                self.store.create(SUCCESS, body)

    def clear(self) -> None:
        """Removes what was staged and never published, in a complete output."""
        with _sink_errors(self.place, "cleared"):
            self.store.drop_leavings()

    def abandon(self) -> None:
        """Removes all that this unfinished job left: staging, marks of its end, published files, its claim."""
        with _sink_errors(self.place, "cleared"):
            if self._read(CLAIM).get("uid") != self._uid:
                return
            if self._read(SUCCESS).get("uid") == self._uid:
                self.store.remove([SUCCESS])
            if self.is_described():
                self.store.remove([f"{HIDDEN}/{newest_manifest(self.store)[1]}"])
        self.take_staging()
        self.sweep((), None)
        self.sweep((), None)  # uploads that workers began during the first
        self.release_claim()

    # ------------------------------------------------------------------ inside

    def _existing(self) -> Iterator[str]:
        for name in self.store.names():
            if name != SUCCESS and (not name.startswith(f"{HIDDEN}/") or name.startswith(f"{REJECTED}/")):
                yield name

    def manifest(self, name: str) -> StoredFile:
        """The manifest of this file name."""
        return stored_manifest(self.store, name)

    def _chain(self, base: str | None) -> Iterator[str]:
        while base is not None:
            yield base
            base = read_header(self.manifest(base)).base

    def _names_of(self, manifest: str) -> Iterator[str]:
        for item in read_manifest(self.manifest(manifest)):
            if isinstance(item, ShardEntry):
                yield from (file.name for file in item.files)
            elif isinstance(item, Totals):
                return

    def _read(self, name: str) -> dict[str, Any]:
        return self._read_if_there(name) or {}

    def _read_if_there(self, name: str) -> dict[str, Any] | None:
        try:
            with self.store.open(name) as file:
                return _object(file.read())
        except FileNotFoundError:
            return None


def stored_manifest(store: OutputStore, name: str) -> StoredFile:
    """An output's manifest of this file name."""
    return StoredFile(store, f"{HIDDEN}/{name}")


def manifest_name(number: int) -> str:
    """File name of a manifest."""
    return f"manifest-{number:06d}.jsonl"


def newest_manifest(store: OutputStore) -> tuple[int, str | None]:
    """Number and file name of an output's newest manifest; ``(0, None)`` where there is none."""
    names = store.names(f"{HIDDEN}/manifest-", deep=False)
    number = max((int(match[1]) for name in names if (match := _MANIFEST_NAME.fullmatch(name))), default=0)
    # A store's listing may lag behind what it holds.
    while store.size(f"{HIDDEN}/{manifest_name(number + 1)}") is not None:
        number += 1
    return number, manifest_name(number) if number else None


def has_success(store: OutputStore) -> bool:
    """Whether the output is marked complete.

    Raises:
        SinkError: the store doesn't tell.
    """
    with _sink_errors(store.place, "looked at"):
        return store.size(SUCCESS) is not None


@contextlib.contextmanager
def _sink_errors(place: str, done: str) -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise SinkUnavailable(f"The output {place} can't be {done}: {error}") from error
    except (OSError, ManifestDamaged) as error:
        raise SinkError(f"The output {place} can't be {done}: {error}") from error


def _conflict(claim: dict[str, Any], place: str, where: str) -> Fault:
    return Fault(
        FIELD,
        f"{where} is the output of the job {claim.get('job', '?')!r} (ledger {claim.get('ledger', '?')}), "
        "which isn't complete",
        f"continue or cancel that job, or choose another folder; if its ledger is gone, remove {place}",
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _hashes(sources: Sequence[Iterable[str]]) -> npt.NDArray[np.int64]:
    """Sorted 64-bit hashes of all names: eight bytes for each of what may be millions of files."""

    def each() -> Iterator[int]:
        for names in sources:
            yield from map(hash, names)

    found = np.fromiter(each(), dtype=np.int64)
    found.sort()
    return found


def _has(hashes: npt.NDArray[np.int64], name: str) -> bool:
    at = int(np.searchsorted(hashes, hash(name)))
    return at < len(hashes) and int(hashes[at]) == hash(name)
