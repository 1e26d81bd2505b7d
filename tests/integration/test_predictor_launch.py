"""How predictors are launched and probed: environment, imports, sockets, copies in images."""

import shutil
from pathlib import Path

from onnx import helper

from headrace.local import frames
from headrace.program import StageProgram
from tests.integration.predictor_fixture import (
    DOUBLE,
    LAUNCHER,
    X,
    in_loop,
    onnx_stage,
    probe,
    python_stage,
    serving,
    stage_input,
    value,
)

FAILS = """
    class Model:
        def __init__(self):
            self.go()
        def go(self):
            raise OSError("no weights")
"""


@in_loop
async def test_modules_of_the_user_with_our_names_are_theirs(folder: Path) -> None:
    for name in ("host", "local", "frames", "session", "proto", "headrace_x", "launcher", "stage"):
        (folder / f"{name}.py").write_text(f"WHOSE = {name!r}\n")
    code = """
        import frames, headrace_x, host, launcher, local, proto, session, stage, sys
        import predictor
        class Model:
            def __call__(self, batch):
                names = [m.WHOSE for m in (frames, headrace_x, host, launcher, local, proto, session, stage)]
                return {"names": [" ".join(names) + " " + predictor.__file__] * len(batch["x"])}
    """
    async with serving(python_stage(folder, code, module="predictor"), folder) as desk:
        await desk.next("ready")
        found = (await desk.predict(0, 1, x=X))["names"][0]
        assert found == f"frames headrace_x host launcher local proto session stage {folder / 'predictor.py'}"


@in_loop
async def test_a_stage_sees_the_environment_it_was_promised(folder: Path) -> None:
    code = """
        import os
        class Model:
            def __call__(self, batch):
                names = ("HEADRACE_JOB", "HEADRACE_STAGE", "HEADRACE_WORKER", "OMP_NUM_THREADS")
                return {name: [os.environ[name]] * len(batch["x"]) for name in names}
    """
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        found = await desk.predict(0, 1, x=X)
    assert [texts[0] for texts in found.values()] == ["nightly", "embed", "w0", "1"]


@in_loop
async def test_a_socket_path_beyond_the_kernels_limit_works(folder: Path) -> None:
    deep = folder / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with serving(python_stage(folder, DOUBLE), deep) as desk:
        await desk.next("ready")
        assert (deep / "embed.sock").stat().st_mode & 0o777 == 0o600


def test_a_probe_tells_inputs_and_outputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    model = onnx_stage(tmp_path, nodes, [value("x", ["n", 3])], [value("y", ["n", 3])])
    spec = {"dtype": "float32", "shape": [None, 3]}
    assert probe(model) == {"inputs": {"x": spec}, "outputs": {"y": spec}}
    example = """
        import numpy as np
        print("at import")
        class Model:
            def example(self):
                return {"x": np.zeros((2, 3))}
            def __call__(self, batch):
                return {"y": batch["x"][:, 0], "s": ["a"] * len(batch["x"])}
    """
    answer = {"y": {"dtype": "float64", "shape": [None]}, "s": {"dtype": "utf8", "shape": [None]}}
    assert probe(python_stage(tmp_path, example)) == {"inputs": {}, "outputs": answer}
    assert probe(python_stage(tmp_path, DOUBLE)) == {"inputs": {}, "outputs": None}


def test_a_probe_of_what_cannot_be_loaded_answers_with_the_error(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("no model")
    bad = StageProgram("s", "onnx", str(tmp_path / "bad.onnx"), (stage_input("x"),))
    error = probe(bad)["error"]
    assert (error["class"], error["where"]) == ("InvalidProtobuf", "load")
    error = probe(python_stage(tmp_path, FAILS))["error"]
    assert (error["class"], error["message"], error["where"]) == ("OSError", "no weights", "load")
    assert "in go" in error["traceback"]
    assert "loaders" not in error["traceback"]


def test_copied_into_an_image_under_one_private_folder_it_runs(tmp_path: Path) -> None:
    package = Path(LAUNCHER).parent
    shutil.copytree(package, tmp_path / "runtime" / "predictor")
    shutil.copytree(Path(frames.__file__).parent, tmp_path / "runtime" / "local")
    launcher = str(tmp_path / "runtime" / "predictor" / "launcher.py")
    assert probe(python_stage(tmp_path, DOUBLE), launcher) == {"inputs": {}, "outputs": None}
