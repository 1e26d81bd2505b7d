"""Keeps a host's predictors below the memory that they may use.

With cgroup v2 the kubelet lets the kernel's memory killer take a whole container, host and all. So the host ends its
largest predictor before that: the batch that made it so large is tried elsewhere, then cut down to the rows that do it.

Two measures: of a cgroup with a limit, what is in use but for file pages that the kernel can take back; without one,
what the predictors hold for themselves (the arena is the sidecar's) against the machine's memory.

Not guarded: on a machine without a limit, what the predictors of several hosts (one per stage) and all other processes
hold together, for each host counts its own predictors only. In a cgroup all that counts, but a host ends none but its
own, and only a large one.

Not here: how a predictor is ended (`children`).
"""

import os
from typing import Iterable, Optional, Tuple

CHECK_EVERY_S = 0.2
ENOUGH = 0.92
"""Of the limit: what is left is for the host, and for what a predictor takes between two checks."""
LARGE = 0.1
"""Of the limit: ending a smaller predictor wouldn't help."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """The memory of one host's predictors."""

    def __init__(self, limit_bytes: Optional[int] = None, root: str = "/sys/fs/cgroup") -> None:
        """Without `limit_bytes` it is that of the cgroup below `root`, or else the machine's."""
        self._cgroup: Optional[str] = None
        if limit_bytes is None:
            self._cgroup, limit_bytes = _cgroup(root)
        self.limit_bytes = limit_bytes or _PAGE_BYTES * os.sysconf("SC_PHYS_PAGES")

    def too_large(self, pids: Iterable[int]) -> Optional[Tuple[int, str]]:
        """The process to end now, and why."""
        used = self._cgroup_bytes()
        if used is not None and used < ENOUGH * self.limit_bytes:
            return None
        held = {pid: _own_bytes(pid) for pid in pids}
        if used is None:
            used = sum(held.values())
        if not held or used < ENOUGH * self.limit_bytes:
            return None
        largest = max(held, key=lambda pid: held[pid])
        if held[largest] < LARGE * self.limit_bytes:
            return None
        whole = "the container" if self._cgroup else "the stage's predictors"
        return largest, (
            f"headrace ends this predictor for its memory: it holds {_mib(held[largest])}, "
            f"{whole} {_mib(used)} of {_mib(self.limit_bytes)}"
        )

    def _cgroup_bytes(self) -> Optional[int]:
        """What the cgroup has in use; None without one, or where it doesn't say."""
        if self._cgroup is None:
            return None
        try:
            with open(os.path.join(self._cgroup, "memory.current")) as file:
                current = int(file.read())
            with open(os.path.join(self._cgroup, "memory.stat")) as file:
                reclaimable = next((int(line.split()[1]) for line in file if line.startswith("inactive_file ")), 0)
        except (OSError, ValueError):
            return None
        return current - reclaimable


def _cgroup(root: str) -> Tuple[Optional[str], Optional[int]]:
    """The nearest cgroup v2 folder with a limit, from this process's own upwards, and that limit."""
    try:
        with open("/proc/self/cgroup") as file:
            path = next(line.rstrip("\n").split(":", 2)[2] for line in file if line.startswith("0::"))
    except (OSError, StopIteration):
        return None, None
    folder = os.path.join(root, path.lstrip("/")).rstrip("/")
    while folder.startswith(root):
        try:
            with open(os.path.join(folder, "memory.max")) as file:
                return folder, int(file.read())
        except (OSError, ValueError):  # none here, or "max"
            folder = os.path.dirname(folder)
    return None, None


def _own_bytes(pid: int) -> int:
    """What a process holds without what it shares, such as the arena; 0 where it has ended."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            fields = file.read().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES if len(fields) > 2 else 0


def _mib(nbytes: int) -> str:
    return f"{nbytes >> 20:,} MiB"
