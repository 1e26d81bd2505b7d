"""Real predictor hosts and predictors over a real arena: what they give, and what is seen when they fail."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from headrace.local import frames
from headrace.local.columns import BINARY, DTYPES, IPC, TENSOR, UTF8, Column
from headrace.local.frames import encode
from headrace.local.messages import ARROW_INPUT, Control, Predictor, Specs, StageError, TensorSpec
from headrace.program import Cast, Ref, StageInput, StageProgram
from sidecar.arena import Arena
from sidecar.predictors import LAUNCHER, Ended, Host

WAIT_S = 20.0
REGION_BYTES = 1 << 16


class Desk:
    """A sidecar's driver for tests: an arena with what was put into it, and what the host told."""

    def __init__(self) -> None:
        self.arena = Arena.create(8 << 20, 0)
        self.told: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.host: Host | None = None

    def predictor_ready(self, predictor: int, specs: Specs) -> None:
        self.told.put_nowait(("ready", predictor, specs))

    def batch_done(self, predictor: int, batch: int, columns: dict[str, Column], busy_s: float) -> None:
        self.told.put_nowait(("done", batch, columns, busy_s))

    def batch_failed(self, predictor: int, batch: int, error: StageError) -> None:
        self.told.put_nowait(("failed", batch, error))

    def space_needed(self, predictor: int, batch: int, nbytes: int) -> None:
        self.told.put_nowait(("space", batch, nbytes))

    def predictor_ended(self, predictor: int, ended: Ended) -> None:
        self.told.put_nowait(("ended", predictor, ended))

    def host_ended(self, reason: str) -> None:
        self.told.put_nowait(("host ended", reason))

    async def next(self, kind: str) -> tuple[Any, ...]:
        """What follows the word `kind`, which must be what is told next."""
        told = await asyncio.wait_for(self.told.get(), WAIT_S)
        assert told[0] == kind, told
        return told[1:]

    def region(self, nbytes: int) -> int:
        offset = self.arena.allocator.allocate(nbytes)
        assert offset is not None
        return offset

    def put(self, array: np.ndarray) -> Column:
        offset = self.region(array.nbytes)
        np.ndarray(array.shape, array.dtype, self.arena.view, offset)[...] = array
        return Column(TENSOR, len(array), offset, array.nbytes, DTYPES.index(str(array.dtype)), array.shape)

    def put_texts(self, values: Sequence[str | bytes | None]) -> Column:
        encoded = [v.encode() if isinstance(v, str) else v or b"" for v in values]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        data = np.frombuffer(b"".join(encoded), np.uint8)
        valid = np.array([v is not None for v in values])
        kind = BINARY if isinstance(values[0], bytes) else UTF8
        return Column(
            kind, len(values), self.put(offsets).offset, offsets.nbytes, data_offset=self.put(data).offset,
            data_nbytes=len(data), validity_offset=self.put(valid).offset,
        )  # fmt: skip

    def get(self, column: Column) -> Any:
        """The values of a column: an array, or a list for text and where there are nulls."""
        view = self.arena.view
        valid = [True] * column.rows
        if column.validity_offset >= 0:
            valid = np.ndarray((column.rows,), np.bool_, view, column.validity_offset).tolist()
        if column.kind == TENSOR:
            array = np.ndarray(column.shape, DTYPES[column.dtype], view, column.offset).copy()
            return array if all(valid) else [v if ok else None for v, ok in zip(array.tolist(), valid, strict=True)]
        ends = np.ndarray((column.rows + 1,), np.int64, view, column.offset) + column.data_offset
        found = [bytes(view[a:b]) for a, b in pairwise(ends)]
        values = [v.decode() for v in found] if column.kind == UTF8 else found
        return [v if ok else None for v, ok in zip(values, valid, strict=True)]

    def send(self, predictor: int, batch: int, nbytes: int = REGION_BYTES, **inputs: Any) -> None:
        """Sends a batch of these inputs, each a Column, a list of Columns, or an array."""
        columns = {}
        for name, value in inputs.items():
            parts = value if isinstance(value, list) else [value]
            columns[name] = [part if isinstance(part, Column) else self.put(part) for part in parts]
        rows = next(iter(columns.values()))[0].rows
        assert self.host is not None
        self.host.send_batch(predictor, batch, rows, columns, self.region(nbytes), nbytes)

    async def predict(self, predictor: int, batch: int, nbytes: int = REGION_BYTES, **inputs: Any) -> dict[str, Any]:
        """Outputs of a batch that must go well."""
        self.send(predictor, batch, nbytes, **inputs)
        number, columns, busy_s = await self.next("done")
        assert number == batch
        assert busy_s > 0
        return {name: self.get(column) for name, column in columns.items()}


