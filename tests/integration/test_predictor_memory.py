"""A host ends its largest predictor before memory runs out: by what the predictors hold, or by their cgroup."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from predictor.memory import ENOUGH, MemoryWatch
from tests.integration.predictor_fixture import X, in_loop, python_stage, serving

MIB = 1 << 20

GREEDY = """
    import time
    import numpy as np
    class Model:
        def __call__(self, batch):
            held = []
            while batch["x"][0, 0] == 0:
                held.append(np.ones(8 << 20, np.uint8))
                time.sleep(0.01)
            return {"y": batch["x"]}
"""


@in_loop
async def test_a_predictor_that_takes_ever_more_memory_is_ended_and_says_why(folder: Path) -> None:
    async with serving(python_stage(folder, GREEDY), folder, memory_bytes=600 * MIB) as desk:
        assert desk.host is not None
        await desk.next("ready")
        desk.host.add_predictor()  # innocent, and small
        await desk.next("ready")
        desk.send(0, 1, x=X * 0)
        number, ended = await desk.next("ended")
        assert (number, ended.signal, ended.executing) == (0, signal.SIGKILL, (1,))
        assert "headrace ends this predictor for its memory: it holds " in ended.stderr_tail
        np.testing.assert_array_equal((await desk.predict(1, 2, x=X + 1))["y"], X + 1)


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """A cgroup with a limit of 1,000 MiB, and this process below it."""
    (tmp_path / "memory.max").write_text(f"{1000 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {300 * MIB}\nactive_file 7\n")
    return tmp_path


@pytest.mark.parametrize(("in_use", "is_over"), [(1000, False), (300 + int(1000 * ENOUGH) + 1, True)])
def test_a_cgroup_counts_without_the_file_pages_that_the_kernel_can_take_back(
    cgroup: Path, in_use: int, is_over: bool
) -> None:
    (cgroup / "memory.current").write_text(f"{in_use * MIB}\n")
    watch = MemoryWatch(root=str(cgroup))
    ballast = np.ones(110 * MIB, np.uint8)  # this process is large enough to be worth its end
    found = watch.too_large([os.getpid()])
    assert ballast.all()
    assert (found is not None) == is_over
    if found is not None:
        assert found[0] == os.getpid()
        assert found[1].endswith(f"the container {in_use - 300:,} MiB of 1,000 MiB")


def test_a_small_predictor_is_not_ended_for_what_others_hold(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text(f"{1 << 50}\n")
    (cgroup / "memory.current").write_text(f"{1 << 50}\n")
    assert MemoryWatch(root=str(cgroup)).too_large([os.getpid()]) is None


def test_without_a_limit_the_machine_is_one(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    watch = MemoryWatch(root=str(tmp_path))
    assert watch.limit_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert watch.too_large([os.getpid()]) is None
    assert watch.too_large([]) is None
