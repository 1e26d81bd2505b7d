"""A clock that jumps, for one process and all that it starts: what `time` says is moved by two numbers in a file.

Python loads `sitecustomize` before anything else, so whoever imports a clock later, asyncio too, gets the moved one.
`datetime.now` isn't moved: tests/tidy holds that nobody asks it.
"""

import mmap
import os
import struct
from pathlib import Path

import pytest

_NUMBERS = struct.Struct("dd")
_CODE = """
import mmap, os, struct, time

_path = os.environ.get("TEST_CLOCK")
if _path:
    with open(_path, "rb") as _file:
        _moved = mmap.mmap(_file.fileno(), 16, prot=mmap.PROT_READ)

    def _by(real, at, unit=1):
        return lambda: real() + type(unit)(struct.unpack_from("d", _moved, at)[0] * unit)

    time.time = _by(time.time, 0, 1.0)
    time.time_ns = _by(time.time_ns, 0, 10**9)
    time.monotonic = _by(time.monotonic, 8, 1.0)
    time.monotonic_ns = _by(time.monotonic_ns, 8, 10**9)
    open(f"{_path}.{os.getpid()}", "w").close()
"""


class Clock:
    """Moves the clocks of the processes that are started under it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "clock"
        self._folder.mkdir()
        (self._folder / "sitecustomize.py").write_text(_CODE)
        self._path = self._folder / "moved"
        self._path.write_bytes(bytes(_NUMBERS.size))
        with open(self._path, "r+b") as file:
            self._moved = mmap.mmap(file.fileno(), _NUMBERS.size)

    def put_on(self, patch: pytest.MonkeyPatch) -> None:
        """What is started from now on has this clock."""
        found = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", f"{self._folder}{os.pathsep + found if found else ''}")
        patch.setenv("TEST_CLOCK", str(self._path))

    def move(self, *, wall_s: float = 0.0, monotonic_s: float = 0.0) -> None:
        """All of its processes see other times, at once."""
        self._moved[:] = _NUMBERS.pack(wall_s, monotonic_s)

    def is_on(self, pid: int) -> bool:
        """Whether the process started under it."""
        return self._path.with_name(f"{self._path.name}.{pid}").exists()
