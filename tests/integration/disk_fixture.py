"""A small disk of its own that can be made read-only, also while files on it are being written, and be repaired.

It is an ext4 image on a loop device, mounted so that errors make it read-only; the kernel's own switch makes an error.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

IMAGE_BYTES = 64 << 20


class Disk:
    """One mounted disk. Made by `disk_at`."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.folder = folder
        self._image = image

    def mount(self, *options: str) -> None:
        """Mounts it, on a loop device that goes with the mount."""
        _run("mount", "-o", ",".join(("loop", "errors=remount-ro", *options)), str(self._image), str(self.folder))

    def umount(self) -> None:
        """Nothing may be open on it."""
        _run("umount", str(self.folder))

    def make_read_only(self) -> None:
        """As an administrator does, while no file is open for writing."""
        _run("mount", "-o", "remount,ro", str(self.folder))

    def make_writable(self) -> None:
        """The other way round."""
        _run("mount", "-o", "remount,rw", str(self.folder))

    def fail(self) -> None:
        """An error of the file system, which becomes read-only at once, whatever is open."""
        device = _run("findmnt", "-no", "SOURCE", str(self.folder)).strip()
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("on purpose\n")

    def repair(self) -> None:
        """What one does then: it is checked and mounted again."""
        self.umount()
        done = subprocess.run(["e2fsck", "-fy", str(self._image)], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        self.mount()


@contextmanager
def disk_at(folder: Path) -> Iterator[Disk]:
    """A new disk mounted at `folder`; skips the test where this process may not."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    image = folder.with_name(f"{folder.name}.img")
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    folder.mkdir()
    disk = Disk(image, folder)
    try:
        _run("mkfs.ext4", "-q", str(image))
        disk.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be made here: {getattr(error, 'stderr', '') or error}")
    try:
        if not list(Path("/sys/fs/ext4").glob("*/trigger_fs_error")):
            pytest.skip("this kernel has no switch that makes an error of a file system")
        yield disk
    finally:
        _run("umount", "--lazy", str(folder))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
