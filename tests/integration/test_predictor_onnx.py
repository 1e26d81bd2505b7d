"""Real predictors with ONNX models over a real arena."""

from pathlib import Path

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper

from headrace.local.messages import TensorSpec
from tests.integration.predictor_fixture import X, in_loop, onnx_stage, serving, value


@in_loop
async def test_an_onnx_stage_writes_in_place_where_shapes_follow(folder: Path) -> None:
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    stage = onnx_stage(
        folder,
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("NonZero", ["x"], ["found"]),
         helper.make_node("Transpose", ["found"], ["places"])],
        [value("x", ["rows", 3])],
        [value("y", ["rows", 2]), value("places", ["places", 2], TensorProto.INT64)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    async with serving(stage, folder) as desk:
        _, specs = await desk.next("ready")
        assert specs.inputs == {"x": TensorSpec("float32", (None, 3))}
        assert specs.outputs == {"y": TensorSpec("float32", (None, 2)), "places": TensorSpec("int64", (None, 2))}
        x = np.eye(3, dtype=np.float32) * 2  # three rows, three places
        outputs = await desk.predict(0, 1, x=x)
        np.testing.assert_array_equal(outputs["y"], x @ weights)
        assert outputs["places"].tolist() == [[0, 0], [1, 1], [2, 2]]
        np.testing.assert_array_equal((await desk.predict(0, 2, x=x * 2))["y"], x @ weights * 2)
        desk.send(0, 3, x=X)
        _, error = await desk.next("failed")  # eleven places for four rows
        assert str(error) == "WrongRows: output places has 11 rows, the batch has 4"
        desk.send(0, 4, 64, x=x)  # too small: nothing in place, then a larger region
        batch, nbytes = await desk.next("space")
        assert desk.host is not None
        desk.host.give_space(0, batch, desk.region(nbytes), nbytes)
        _, columns, _ = await desk.next("done")
        np.testing.assert_array_equal(desk.get(columns["y"]), x @ weights)


@in_loop
async def test_an_onnx_model_of_a_fixed_batch_gets_pieces_of_that_size(folder: Path) -> None:
    stage = onnx_stage(folder, [helper.make_node("Neg", ["x"], ["y"])], [value("x", [4, 1])], [value("y", [4, 1])])
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        for rows in (1, 4, 10):
            x = np.arange(rows, dtype=np.float32).reshape(rows, 1)
            np.testing.assert_array_equal((await desk.predict(0, rows, x=x))["y"], -x)


@in_loop
async def test_an_onnx_model_takes_text(folder: Path) -> None:
    text = TensorProto.STRING
    stage = onnx_stage(
        folder, [helper.make_node("Identity", ["t"], ["u"])], [value("t", ["n"], text)], [value("u", ["n"], text)]
    )
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        assert (await desk.predict(0, 1, t=desk.put_texts(["ä", "b"])))["u"] == ["ä", "b"]


@in_loop
async def test_the_host_forks_from_one_thread_also_with_onnx_runtime_imported(folder: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    stage = onnx_stage(folder, nodes, [value("x", ["n", 3])], [value("y", ["n", 3])])
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        assert desk.host is not None
        host = psutil.Process(desk.host.pid)
        assert [each.num_threads() for each in (host, *host.children())] == [1, 1]
