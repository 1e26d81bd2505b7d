"""An output in a folder of a local file system: new names are links, and folders are synced before that counts.

    OUT/_headrace/staging-{uid}/      workers write here; only the coordinator creates it
    OUT/_headrace/taken-{uid}/        what was taken away from them

Not here: publishing one file (`headrace.publish`).
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from headrace.errors import SinkError
from headrace.publish import HIDDEN, REJECTED, fsync_folder, is_same, publish, staged_name
from headrace.stores.port import Committed, Growing


class LocalStore:
    """One output folder."""

    def __init__(self, folder: Path, uid: str, staging: Path | None = None) -> None:
        """Touches nothing.

        Args:
            folder: the output.
            uid: the job's, whose files are staged here; "" to read only.
            staging: where the coordinator says that files are staged.
        """
        self._folder = folder
        self._hidden = folder / HIDDEN
        self._staging = staging or self._hidden / f"staging-{uid}"
        self._taken = self._hidden / f"taken-{uid}"

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._folder)

    @property
    def staging(self) -> str:
        """The staging folder."""
        return str(self._staging)

    def place_of(self, name: str) -> str:
        """The file's path."""
        return str(self._folder / name)

    # ------------------------------------------------------------------ staged files

    def stage(self, name: str) -> Growing:
        """A new file in the staging folder.

        Raises:
            SinkError: the folder is gone or not writable.
        """
        path = self._staging / staged_name(name)
        try:
            return _GrowingFile(path)
        except OSError as error:
            raise SinkError(f"{path} can't be written: {error.strerror or error}") from error

    def publish(self, file: Committed) -> None:
        """Links the file to its final name; its bytes are as its writer, who calls this, made them durable."""
        publish(self._staging / staged_name(file.name), self._folder / file.name, file.size, file.digest)

    def take(self, files: Iterable[Committed]) -> None:
        """Renames the staged files, so that their worker finds them no more."""
        self._taken.mkdir(exist_ok=True)
        for file in files:
            name = staged_name(file.name)
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._staging / name, self._taken / name)
        fsync_folder(self._taken)

    def publish_taken(self, files: Iterable[Committed]) -> None:
        """Links taken files to their final names; reads each back first, as its writer may be gone for a reason."""
        for file in files:
            publish(self._taken / staged_name(file.name), self._folder / file.name, file.size, file.digest, verify=True)

    def publish_held(self, files: Iterable[Committed]) -> None:
        """Links taken files to their final names; their bytes were made durable by their writers."""
        for file in files:
            publish(self._taken / staged_name(file.name), self._folder / file.name, file.size, file.digest)

    def take_all(self) -> None:
        """Renames the staging folder: workers, who never make one, have no place to publish from."""
        self._taken.mkdir(exist_ok=True)
        if self._staging.exists():
            os.rename(self._staging, self._taken / f"staging-{secrets.token_hex(4)}")
            fsync_folder(self._hidden)
        for folder in self._taken.glob("staging-*"):
            for name in os.listdir(folder):
                os.rename(folder / name, self._taken / name)
            folder.rmdir()

    def missing(self, files: Iterable[Committed]) -> list[str]:
        """Of those that were neither taken whole nor published."""
        return [file.name for file in files if not self._has(file)]

    def _has(self, file: Committed) -> bool:
        try:
            is_whole = (self._taken / staged_name(file.name)).stat().st_size == file.size
        except FileNotFoundError:
            is_whole = False
        return is_whole or is_same(self._folder / file.name, file.size, file.digest)

    def staged_names(self) -> Iterator[str]:
        """Of staged and of taken files."""
        for folder in (self._staging, self._taken):
            for name in os.listdir(folder) if folder.is_dir() else ():
                yield name.removeprefix(staged_name(f"{REJECTED}/"))

    def drop_staged(self) -> None:
        """Removes what was taken; there is a folder for it only where something was."""
        if self._taken.exists():
            shutil.rmtree(self._taken)

    def drop_leavings(self) -> None:
        """As `drop_staged`."""
        self.drop_staged()

    # ------------------------------------------------------------------ objects

    def create(self, name: str, body: bytes) -> bool:
        """A whole, synced file gets the name, or none does."""
        return self.create_from(name, lambda file: file.write(body))

    def create_from(self, name: str, write: Callable[[BinaryIO], object]) -> bool:
        """As `create`."""
        path = self._folder / name
        if path.exists():
            return False
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            with open(temporary, "xb", buffering=1 << 20) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)
        return True

    def open(self, name: str) -> BinaryIO:
        """The file."""
        return open(self._folder / name, "rb", buffering=1 << 20)

    def size(self, name: str) -> int | None:
        """As its folder says."""
        try:
            return (self._folder / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, names: Iterable[str]) -> None:
        """Unlinks files, syncs their folders, and removes folders that this left empty, but not the output's own."""
        folders: set[Path] = set()
        for name in names:
            path = self._folder / name
            path.unlink(missing_ok=True)
            folders.update(
                parent for parent in path.parents if parent == self._folder or self._folder in parent.parents
            )
        keep = {self._folder, self._hidden, self._folder / REJECTED}
        for folder in sorted(folders - keep, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        for folder in folders:
            if folder.exists():
                fsync_folder(folder)

    def names(self, prefix: str = "", *, deep: bool = True) -> Iterator[str]:
        """Files, not folders."""
        inside, _, _ = prefix.rpartition("/")
        top = self._folder / inside
        if not top.is_dir():
            return
        for root, folders, files in os.walk(top):
            if not deep:
                folders.clear()
            below = os.path.relpath(root, self._folder)
            for file in files:
                name = file if below == "." else f"{below}/{file}"
                if name.startswith(prefix):
                    yield name

    def around(self, name: str) -> Iterator[tuple[str, str, bytes]]:
        """Looks into every folder above, then into all below but for what outputs hide."""
        for above in self._folder.resolve().parents:
            path = above / name
            if path.is_file():
                yield f"the folder {above} above this one", str(path), path.read_bytes()
        for root, folders, _ in os.walk(self._folder):
            folders[:] = [folder for folder in folders if folder != HIDDEN]
            path = Path(root) / name
            if Path(root) != self._folder and path.is_file():
                yield f"the folder {root} below this one", str(path), path.read_bytes()

    def make(self) -> None:
        """Makes the folder and those above it that are missing; none is lost with the machine's power."""
        missing = [path for path in (self._hidden, *self._hidden.parents) if not path.exists()]
        self._hidden.mkdir(parents=True, exist_ok=True)
        for made in missing:
            fsync_folder(made.parent)

    def prepare(self) -> None:
        """Makes the folders that workers write to and publish into."""
        self._staging.mkdir(exist_ok=True)
        (self._folder / REJECTED).mkdir(exist_ok=True)
        fsync_folder(self._hidden)


class _GrowingFile:
    """A file in the staging folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def append(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._fd, data) :]

    def finish(self) -> str:
        os.fsync(self._fd)
        self._close()
        return ""  # its name says where it is

    def discard(self) -> None:
        self._close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
