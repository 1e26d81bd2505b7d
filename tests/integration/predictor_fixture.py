"""Real predictor hosts over a real arena, for tests: a sidecar's driver at its simplest, and stages to run."""

import asyncio
import json
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
from onnx import TensorProto, helper

from headrace.local.arena import Allocator
from headrace.local.columns import BINARY, DTYPES, TENSOR, UTF8, Column
from headrace.local.messages import Specs, StageError
from headrace.program import Ref, StageInput, StageProgram
from sidecar.arena import Arena
from sidecar.predictors import LAUNCHER, Ended, Host

WAIT_S = 20.0
REGION_BYTES = 1 << 16


class Desk:
    """A sidecar's driver for tests: an arena with what was put into it, and what the host told."""

    def __init__(self) -> None:
        self.arena = Arena.create(8 << 20, 0)
        self.allocator = Allocator(self.arena.size)
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
        offset = self.allocator.allocate(nbytes)
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
async def serving(stage: StageProgram, folder: Path, memory_bytes: int | None = None) -> AsyncIterator[Desk]:
    """A host for the stage, and a predictor 0 that is being loaded."""
    desk = Desk()
    surprises: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))
    env = {"HEADRACE_JOB": "nightly", "HEADRACE_WORKER": "w0"}
    desk.host = await Host.start(stage, desk.arena, folder, desk, env, memory_bytes=memory_bytes)
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


STUCK = """
    import os, pathlib
    import numpy as np
    class Model:
        def __call__(self, batch):
            pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
            a = 3 ** (10 ** 9)  # in C, for hours: no signal handler of Python runs
            return {"y": batch["x"]}
"""


def still_running(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those not gone after `timeout_s`; one that init has yet to reap holds nothing any more."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


def probe(stage: StageProgram, launcher: str = LAUNCHER) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, launcher, "probe", json.dumps(asdict(stage))], capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
