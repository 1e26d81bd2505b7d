"""One job's output folder on a local file system: claim, staging, publishing, the finish (architecture 3.4).

    OUT/part-*                          data, published one by one (held modes: all at the end)
    OUT/_SUCCESS                        last
    OUT/_headrace/claim.json            which job may write here; created exclusively
    OUT/_headrace/staging-{uid}/        workers write here; only the coordinator creates it
    OUT/_headrace/taken-{uid}/          staging that was taken away from workers
    OUT/_headrace/rejected/part-*       rejects
    OUT/_headrace/manifest-NNNNNN.jsonl

Every step may be done again after a crash at any point and then changes nothing that was done. All of it is blocking:
the driver calls it in threads, one call per job at a time, but for `take` and `publish`.

Not here: when a step is due and that it is journaled (`coordinator.finish`), what a manifest says
(`coordinator.manifest`).
"""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
from headrace.errors import BadJob, Fault, SinkError
from headrace.publish import HIDDEN, REJECTED, fsync_folder, is_same, parse_part_name, publish, staged_name
from headrace.words import Epoch, JobUid, ShardId

SUCCESS = "_SUCCESS"
CLAIM = "claim.json"
FIELD = "spec.sink.uri"
_MANIFEST_NAME = re.compile(r"manifest-(\d{6,})\.jsonl", re.ASCII)


