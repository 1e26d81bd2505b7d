"""Real predictors that end: by themselves, by a signal, by the end of what they belong to; and what is seen of it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import psutil
import pytest

from headrace.local.frames import encode
from headrace.local.messages import Control, Predictor
from sidecar.predictors import Ended
from tests.integration.predictor_fixture import (
    DOUBLE,
    STUCK,
    WAIT_S,
    X,
    in_loop,
    python_stage,
    serving,
    still_running,
)

LOADS = {
    "import": ("import no_such_module_here\n", "ModuleNotFoundError", "no_such_module_here"),
    "constructor": (
        "class Model:\n    def __init__(self):\n        self.go()\n"
        "    def go(self):\n        raise OSError('no weights')\n",
        "OSError",
        "in go",
    ),
    "exit": ("import sys\nsys.exit('not today')\n", "SystemExit", "not today"),
    "class": ("class Modle: pass\n", "BadStage", "model has no Model; it has Modle"),
}


@pytest.mark.parametrize("what", LOADS)
def test_a_stage_that_cannot_be_loaded_says_why(what: str, tmp_path: Path) -> None:
    code, kind, found = LOADS[what]

    async def run() -> Ended:
        async with serving(python_stage(tmp_path, code), tmp_path) as desk:
            _, ended = await desk.next("ended")
            assert isinstance(ended, Ended)
            return ended

    ended = asyncio.run(run())
    assert ended.load_error is not None
    assert ended.load_error.kind == kind
    assert found in ended.load_error.message + ended.load_error.traceback
    assert (ended.status, ended.executing) == (1, ())


@in_loop
async def test_a_killed_predictor_is_seen_with_its_batches_and_replaced(folder: Path) -> None:
    code = """
        import os, signal, sys
        class Model:
            def __call__(self, batch):
                if batch["x"][0, 0] == 0:
                    print("about to die", file=sys.stderr)
                    os.kill(os.getpid(), signal.SIGKILL)
                return {"y": batch["x"]}
    """
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        np.testing.assert_array_equal((await desk.predict(0, 1, x=X + 1))["y"], X + 1)
        desk.send(0, 2, x=X)
        desk.send(0, 3, x=X + 1)
        number, ended = await desk.next("ended")
        assert (number, ended.signal, ended.status, ended.executing) == (0, signal.SIGKILL, None, (2, 3))
        assert ended.stderr_tail == "about to die\n"
        assert desk.host is not None
        assert desk.host.credits(0) == 0
        assert desk.host.add_predictor() == 1
        await desk.next("ready")
        np.testing.assert_array_equal((await desk.predict(1, 3, x=X + 1))["y"], X + 1)


@in_loop
async def test_a_killed_predictor_is_replaced_within_a_second(folder: Path) -> None:
    async with serving(python_stage(folder, DOUBLE), folder) as desk:
        assert desk.host is not None
        await desk.next("ready")
        (process,) = psutil.Process(desk.host.pid).children()
        killed_at = time.monotonic()
        process.kill()
        await desk.next("ended")
        number = desk.host.add_predictor()
        await desk.next("ready")
        np.testing.assert_array_equal((await desk.predict(number, 1, x=X))["y"], X * 2)
        assert time.monotonic() - killed_at < 1.0


@in_loop
async def test_a_predictor_that_hangs_and_ignores_sigterm_is_replaced_within_a_second(folder: Path) -> None:
    code = """
        import signal, time
        class Model:
            def __init__(self):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            def __call__(self, batch):
                time.sleep(600)
    """
    async with serving(python_stage(folder, code), folder) as desk:
        assert desk.host is not None
        await desk.next("ready")
        desk.send(0, 1, x=X)
        ended_at = time.monotonic()
        desk.host.end_predictor(0, "no answer in time")
        await desk.next("ended")
        desk.host.add_predictor()
        await desk.next("ready")
        assert time.monotonic() - ended_at < 1.0


@in_loop
async def test_ending_a_predictor_ends_its_whole_process_group(folder: Path) -> None:
    code = """
        import os, signal, time
        import numpy as np
        class Model:
            def __init__(self):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                self.child = os.fork()
                if self.child == 0:
                    time.sleep(600)
            def __call__(self, batch):
                return {"pid": np.full(len(batch["x"]), self.child)}
    """
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        pid = int((await desk.predict(0, 1, x=X))["pid"][0])
        assert psutil.pid_exists(pid)
        assert desk.host is not None
        desk.host.end_predictor(0)
        await desk.next("ended")
        assert not psutil.pid_exists(pid)


@in_loop
async def test_a_predictor_stuck_in_c_is_ended_when_asked(folder: Path) -> None:
    async with serving(python_stage(folder, STUCK), folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, x=X)
        desk.send(0, 2, x=X)
        while not (folder / "pid").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
        assert desk.host is not None
        desk.host.end_predictor(0, "no answer in time")
        _, ended = await desk.next("ended")
        assert (ended.asked, ended.reason, ended.executing) == (True, "no answer in time", (1, 2))
        assert ended.signal == signal.SIGTERM


SIDECAR = """
import asyncio, sys, time
from contextlib import suppress
from pathlib import Path
from random import Random
sys.path.insert(0, sys.argv[1])
from predictor_fixture import STUCK, X, python_stage, serving

