"""The output's store: a real folder in memory, so that the real publishing code runs on it, and a hook on its changes.

Python announces every change of a file system before it is made (audit events). Those below the folder of the world
that runs now are told to it: it may refuse one (an error of the storage, a process that is dead) and it notes which
names became visible.

Not here: what publishing does (`headrace.publish`, `coordinator.output`), whether it may (`laws`).
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_MEMORY = Path("/dev/shm")
_watched: "list[Store]" = []  # the store in use; empty: nothing is watched


class Store:
    """One world's folder. `changes` hears the name of an event and the paths in it, before it happens."""

    def __init__(self, changes: Callable[[str, tuple[str, ...]], None]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-sim-", dir=_MEMORY if _MEMORY.is_dir() else None))
        self.output = self.folder / "out"
        self._changes = changes
        self._prefix = str(self.folder)
        _install()
        _watched.append(self)

    def close(self) -> None:
        """Removes the folder."""
        _watched.remove(self)
        shutil.rmtree(self.folder)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit event of a change."""
        if event == "open":
            if isinstance(args[0], int) or not args[2] & os.O_CREAT:
                return
            paths: tuple[Any, ...] = args[:1]
        else:
            paths = args[:2] if event in ("os.link", "os.rename") else args[:1]
        told = tuple(os.fsdecode(path) for path in paths)
        if told[0].startswith(self._prefix):
            self._changes(event, told)


@cache
def _install() -> None:
    sys.addaudithook(_hear)  # for the life of the process; silent unless a store is watched


_CHANGES = frozenset({"os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"})


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _watched and event in _CHANGES:
        _watched[-1].hear(event, args)
