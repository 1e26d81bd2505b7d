"""Stages are loaded in processes of their own, and what is wrong with them is told as the user needs it."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from coordinator.planning import Probe
from coordinator.planning.stages import find_model
from coordinator.probing import find_probes
from coordinator.spec import InferenceJob
from headrace.errors import Fault
from headrace.local.messages import TensorSpec

MODULE = """\
import os

class Good:
    def __init__(self, k=1):
        print("noise")
    def __call__(self, batch):
        return {"y": batch["x"]}

class Raises:
    def __init__(self, depth):
        self.load(depth)
    def load(self, depth):
        raise RuntimeError(f"no weights of depth {depth}")

class Dies:
    def __init__(self):
        os.abort()

class Says:
    def __init__(self):
        raise RuntimeError(os.environ["HEADRACE_JOB"] + " " + os.environ["HEADRACE_STAGE"])
"""


def job(folder: Path, *stages: dict[str, Any]) -> InferenceJob:
    pipeline = [{"name": f"s{i}", "inputs": {"x": "source.x"}, **stage} for i, stage in enumerate(stages)]
    plain = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "t"},
        "spec": {
            "source": {"format": "parquet", "uri": "in"},
            "pipeline": pipeline,
            "sink": {"format": "parquet", "uri": "out", "columns": {"y": "s0.y"}},
        },
    }
    return InferenceJob.model_validate(plain).absolute(folder)


def save_model(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 9
    onnx.save(made, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "stages.py").write_text(MODULE)
    save_model(tmp_path / "m.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    return tmp_path


def test_a_stage_says_what_it_takes_and_gives(folder: Path) -> None:
    made = job(folder, {"onnx": "m.onnx"}, {"python": "stages:Good", "config": {"k": 2}})
    ends = TensorSpec("float32", (None, 2))
    expected = {"s0": Probe({"x": ends}, {"y": ends}), "s1": Probe({}, None)}
    assert asyncio.run(find_probes(made, folder)) == (expected, [])


def test_everything_wrong_with_stages_is_found_in_one_go(folder: Path) -> None:
    made = job(
        folder,
        {"onnx": "text.onnx"},
        {"onnx": "missing.onnx"},
        {"python": "stages:Raises", "config": {"depth": 3}},
        {"python": "stages:Goood"},
        {"python": "stage:Good"},
        {"python": "stages:Dies"},
        {"python": "stages:Says"},
        {"onnx": "m.onnx"},
    )
    probes, faults = asyncio.run(find_probes(made, folder))
    assert list(probes) == ["s7"]
    told = {fault.field: f"{fault.found} | {fault.expected}" for fault in faults}
    assert list(told) == [f"spec.pipeline[{i}].{kind}" for i, kind in enumerate(["onnx"] * 2 + ["python"] * 5)]
    texts = list(told.values())
    assert texts[0].startswith(f"{folder}/text.onnx can't be loaded: ")
    assert texts[0].endswith(" | an ONNX model that ONNX Runtime can run")
    assert texts[1] == f"{folder}/missing.onnx doesn't exist | there are: m.onnx, text.onnx"
    assert texts[2].startswith("RuntimeError: no weights of depth 3\n    Traceback")
    assert f'File "{folder}/stages.py", line 11, in __init__' in texts[2]
    assert texts[2].count('File "') == 2
    assert "no Goood; it has Dies, Good, Raises, Says" in texts[3]
    assert texts[4] == "there is no module 'stage' | did you mean 'stages'?"
    assert texts[5].startswith("its process ended while loading (signal SIGABRT)")
    assert texts[6].startswith("RuntimeError: t s6")
    again, doubted = asyncio.run(find_probes(made, folder, skip=[0, 7], doubtful=range(8)))
    assert (again, doubted) == ({}, [fault for fault in faults[1:] if fault.expected])


@pytest.mark.parametrize("target", ["pkg://{}/inner/m.onnx", "pkg://{}.inner/m.onnx"])
def test_a_model_may_lie_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    package = f"headrace_test_{os.getpid()}_{abs(hash(target))}"
    (tmp_path / package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/m.onnx"):
        (tmp_path / package / name).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_model(target.format(package)) == tmp_path / package / "inner/m.onnx"
    missing = find_model(f"pkg://{package}/none.onnx")
    assert isinstance(missing, Fault)
    assert missing.found == f"{tmp_path}/{package}/none.onnx doesn't exist"


@pytest.mark.parametrize("package", ["", "no_such_package_here", "no.such.package", "..", "os"])
def test_a_package_that_is_not_there_is_told(package: str) -> None:
    assert find_model(f"pkg://{package}/m.onnx") == Fault(
        "", f"no package '{package}' is installed here", "pkg://PACKAGE/path"
    )


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    assert find_model(str(tmp_path)) == Fault("", f"{tmp_path} is a folder", "a model file")


LEAVES = """\
import subprocess, time

class Leaves:
    def __init__(self, path, own_session, ends):
        child = subprocess.Popen(["sleep", "60"], start_new_session=own_session)
        with open(path, "w") as file:
            file.write(str(child.pid))
        if not ends:
            time.sleep(60)
    def __call__(self, batch):
        return {"y": batch["x"]}
"""


@pytest.mark.parametrize("own_session", [False, True])
def test_a_stage_that_leaves_a_process_is_probed_at_once_and_its_process_ended(folder: Path, own_session: bool) -> None:
    (folder / "leaves.py").write_text(LEAVES)
    config = {"path": str(folder / "pid"), "own_session": own_session, "ends": True}
    made = job(folder, {"python": "leaves:Leaves", "config": config})

    async def ask() -> tuple[dict[str, Probe], list[Fault]]:
        async with asyncio.timeout(20):
            return await find_probes(made, folder)

    assert asyncio.run(ask()) == ({"s0": Probe({}, None)}, [])
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)


@pytest.mark.parametrize("own_session", [False, True])
def test_what_a_probe_started_is_ended_when_it_is_given_up(folder: Path, own_session: bool) -> None:
    (folder / "leaves.py").write_text(LEAVES)
    os.mkfifo(folder / "pid")
    config = {"path": str(folder / "pid"), "own_session": own_session, "ends": False}
    made = job(folder, {"python": "leaves:Leaves", "config": config})

    async def give_up() -> int:
        probing = asyncio.create_task(find_probes(made, folder))
        pid = int(await asyncio.to_thread((folder / "pid").read_text))
        probing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probing
        return pid

    pid = asyncio.run(give_up())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_probe_that_is_given_up_leaves_no_process(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import os, signal\n"
        "class Slow:\n"
        "    def __init__(self, path):\n"
        "        with open(path, 'w') as file: file.write(str(os.getpid()))\n"
        "        signal.pause()\n"
    )
    os.mkfifo(folder / "pid")
    made = job(folder, {"python": "slow:Slow", "config": {"path": str(folder / "pid")}})

    async def give_up() -> int:
        probing = asyncio.create_task(find_probes(made, folder))
        pid = int(await asyncio.to_thread((folder / "pid").read_text))
        probing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probing
        return pid

    pid = asyncio.run(give_up())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
