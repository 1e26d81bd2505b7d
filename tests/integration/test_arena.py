"""The arena's memory: sealed, faulted in as far as asked, and free of names."""

import os
from pathlib import Path

import numpy as np
import pytest

from sidecar.arena import Arena


def resident_bytes(arena: Arena) -> int:
    return os.fstat(arena.fd).st_blocks * 512


def test_only_the_first_bytes_are_faulted_in() -> None:
    arena = Arena.create(1 << 24, 1 << 20)
    assert (arena.size, resident_bytes(arena)) == (1 << 24, 1 << 20)
    arena.close()


def test_faulting_in_keeps_what_is_there() -> None:
    arena = Arena.create(1 << 20, 0)
    arena.view[5000] = 7
    arena.fault_in(1 << 20)
    assert (arena.view[5000], resident_bytes(arena)) == (7, 1 << 20)
    arena.close()


def test_nobody_can_change_its_size() -> None:
    arena = Arena.create(1 << 20, 0)
    for size in (0, 1 << 21):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.fd, size)
    arena.close()


def test_a_size_is_rounded_up_to_whole_pages() -> None:
    arena = Arena.create(5000, 0)
    assert (arena.size, len(arena.view)) == (8192, 8192)
    arena.close()


def test_closing_leaves_arrays_that_look_into_it_alive() -> None:
    arena = Arena.create(1 << 20, 0)
    array = np.frombuffer(arena.view, np.uint8)
    arena.view[0] = 3
    fd = arena.fd
    arena.close()
    assert array[0] == 3
    assert not Path(f"/proc/self/fd/{fd}").exists()