@asynccontextmanager
async def serving(stage: StageProgram, folder: Path) -> AsyncIterator[Desk]:
    """A host for the stage, and a predictor 0 that is being loaded."""
    desk = Desk()
    surprises: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))
    desk.host = await Host.start(stage, desk.arena, folder, desk, {"HEADRACE_JOB": "nightly", "HEADRACE_WORKER": "w0"})
    try:
        assert desk.host.add_predictor() == 0
        yield desk
    finally:
        await desk.host.close()
        desk.arena.close()
    await asyncio.sleep(0)  # what was scheduled before the end finds nothing to do
    assert surprises == []


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test, with a deadline."""

    def run(tmp_path: Path) -> None:
        asyncio.run(asyncio.wait_for(test(tmp_path), 60))

    run.__name__ = test.__name__
    return run


def stage_input(name: str, *refs: str, **more: Any) -> StageInput:
    pairs = [ref.split(".", 1) for ref in refs or (f"source.{name}",)]
    return StageInput(name, tuple(Ref(producer, column) for producer, column in pairs), **more)


def python_stage(folder: Path, code: str, *inputs: StageInput, module: str = "model", **more: Any) -> StageProgram:
    (folder / f"{module}.py").write_text(textwrap.dedent(code))
    inputs = inputs or (stage_input("x"),)
    return StageProgram("embed", "python", f"{module}:Model", inputs, search_path=(str(folder),), **more)


def onnx_stage(
    folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: Any = ()
) -> StageProgram:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "m.onnx")
    names = [each.name for each in inputs]
    return StageProgram("score", "onnx", str(folder / "m.onnx"), tuple(stage_input(name) for name in names))


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


X = np.arange(12, dtype=np.float32).reshape(4, 3)

DOUBLE = """
    class Model:
        def __init__(self, by=2):
            self.by = by
        def __call__(self, batch):
            return {"y": batch["x"] * self.by}
