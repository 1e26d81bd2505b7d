"""Where `headrace run` keeps its ledgers and sockets: one private folder per job name.

STATE/jobs/NAME/            mode 0700
    run.lock                held by the `headrace run` that works on the job; in it, what no other such file has
    coordinator.sock        present while one does
    ledger*                 the coordinator's
    sockets/                of the predictor hosts, swept by the next run
    logs/                   of the coordinator, the workers and what stages print
"""

import fcntl
import os
import secrets
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.config import LEDGER
from headrace.errors import ConfigError, HeadraceError

NONCE_BYTES = 16


class AlreadyRunning(HeadraceError):
    """Another `headrace run` works on the job."""


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The state of one job on this machine."""

    path: Path

    @property
    def socket(self) -> Path:
        """The coordinator's socket."""
        return self.path / "coordinator.sock"

    @property
    def ledger(self) -> Path:
        """The coordinator's ledger, once there is one."""
        return self.path / LEDGER

    @property
    def address(self) -> str:
        """The coordinator's address for clients."""
        return f"unix:{self.socket}"

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.path / "logs"

    @property
    def sockets(self) -> Path:
        """Where workers make folders for the sockets of their predictor hosts."""
        return self.path / "sockets"

    def sweep(self) -> None:
        """Removes what killed workers left. Only whoever holds the lock may."""
        shutil.rmtree(self.sockets, ignore_errors=True)
        self.sockets.mkdir(mode=0o700, exist_ok=True)

    def remove(self) -> None:
        """Removes the folder with all that is in it. Only whoever holds the lock may."""
        shutil.rmtree(self.path, ignore_errors=True)

    def create(self) -> None:
        """Makes the folder, for this user only.

        Raises:
            ConfigError: it can't be made, or belongs to somebody else.
        """
        try:
            for folder in (self.path, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.stat()
            if found.st_uid != os.geteuid():
                raise ConfigError(f"The state folder {self.path} belongs to user {found.st_uid}; use --state.")
            self.path.chmod(0o700)
        except OSError as error:
            raise ConfigError(f"The state folder {self.path} can't be made: {error.strerror}; use --state.") from error

    def check_free(self) -> None:
        """Looks whether a run holds the job, and touches nothing.

        Raises:
            AlreadyRunning: one does.
        """
        try:
            descriptor = os.open(self.path / "run.lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if holder := _lock_holder(descriptor):
                raise AlreadyRunning(self._running_text(holder))
        finally:
            os.close(descriptor)

    def _running_text(self, holder: str) -> str:
        return (
            f"Job {self.path.name!r} is being run already{holder}; "
            f"`headrace status {self.path.name}` shows how far it is."
        )

    def lock(self) -> str:
        """Takes the job for this process's life; returns what all runs under this very lock have in common, no others.

        Raises:
            AlreadyRunning: another process has it.
            ConfigError: nothing can be written there.
        """
        try:
            descriptor = os.open(self.path / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"The state folder {self.path} can't be used: {error.strerror}; use --state.") from error
        try:
            return _held(descriptor)
        except (BlockingIOError, PermissionError) as error:
            holder = _lock_holder(descriptor)
            os.close(descriptor)
            raise AlreadyRunning(self._running_text(holder)) from error
        except OSError as error:
            os.close(descriptor)
            raise ConfigError(f"The state folder {self.path} can't be used: {error.strerror}; use --state.") from error


def _held(descriptor: int) -> str:
    """Locks the file; returns its place and its nonce: a copy has another place, and a later file there another nonce.

    Raises:
        OSError: another process has it, or a file without a nonce can't be written.
    """
    # A record lock, since the kernel itself can say who holds it: a number in the file may be late or old.
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    found = os.fstat(descriptor)
    nonce = os.pread(descriptor, NONCE_BYTES, 0)
    if len(nonce) < NONCE_BYTES:
        nonce = secrets.token_bytes(NONCE_BYTES)
        os.pwrite(descriptor, nonce, 0)
    return f"{found.st_dev:x}:{found.st_ino:x}:{nonce.hex()}"


def _lock_holder(descriptor: int) -> str:
    """Who holds the record lock of the file, as words; empty if it was let go or lies in another PID namespace."""
    layout = "hhqqi4x"  # struct flock: type, whence, start, length, pid
    asked = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    pid = struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[4]
    return f", by process {pid}" if pid > 0 else ""


def state_folder(given: Path | None, environ: Mapping[str, str]) -> Path:
    """The state folder: `given`, or the user's XDG state folder."""
    if given is not None:
        return given.absolute()
    root = environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "headrace"


def job_folder(state: Path, name: str) -> JobFolder:
    """The folder of the job `name`."""
    return JobFolder(state / "jobs" / name)


def job_folders(state: Path) -> list[JobFolder]:
    """All jobs that have a folder, by name."""
    jobs = state / "jobs"
    return [JobFolder(path) for path in sorted(jobs.iterdir()) if path.is_dir()] if jobs.is_dir() else []
