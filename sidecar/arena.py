"""The arena's memory: a sealed memfd, mapped once here and again by every predictor.

It has no name that could leak, and the kernel frees it when the last process that maps it ends.

Not here: which bytes are free (`sidecar.core.space`), where rows lie in it (`headrace.local.columns`).
"""

import contextlib
import fcntl
import mmap
import os

from headrace.local.columns import aligned

MADV_POPULATE_WRITE = 23
"""Linux 5.14; Python has no name for it."""


class Arena:
    """Shared memory of one worker. Only the sidecar allocates in it."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._map.madvise(mmap.MADV_DONTFORK)
        self.view = memoryview(self._map)

    @classmethod
    def create(cls, size: int, prefault: int) -> "Arena":
        """Makes an arena of `size` bytes (rounded up to whole pages), the first `prefault` of them faulted in.

        A warm page is written at the speed of memcpy, a fresh one at a tenth of it; pages beyond `prefault` cost
        nothing until they are used.

        Raises:
            OSError: no memory for it.
        """
        size = aligned(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        fd = os.memfd_create("headrace-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            # Nobody may shrink it: a predictor that did would kill the others by SIGBUS.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            arena = cls(fd, size)
        except OSError:
            os.close(fd)
            raise
        arena.fault_in(prefault)
        return arena

    def fault_in(self, nbytes: int) -> None:
        """Makes the first `nbytes` resident; what they hold is kept."""
        length = min(-(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE, self.size)
        if length <= 0:
            return
        try:
            self._map.madvise(MADV_POPULATE_WRITE, 0, length)
        except OSError:  # an older kernel
            for offset in range(0, length, mmap.PAGESIZE):
                self._map[offset] = self._map[offset]

    def close(self) -> None:
        """Unmaps it here. Arrays that still look into it keep the mapping alive until they go."""
        os.close(self.fd)
        with contextlib.suppress(BufferError):  # the mapping goes with the last of those arrays
            self.view.release()
            self._map.close()