async def main():
    folder = Path(sys.argv[2])
    async with serving(python_stage(folder, STUCK), folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, x=X)
        while not (folder / "pid").exists():
            await asyncio.sleep(0.01)
        print(desk.host.pid, (folder / "pid").read_text(), flush=True)
        time.sleep(600)

asyncio.run(main())
"""


def test_a_killed_sidecar_leaves_no_process_behind(tmp_path: Path) -> None:
    """Also with a predictor stuck in C code, within two seconds."""
    command = [sys.executable, "-c", SIDECAR, str(Path(__file__).parent), str(tmp_path)]
    sidecar = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert sidecar.stdout is not None
    pids = [int(word) for word in sidecar.stdout.readline().split()]
    left = [psutil.Process(pid) for pid in pids]
    assert len(left) == 2
    sidecar.kill()
    sidecar.wait()
    sidecar.stdout.close()
    assert still_running(left, 2.0) == []


@in_loop
async def test_a_killed_host_takes_its_predictors_along_and_is_reported(folder: Path) -> None:
    async with serving(python_stage(folder, DOUBLE), folder) as desk:
        await desk.next("ready")
        assert desk.host is not None
        predictors = psutil.Process(desk.host.pid).children()
        assert len(predictors) == 1
        os.kill(desk.host.pid, signal.SIGKILL)
        told = {(await asyncio.wait_for(desk.told.get(), WAIT_S))[0] for _ in range(2)}
        assert told == {"host ended", "ended"}
        assert still_running(predictors, 2.0) == []


@in_loop
async def test_a_predictor_that_breaks_the_protocol_is_ended(folder: Path) -> None:
    code = """
        import os
        class Model:
            def __call__(self, batch):
                for fd in os.listdir("/proc/self/fd"):
                    link = f"/proc/self/fd/{fd}"
                    if os.path.islink(link) and os.readlink(link).startswith("socket:"):
                        os.write(int(fd), b"GET / HTTP/1.1")
                return {"y": batch["x"]}
    """
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, x=X)
        _, ended = await desk.next("ended")
        assert ended.reason == "it broke the protocol: version 47, this side speaks 1"
        assert (ended.executing, ended.asked) == ((1,), False)


@in_loop
async def test_closing_in_the_middle_of_anything_leaves_nothing(folder: Path) -> None:
    async with serving(python_stage(folder, DOUBLE), folder) as desk:
        await desk.next("ready")
        assert desk.host is not None
        desk.host.add_predictor()  # not yet connected
        desk.send(0, 1, x=X)
        desk.host.end_predictor(0)
        processes = [psutil.Process(desk.host.pid), *psutil.Process(desk.host.pid).children()]
    assert still_running(processes, 0.0) == []


@in_loop
async def test_a_stranger_at_the_hosts_socket_changes_nothing(folder: Path) -> None:
    async with serving(python_stage(folder, DOUBLE), folder) as desk:
        await desk.next("ready")
        for first in (b"GET / HTTP/1.1\r\n", b"\x00", encode(Control("embed")), encode(Predictor(0))):
            reader, writer = await asyncio.open_unix_connection(str(folder / "embed.sock"))
            writer.write(first)
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
            writer.close()
        np.testing.assert_array_equal((await desk.predict(0, 1, x=X))["y"], X * 2)


@in_loop
async def test_noise_at_the_hosts_socket_changes_nothing(folder: Path) -> None:
    random = Random(7)
    async with serving(python_stage(folder, DOUBLE), folder) as desk:
        await desk.next("ready")
        for _ in range(200):
            whole = encode(random.choice((Control("embed"), Predictor(random.randrange(3)))))
            noise = random.randbytes(random.randrange(1, 200))
            cut = random.randrange(len(whole))
            first = random.choice((noise, whole[:cut] + noise, whole[:cut] + noise[:1] + whole[cut + 1 :]))
            reader, writer = await asyncio.open_unix_connection(str(folder / "embed.sock"))
            writer.write(first)
            writer.write_eof()
            with suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), WAIT_S)
            writer.close()
        np.testing.assert_array_equal((await desk.predict(0, 1, x=X))["y"], X * 2)