"""


@in_loop
async def test_a_python_stage_turns_batches_into_batches(folder: Path) -> None:
    async with serving(python_stage(folder, DOUBLE, config='{"by": 3}'), folder) as desk:
        assert await desk.next("ready") == (0, Specs({}, None))
        np.testing.assert_array_equal((await desk.predict(0, 1, x=X))["y"], X * 3)
        desk.send(0, 2, x=X)
        desk.send(0, 3, x=X + 1)
        assert [(await desk.next("done"))[0] for _ in range(2)] == [2, 3]


@in_loop
async def test_text_bytes_and_nulls_go_in_and_out(folder: Path) -> None:
    code = """
        import numpy as np
        class Model:
            def __call__(self, batch):
                assert batch["t"].dtype == object
                return {
                    "t": [None if t is None else t.upper() for t in batch["t"]],
                    "b": np.array(list(batch["b"]), object),
                    "n": [1, None, 3],
                    "u": np.array(["a", "bc", ""]),
                    "day": np.array(["2026-11-22"] * 3, "datetime64[D]"),
                    "big": np.array([1, 2, 3], ">i4"),
                    "ok": [True, False, True],
                    "_error": [None, "too short", None],
                }
    """
    texts, data = ["ä", None, "strasse"], [b"\x00\xff\x00", b"", None]
    stage = python_stage(folder, code, stage_input("t"), stage_input("b"))
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        outputs = await desk.predict(0, 1, t=desk.put_texts(texts), b=desk.put_texts(data))
    found = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in outputs.items()}
    assert str(found.pop("day")[0]) == "2026-11-22"
    assert found == {
        "t": ["Ä", None, "STRASSE"],
        "b": data,
        "n": [1, None, 3],
        "u": ["a", "bc", ""],
        "big": [1, 2, 3],
        "ok": [True, False, True],
        "_error": [None, "too short", None],
    }


@in_loop
async def test_a_result_beyond_its_region_asks_for_space_and_is_computed_once(folder: Path) -> None:
    code = """
        import numpy as np
        class Model:
            calls = 0
            def __call__(self, batch):
                self.calls += 1
                return {"y": np.full((4, 1000), self.calls), "s": ["é" * 1000] * 4}
    """
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, 64, x=X)
        desk.send(0, 2, x=X)  # it waits behind the question
        batch, nbytes = await desk.next("space")
        assert (batch, nbytes) == (1, 32_000 + 64 + 8_000)
        assert desk.host is not None
        desk.host.give_space(0, 1, desk.region(nbytes), nbytes)
        _, columns, _ = await desk.next("done")
        assert desk.get(columns["y"]).tolist() == [[1] * 1000] * 4
        assert desk.get(columns["s"]) == ["é" * 1000] * 4
        _, columns, _ = await desk.next("done")
        assert desk.get(columns["y"])[0, 0] == 2


@in_loop
async def test_an_exception_fails_the_batch_with_the_users_frames_and_the_predictor_lives(folder: Path) -> None:
    code = """
        def inner(x):
            raise KeyError("no such token")
        class Model:
            def __call__(self, batch):
                if batch["x"][0, 0] == 0:
                    try:
                        inner(batch)
                    except KeyError as error:
                        raise ValueError("bad batch") from error
                return {"y": batch["x"]}
    """
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, x=X)
        batch, error = await desk.next("failed")
        assert (batch, error.kind, error.message) == (1, "ValueError", "bad batch")
        files = {line.split('"')[1] for line in error.traceback.splitlines() if line.startswith("  File")}
        assert files == {str(folder / "model.py")}
        assert "in inner" in error.traceback
        assert "KeyError: 'no such token'" in error.traceback
        np.testing.assert_array_equal((await desk.predict(0, 2, x=X + 1))["y"], X + 1)


@in_loop
async def test_a_result_that_is_no_batch_says_what_it_is(folder: Path) -> None:
    code = """
        import numpy as np
        RESULTS = [
            {"y": np.zeros(3)}, {"y": np.float32(1)}, [1, 2], None, {"y": np.zeros(4, complex)},
            {"y": [[1], [2, 3], [], []]}, {"y": [{}, {}, {}, {}]}, {"y": "abcd"},
            {"y": np.array([["a"]] * 4)}, {1: np.zeros(4)}, {"\\ud800": np.zeros(4)}, {"y": np.zeros((4,) + (1,) * 32)},
        ]
        class Model:
            def __call__(self, batch):
                return RESULTS[int(batch["x"][0, 0])]
    """
    found = []
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        for number in range(12):
            desk.send(0, number, x=np.full((4, 1), number))
            batch, error = await desk.next("failed")
            assert batch == number
            found.append(str(error)[:57])
    assert found == [
        "WrongRows: output y has 3 rows, the batch has 4",
        "WrongRows: output y is a single value, not one per row",
        "BadOutput: the stage returned a list, not a dict of array",
        "BadOutput: the stage returned nothing, not a dict of arra",
        "BadOutput: output y: no column has dtype complex128",
        "BadOutput: output y is no array: setting an array element",
        "BadOutput: output y: no column holds objects of dict",
        "BadOutput: output y is a str, not an array",
        "BadOutput: output y: strings and objects must be of rank ",
        "BadOutput: an output's name is 1, not a string",
        "BadOutput: an output's name is no Unicode of at most 1000",
        "BadOutput: output y is of rank 33, more than 32",
    ]


@in_loop
async def test_inputs_are_read_only_and_what_is_printed_breaks_nothing(folder: Path) -> None:
    code = """
        import os, sys
        class Model:
            def __call__(self, batch):
                print("a line for the log")
                os.write(1, b"\\x00\\xffraw\\n")
                batch["x"][0] = 1
    """
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, x=X)
        _, error = await desk.next("failed")
        assert str(error) == "ValueError: assignment destination is read-only"
        assert desk.host is not None
        desk.host.end_predictor(0)
        _, ended = await desk.next("ended")
        assert "a line for the log" in ended.stderr_tail
        assert (ended.status, ended.asked, ended.executing) == (0, True, ())


@in_loop
async def test_inputs_from_earlier_stages_are_stacked_cast_filled_and_shaped(folder: Path) -> None:
    code = """
        class Model:
            def __call__(self, batch):
                assert batch["pixels"].base is not None
                return {name: value for name, value in batch.items()}
    """
    stage = python_stage(
        folder,
        code,
        stage_input("pair", "a.u", "b.v", stacked=True, dtype="float64"),
        stage_input("one", "a.u", stacked=True),
        stage_input("pixels", "a.bytes", cast=Cast(dtype="uint8", shape=(2, 1))),
        stage_input("filled", "a.n", cast=Cast(fill=7)),
    )
    u, v = np.array([1, 2], np.float32), np.array([3, 4], np.int32)
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        holes = desk.put(np.array([1, 0], np.int64))
        valid = desk.put(np.array([True, False]))
        holes = Column(TENSOR, 2, holes.offset, 16, holes.dtype, (2,), validity_offset=valid.offset)
        data = desk.put_texts([b"\x01\x02", b"\x03\x04"])
        outputs = await desk.predict(0, 1, pair=[desk.put(u), desk.put(v)], one=u, pixels=data, filled=holes)
        assert {name: found.tolist() for name, found in outputs.items()} == {
            "pair": [[1, 3], [2, 4]],
            "one": [[1], [2]],
            "pixels": [[[1], [2]], [[3], [4]]],
            "filled": [1, 7],
        }
        assert outputs["pair"].dtype == np.float64
        short = desk.put_texts([b"\x01\x02", b"\x03"])
        desk.send(0, 2, pair=[desk.put(u), desk.put(v)], one=u, pixels=short, filled=v)
        _, error = await desk.next("failed")
        assert error.message == "input pixels: 1 bytes at row 1 of the batch, 2 expected"


@in_loop
async def test_a_cast_that_could_change_values_is_refused_by_name(folder: Path) -> None:
    stage = python_stage(folder, DOUBLE, stage_input("x", "a.x", dtype="float32"))
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, x=X.astype(np.float64))
        _, error = await desk.next("failed")
        told = "input x: the model takes float32, it is float64; say cast: {x: {dtype: float32}} if values may change"
        assert error.message == told


@in_loop
async def test_a_cast_that_the_job_asks_for_fails_only_on_values_beyond_the_target(folder: Path) -> None:
    stage = python_stage(folder, DOUBLE, stage_input("x", "a.x", cast=Cast(dtype="int8")))
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        assert (await desk.predict(0, 1, x=np.array([1.9, -1.9])))["y"].tolist() == [2, -2]
        for number, (values, told) in enumerate(
            [
                (np.array([0.0, np.nan]), "nan at row 1 of the batch is beyond int8"),
                (np.array([300.0, 0.0]), "300.0 at row 0 of the batch is beyond int8"),
                (np.array([0, 1, -129]), "-129 at row 2 of the batch is beyond int8"),
                (np.array([255], np.uint8), "255 at row 0 of the batch is beyond int8"),
            ],
            start=2,
        ):
            desk.send(0, number, x=values)
            _, error = await desk.next("failed")
            assert error.message == f"input x: {told}"


@in_loop
async def test_a_stage_that_takes_arrow_gets_one_record_batch(folder: Path) -> None:
    code = """
        import pyarrow as pa
        class Model:
            def __call__(self, batch):
                assert batch.schema.names == ["text", "vector", "label"], batch.schema
                batch.validate(full=True)
                rows = batch.to_pylist()
                return {
                    "out": [f"{r['text']} {r['vector']} {r['label']}" for r in rows],
                    "text": batch["text"],
                    "sums": pa.array([sum(rows[0]["vector"]), None]),
                }
    """
    inputs = [stage_input("text"), stage_input("vector", "a.vector"), stage_input("label", "a.label")]
    async with serving(python_stage(folder, code, *inputs, as_arrow=True), folder) as desk:
        await desk.next("ready")
        sink = pa.BufferOutputStream()
        table = pa.record_batch({"text": ["skipped", "p", None]})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_batch(table)
        data = np.frombuffer(sink.getvalue(), np.uint8)
        source = Column(IPC, 2, desk.put(data).offset, len(data), row_begin=1)
        vector, label = np.array([[1, 2], [3, 4]], np.int16), desk.put_texts(["k", None])
        desk.send(0, 1, **{ARROW_INPUT: source}, vector=vector, label=label)
        _, columns, _ = await desk.next("done")
        assert {name: desk.get(column) for name, column in columns.items()} == {
            "out": ["p [1, 2] k", "None [3, 4] None"],
            "text": ["p", None],
            "sums": [3, None],
        }


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


STUCK = """
    import os, pathlib
    import numpy as np
    class Model:
        def __call__(self, batch):
            pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
            a = 3 ** (10 ** 9)  # in C, for hours: no signal handler of Python runs
            return {"y": batch["x"]}