class LocalOutput:
    """The output folder of one job.

    `ledger` names the ledger that knows the job, for people who find its claim. Methods raise `SinkError` where the
    store fails.
    """

    def __init__(self, folder: Path, *, job: str, uid: JobUid, ledger: str) -> None:
        self.folder = folder
        self.hidden = folder / HIDDEN
        self.staging = self.hidden / f"staging-{uid}"
        self.taken = self.hidden / f"taken-{uid}"
        self._claim = {"job": job, "uid": str(uid), "ledger": ledger}
        self._uid = uid

    # ------------------------------------------------------------------ claim

    def claim(self) -> None:
        """Makes the output this job's; its own claim found again is success.

        Raises:
            BadJob: another job claims this folder, one above it or one below it.
        """
        with _sink_errors(self.folder, "claimed"):
            _make_durably(self.hidden)
            path = self.hidden / CLAIM
            made = _create(path, json.dumps(self._claim).encode() + b"\n")
            if not made and _read_claim(path).get("uid") != self._uid:
                raise BadJob([self._conflict(path, "this folder")])
            # Looked at after the own claim is there: of two jobs that nest, at least one sees the other.
            other = next(self._claims_around(), None)
            if other is not None:
                if made:
                    path.unlink(missing_ok=True)
                raise BadJob([self._conflict(*other)])

    def check_claim(self) -> None:
        """Checks that this job's claim is still there.

        Raises:
            SinkError: it is gone, and nobody knows what became of the files beside it.
        """
        with _sink_errors(self.folder, "looked at"):
            if _read_claim(self.hidden / CLAIM).get("uid") != self._uid:
                raise SinkError(
                    f"The output {self.folder} was removed or changed before the job was complete: its claim is gone. "
                    "Start the job anew with --again."
                )

    def leases_seen(self) -> Iterator[tuple[ShardId, Epoch, bool]]:
        """The lease of each file of this job that lies here, and whether the file is published."""
        with _sink_errors(self.folder, "listed"):
            published = (self.folder, self.folder / REJECTED)
            for folder in (*published, self.staging, self.taken):
                for name in os.listdir(folder) if folder.is_dir() else ():
                    parsed = parse_part_name(name.removeprefix(staged_name(f"{REJECTED}/")))
                    if parsed is not None and parsed[1] == self._uid[:8]:
                        yield ShardId(parsed[0]), Epoch(parsed[2]), folder in published

    def prepare(self) -> None:
        """Creates the folders that workers write to and publish into; workers never do."""
        with _sink_errors(self.folder, "prepared"):
            self.staging.mkdir(exist_ok=True)
            (self.folder / REJECTED).mkdir(exist_ok=True)
            fsync_folder(self.hidden)

    def release_claim(self) -> None:
        """Gives the output free for other jobs."""
        with _sink_errors(self.folder, "given free"):
            path = self.hidden / CLAIM
            if path.exists() and _read_claim(path).get("uid") == self._uid:
                path.unlink(missing_ok=True)
                fsync_folder(self.hidden)

    def _conflict(self, claim: Path, where: str) -> Fault:
        found = _read_claim(claim)
        name = found.get("job", "?")
        return Fault(
            FIELD,
            f"{where} is the output of the job {name!r} (ledger {found.get('ledger', '?')}), which isn't complete",
            f"continue or cancel that job, or choose another folder; if its ledger is gone, remove {claim}",
        )

    def _claims_around(self) -> Iterator[tuple[Path, str]]:
        for above in self.folder.resolve().parents:
            path = above / HIDDEN / CLAIM
            if path.is_file():
                yield path, f"the folder {above} above this one"
        for folder, names, _ in os.walk(self.folder):
            names[:] = [name for name in names if name != HIDDEN]
            if Path(folder) == self.folder:
                continue
            path = Path(folder) / HIDDEN / CLAIM
            if path.is_file():
                yield path, f"the folder {folder} below this one"

    # ------------------------------------------------------------------ before the run

    def existing(self) -> list[str]:
        """Names of all visible files and rejects there now, relative and sorted: what `replace` will delete."""
        with _sink_errors(self.folder, "listed"):
            names = [name for name in _files_below(self.folder, skip={HIDDEN}) if name != SUCCESS]
            names += [f"{REJECTED}/{name}" for name in _files_below(self.folder / REJECTED)]
            return sorted(names)

    def last_manifest(self) -> tuple[int, str | None]:
        """Number and file name of the newest manifest; ``(0, None)`` where there is none."""
        with _sink_errors(self.folder, "listed"):
            return newest_manifest(self.folder)

    # ------------------------------------------------------------------ publishing

    def final(self, name: str) -> Path:
        """Where a committed file ends up."""
        return self.folder / name

    def take(self, files: Sequence[OutputFile]) -> None:
        """Takes one commit's staged files away, so that its worker, however late it wakes, publishes nothing more."""
        with _sink_errors(self.folder, "taken over"):
            self.taken.mkdir(exist_ok=True)
            for file in files:
                name = staged_name(file.name)
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.staging / name, self.taken / name)
            fsync_folder(self.taken)

    def publish_taken(self, files: Sequence[OutputFile]) -> None:
        """Publishes files that `take` took, reading each back first.

        Raises:
            StagingGone: a file is neither staged as committed nor published.
        """
        for file in files:
            staged = self.taken / staged_name(file.name)
            publish(staged, self.final(file.name), file.size, file.digest, verify=True)

    # ------------------------------------------------------------------ the finish, in this order

    def take_staging(self) -> None:
        """Takes the whole staging folder away: from here on no worker publishes or stages anything."""
        with _sink_errors(self.folder, "finished"):
            self.taken.mkdir(exist_ok=True)
            if self.staging.exists():
                os.rename(self.staging, self.taken / f"staging-{secrets.token_hex(4)}")
                fsync_folder(self.hidden)
            for folder in self.taken.glob("staging-*"):
                for name in os.listdir(folder):
                    os.rename(folder / name, self.taken / name)
                folder.rmdir()

    def has_all(self, files: Iterable[OutputFile]) -> bool:
        """Whether each file lies whole where `take_staging` put it, or is published."""
        with _sink_errors(self.folder, "finished"):
            for file in files:
                try:
                    is_whole = (self.taken / staged_name(file.name)).stat().st_size == file.size
                except FileNotFoundError:
                    is_whole = False
                if not is_whole and not is_same(self.final(file.name), file.size, file.digest):
                    return False
            return True

    def drop_success(self) -> None:
        """Removes the `_SUCCESS` of an earlier job."""
        with _sink_errors(self.folder, "finished"):
            path = self.folder / SUCCESS
            if path.exists() and _read_claim(path).get("uid") != self._uid:
                path.unlink()
                fsync_folder(self.folder)

    def publish_held(self, files: Iterable[OutputFile]) -> None:
        """Held modes: publishes everything that was committed. The staged bytes were made durable by their writers."""
        for file in files:
            publish(self.taken / staged_name(file.name), self.final(file.name), file.size, file.digest)

    def sweep(self, named: Iterable[str], base: str | None) -> int:
        """Removes this job's files that neither `named` nor a manifest of the base chain names; gives their number."""
        with _sink_errors(self.folder, "swept"):
            keep = _hashes([*[named], *(self._names_of(path) for path in self._chain(base))])
            removed = 0
            for prefix, folder in (("", self.folder), (f"{REJECTED}/", self.folder / REJECTED)):
                for entry in list(os.scandir(folder)) if folder.is_dir() else ():
                    parsed = parse_part_name(entry.name)
                    if parsed is None or parsed[1] != self._uid[:8] or _has(keep, prefix + entry.name):
                        continue
                    os.unlink(entry.path)
                    removed += 1
                if removed:
                    fsync_folder(folder)
            return removed

    def write_manifest(self, header: Header, inputs: Iterable[InputFile], entries: Iterable[Entry]) -> str:
        """Creates the manifest; one's own found again is success. Gives its file name.

        Raises:
            SinkError: another job wrote a manifest of this number.
        """
        name = manifest_name(header.number)
        with _sink_errors(self.folder, "described in a manifest"):
            path = self.hidden / name
            if not path.exists():
                temporary = self.hidden / f".{name}-{secrets.token_hex(4)}"
                try:
                    write_manifest(temporary, header, inputs, entries)
                    with contextlib.suppress(FileExistsError):
                        os.link(temporary, path)
                finally:
                    temporary.unlink(missing_ok=True)
                fsync_folder(self.hidden)
            if read_header(path).uid != self._uid:
                raise SinkError(f"{path} was written by another job: this output was changed while the job ran.")
        return name

    def delete_old(self, names: Iterable[str]) -> None:
        """Mode `replace`: deletes exactly the listed files, then the folders that this left empty."""
        with _sink_errors(self.folder, "replaced"):
            folders: set[Path] = set()
            for name in names:
                path = self.folder / name
                path.unlink(missing_ok=True)
                folders.update(parent for parent in path.parents if self.folder in parent.parents)
            keep = {self.hidden, self.folder / REJECTED}
            for folder in sorted(folders - keep, key=lambda path: len(path.parts), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            for folder in (self.folder, *folders):
                if folder.exists():
                    fsync_folder(folder)

    def write_success(self, summary: dict[str, Any]) -> None:
        """Writes `_SUCCESS`, with the job's summary as JSON inside."""
        with _sink_errors(self.folder, "marked complete"):
            path = self.folder / SUCCESS
            body = json.dumps({**self._claim, **summary}, indent=1).encode() + b"\n"
            if not _create(path, body) and _read_claim(path).get("uid") != self._uid:
                path.unlink()
                _create(path, body)
            fsync_folder(self.folder)

    def clear(self) -> None:
        """Removes what was taken over and never published."""
        with _sink_errors(self.folder, "cleared"):
            if self.taken.exists():
                shutil.rmtree(self.taken)

    def abandon(self) -> None:
        """Removes all that this unfinished job left: staging, marks of its end, published files, its claim."""
        with _sink_errors(self.folder, "cleared"):
            if not self.hidden.exists() or _read_claim(self.hidden / CLAIM).get("uid") != self._uid:
                return
            success = self.folder / SUCCESS
            if _read_claim(success).get("uid") == self._uid:
                success.unlink()
                fsync_folder(self.folder)
            _, manifest = newest_manifest(self.folder)
            if manifest is not None and read_header(self.hidden / manifest).uid == self._uid:
                (self.hidden / manifest).unlink()
                fsync_folder(self.hidden)
        self.take_staging()
        self.sweep((), None)
        self.clear()
        self.release_claim()

    def _chain(self, base: str | None) -> Iterator[Path]:
        while base is not None:
            path = self.hidden / base
            yield path
            base = read_header(path).base

    def _names_of(self, path: Path) -> Iterator[str]:
        for item in read_manifest(path):
            if isinstance(item, ShardEntry):
                yield from (file.name for file in item.files)
            elif isinstance(item, Totals):
                return


def manifest_name(number: int) -> str:
    """File name of a manifest."""
    return f"manifest-{number:06d}.jsonl"


def newest_manifest(folder: Path) -> tuple[int, str | None]:
    """Number and file name of an output folder's newest manifest; ``(0, None)`` where there is none."""
    try:
        names = os.listdir(folder / HIDDEN)
    except (FileNotFoundError, NotADirectoryError):
        return 0, None
    found = {int(match[1]): name for name in names if (match := _MANIFEST_NAME.fullmatch(name))}
    return max(found.items(), default=(0, None))


@contextlib.contextmanager
def _sink_errors(folder: Path, done: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ManifestDamaged) as error:
        raise SinkError(f"The output {folder} can't be {done}: {error}") from error


def _make_durably(folder: Path) -> None:
    """Makes a folder and those above it that are missing; none is lost with the machine's power."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        fsync_folder(made.parent)


def _create(path: Path, body: bytes) -> bool:
    """Creates a whole file durably, or says that it exists; nobody ever sees half of it."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


def _read_claim(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _files_below(folder: Path, skip: set[str] | None = None) -> Iterator[str]:
    for root, names, files in os.walk(folder):
        if skip and Path(root) == folder:
            names[:] = [name for name in names if name not in skip]
        below = os.path.relpath(root, folder)
        for name in files:
            yield name if below == "." else f"{below}/{name}"


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
