"""An output in a folder of HDFS: a new name is a rename, which HDFS does at once or not at all and never over a name.

    OUT/part-*, OUT/_headrace/rejected/part-*   published
    OUT/_headrace/staging-UID/                  workers write here; only the coordinator makes it
    OUT/_headrace/taken-UID/                    what was taken away from them
    OUT/_headrace/.NAME~*                       an object that isn't whole yet

Not here: requests (`headrace.webhdfs`), files being written (`headrace.stores.hdfs_staging`).
"""

import contextlib
import io
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, cast

from headrace.errors import SinkError
from headrace.httpfile import Pacing, RangedFile
from headrace.program import StorageOptions
from headrace.publish import HIDDEN, REJECTED, StagingGone, staged_name, stream_digest
from headrace.stores.hdfs_staging import MARK, PART_BYTES, Staged, Staging, staged_from
from headrace.stores.port import Committed, Growing
from headrace.stores.writing import PATIENCE, READ_BYTES, GrowingSink, each, sink_errors
from headrace.webhdfs import NotEmpty, Status, WebHdfs, split_uri


class HdfsStore:
    """One output folder."""

    staging = ""

    def __init__(
        self,
        uri: str,
        uid: str,
        storage: StorageOptions,
        pacing: Pacing | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        """Sends nothing.

        Args:
            uri: ``hdfs://HOST/PATH``.
            uid: the job's, whose files these are; "" to read only.
            storage: how HDFS is reached.
            pacing: of requests and their retries.
            part_bytes: size of a file's parts.

        Raises:
            OSError: nobody can tell which servers to ask, or as whom.
        """
        authority, folder = split_uri(uri)
        self._client = WebHdfs(authority, storage, pacing or Pacing(PATIENCE))
        self._folder = folder
        self._hidden = f"{folder}/{HIDDEN}"
        self._staging = f"{self._hidden}/staging-{uid}"
        self._taken = f"{self._hidden}/taken-{uid}"
        self._part_bytes = part_bytes

    @property
    def place(self) -> str:
        """As in the job, without a slash at the end."""
        return f"{self._client.place}{self._folder}"

    def place_of(self, name: str) -> str:
        """The file's URI."""
        return f"{self.place}/{name}"

    # ------------------------------------------------------------------ staged files

    def stage(self, name: str) -> Growing:
        """A new file in the staging folder; it begins with the first bytes."""
        return Staging(self._client, self._staging, staged_name(name), self._part_bytes)

    def publish(self, file: Committed) -> None:
        """Renames the staged file, which is as its writer, who calls this, finished it."""
        self._publish(self._staging, file, is_own=True)

    def take(self, files: Iterable[Committed]) -> None:
        """Renames the staged files, so that their worker finds them no more."""
        self._client.make_folder(self._taken)
        each(self._take, files)

    def publish_taken(self, files: Iterable[Committed]) -> None:
        """Renames taken files to their final names, several at once."""
        each(lambda file: self._publish(self._taken, file), files)

    def publish_held(self, files: Iterable[Committed]) -> None:
        """As `publish_taken`."""
        self.publish_taken(files)

    def take_all(self) -> None:
        """Renames the staging folder: workers, who never make one, have no place to write to or to publish from."""
        self._client.make_folder(self._taken)
        if self._client.status(self._staging) is not None:
            aside = f"{self._taken}/staging-{secrets.token_hex(4)}"
            if not self._client.rename(self._staging, aside) and self._client.status(self._staging) is not None:
                raise OSError(f"{self._client.place}{self._staging} can't be renamed")
        for folder in list(self._client.listing(self._taken)):
            if folder.is_folder:
                inside = f"{self._taken}/{folder.name}"
                each(lambda path: self._move(path, self._taken), [path for path, _ in self._client.files(inside)])
                self._client.delete(inside)

    def missing(self, files: Iterable[Committed]) -> list[str]:
        """Of those that were neither taken whole nor published; several are looked for at once."""
        found: list[str] = []

        def look(file: Committed) -> None:
            staged = _staged(file)
            there = self._client.status(f"{self._taken}/{staged.name}")
            if (there is None or there.size != file.size) and not self._is_published(file, staged):
                found.append(file.name)

        each(look, files)
        return found

    def staged_names(self) -> Iterator[str]:
        """Of staged and of taken files, and of parts of them."""
        for folder in (self._staging, self._taken):
            for path, _ in self._client.files(folder):
                name = path.rpartition("/")[2].partition(MARK)[0]
                yield name.removeprefix(staged_name(f"{REJECTED}/"))

    def drop_staged(self) -> None:
        """Deletes what was taken, and objects that a coordinator was killed at: who may write here, writes none now.

        But no claims: another job may be making its own.
        """
        self._client.delete(self._taken, deep=True)
        hidden = self._client.files(self._hidden, ".", deep=False)
        each(self._client.delete, [path for path, _ in hidden if MARK in path and "/.claim" not in path])

    def drop_leavings(self) -> None:
        """As `drop_staged`."""
        self.drop_staged()

    # ------------------------------------------------------------------ objects

    def create(self, name: str, body: bytes) -> bool:
        """As `create_from`."""
        return self.create_from(name, lambda file: file.write(body))

    def create_from(self, name: str, write: Callable[[BinaryIO], object]) -> bool:
        """Writes a file beside the others that are hidden, then renames it."""
        path = self._path(name)
        if self._client.status(path) is not None:
            return False
        parent, _, last = path.rpartition("/")
        growing = Staging(self._client, self._hidden, f".{last}", self._part_bytes, makes_folder=True)
        made = False
        try:
            sink = GrowingSink(growing)
            write(cast(BinaryIO, sink))
            staged = staged_from(growing.finish(), f".{last}")
            if parent not in {self._folder, self._hidden}:
                self._client.make_folder(parent)
            made = self._client.rename(f"{self._hidden}/{staged.name}", path)
            return made or self._is_renamed(staged, path, sink.tell())
        finally:
            if not made:
                growing.discard()

    def open(self, name: str) -> BinaryIO:
        """The file, read in ranges of one version."""
        path = self._path(name)
        found = self._client.status(path)
        if found is None or found.is_folder:
            raise FileNotFoundError(f"{self.place_of(name)} doesn't exist")
        return self._opened(path, found)

    def size(self, name: str) -> int | None:
        """One request."""
        found = self._client.status(self._path(name))
        return None if found is None or found.is_folder else found.size

    def remove(self, names: Iterable[str]) -> None:
        """Deletes files, and folders that this left empty, but not the output's own."""
        folders: set[str] = set()

        def delete(path: str) -> None:
            self._client.delete(path)

        paths = [self._path(name) for name in names]
        each(delete, paths)
        keep = {self._folder, self._hidden, self._path(REJECTED)}
        for path in paths:
            while (path := path.rpartition("/")[0]) not in keep:
                folders.add(path)
        for folder in sorted(folders, key=lambda path: path.count("/"), reverse=True):
            with contextlib.suppress(NotEmpty):
                self._client.delete(folder)

    def names(self, prefix: str = "", *, deep: bool = True) -> Iterator[str]:
        """Files, not folders."""
        inside, _, start = prefix.rpartition("/")
        top = self._path(inside) if inside else self._folder
        for path, _ in self._client.files(top, start, deep=deep):
            yield path[len(self._folder) + 1 :]

    def around(self, name: str) -> Iterator[tuple[str, str, bytes]]:
        """Looks into every folder above, then into all below but for what this output hides."""
        above = self._folder
        while above:
            above = above.rpartition("/")[0]
            path = f"{above}/{name}"
            found = self._client.status(path)
            if found is not None:
                place = f"{self._client.place}{above}/"
                yield f"{place} above this one", self._client.place + path, self._opened(path, found).read()
        for path, found in self._client.files(self._folder):
            if path.endswith(f"/{name}") and path != self._path(name):
                folder = self._client.place + path.removesuffix(f"/{name}")
                yield f"{folder} below this one", self._client.place + path, self._opened(path, found).read()

    def make(self) -> None:
        """Makes the folder and what it hides in."""
        self._client.make_folder(self._hidden)

    def prepare(self) -> None:
        """Makes the folders that workers write to and publish into."""
        self._client.make_folder(self._staging)
        self._client.make_folder(self._path(REJECTED))

    # ------------------------------------------------------------------ inside

    def _publish(self, folder: str, file: Committed, *, is_own: bool = False) -> None:
        staged, final = _staged(file), self._path(file.name)
        source = f"{folder}/{staged.name}"
        with sink_errors(f"{self.place_of(file.name)} can't be published"):
            found = None if is_own else self._client.status(source)
            if found is not None and found.size != file.size:
                raise StagingGone(f"{source} has {found.size} bytes where {file.size} were committed.")
            if (found or is_own) and self._client.rename(source, final):
                return
            # Looked at only now: a file that is gone from here has got its final name, or was taken and never will.
            if self._is_published(file, staged):
                return
            there = self._client.status(final)
            if there is not None:
                raise SinkError(f"{self.place_of(file.name)} exists with other content; it is not overwritten.")
            if self._client.status(source) is None:
                raise StagingGone(f"{source} is gone and {file.name} isn't published.")
            raise SinkError(f"The folder of {self.place_of(file.name)} is missing.")

    def _take(self, file: Committed) -> None:
        self._move(f"{self._staging}/{_staged(file).name}", self._taken)

    def _move(self, path: str, folder: str) -> None:
        """Renames a file into another folder, if it is there."""
        self._client.rename(path, f"{folder}/{path.rpartition('/')[2]}")

    def _is_published(self, file: Committed, staged: Staged) -> bool:
        path = self._path(file.name)
        found = self._client.status(path)
        if found is None or found.size != file.size:
            return False
        if found.id and staged.id:
            return found.id == staged.id
        with self._opened(path, found) as body:
            return stream_digest(body) == file.digest

    def _is_renamed(self, staged: Staged, path: str, size: int) -> bool:
        """Whether a rename that an earlier try may have done was done."""
        found = self._client.status(path)
        if found is None:
            raise OSError(f"{self._client.place}{path} can't be made")
        if found.id and staged.id:
            return found.id == staged.id
        return found.size == size and self._client.status(f"{self._hidden}/{staged.name}") is None

    def _opened(self, path: str, found: Status) -> BinaryIO:
        def is_known(now: Status | None) -> None:
            if now is None or (now.size, now.version) != (found.size, found.version):
                raise OSError(f"{self._client.place}{path}: has changed while it was read")

        def fetch(begin: int, end: int) -> bytes:
            return self._client.read(path, begin, end, is_known)

        return io.BufferedReader(RangedFile(found.size, fetch), READ_BYTES)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"


def _staged(file: Committed) -> Staged:
    return staged_from(file.staged, staged_name(file.name))