"""


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


def still_running(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those not gone after `timeout_s`; one that init has yet to reap holds nothing any more."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


SIDECAR = """
import asyncio, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_predictors import STUCK, X, python_stage, serving

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


def probe(stage: StageProgram, launcher: str = LAUNCHER) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, launcher, "probe", json.dumps(asdict(stage))], capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


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
    error = probe(python_stage(tmp_path, LOADS["constructor"][0]))["error"]
    assert (error["class"], error["message"], error["where"]) == ("OSError", "no weights", "load")
    assert "in go" in error["traceback"]
    assert "loaders" not in error["traceback"]


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
async def test_the_host_forks_from_one_thread_also_with_onnx_runtime_imported(folder: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    stage = onnx_stage(folder, nodes, [value("x", ["n", 3])], [value("y", ["n", 3])])
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        assert desk.host is not None
        host = psutil.Process(desk.host.pid)
        assert [each.num_threads() for each in (host, *host.children())] == [1, 1]


def test_copied_into_an_image_under_one_private_folder_it_runs(tmp_path: Path) -> None:
    package = Path(LAUNCHER).parent
    shutil.copytree(package, tmp_path / "runtime" / "predictor")
    shutil.copytree(Path(frames.__file__).parent, tmp_path / "runtime" / "local")
    launcher = str(tmp_path / "runtime" / "predictor" / "launcher.py")
    assert probe(python_stage(tmp_path, DOUBLE), launcher) == {"inputs": {}, "outputs": None}
