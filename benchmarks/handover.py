"""What handing a batch over costs beside the model: sidecar → predictor → sidecar, and copies into the arena.

Run: ``python benchmarks/handover.py [--batches N] [--rounds R]``. Stages: an identity in Python, and a tiny ONNX model
(x + 1), over 1,024 rows of 32 float32. One batch at a time (the latency of the whole way, less the stage's own time as
the predictor measures it), then with both credits used (the time between results, less the same).
Targets (README.md): hand-over p50 ≤ 60 µs; copies into the warm arena ≥ 0.9 of memcpy.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from headrace.local.arena import Allocator
from headrace.local.columns import DTYPES, TENSOR, Column
from headrace.local.messages import Specs, StageError
from headrace.program import Ref, StageInput, StageProgram
from sidecar.arena import Arena
from sidecar.predictors import CREDITS, Ended, Host

ROWS, WIDTH = 1024, 32
NBYTES = ROWS * WIDTH * 4
IDENTITY = "class Identity:\n    def __call__(self, batch):\n        return {'y': batch['x']}\n"


class Round:
    """Sends batches one after another, `ahead` at a time, and notes the hand-over of each."""

    def __init__(self, arena: Arena) -> None:
        self.ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.host: Host | None = None
        self.spent_s: list[float] = []
        self._left = 0
        self._sent: dict[int, float] = {}
        self._ahead = 1
        self._last = 0.0
        allocator = Allocator(arena.size)
        self._inputs = [allocator.allocate(NBYTES) for _ in range(CREDITS)]
        self._outputs = [allocator.allocate(NBYTES + 4096) for _ in range(CREDITS)]

    def begin(self, batches: int, ahead: int) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.spent_s = []
        self._left, self._ahead = batches, ahead
        for _ in range(ahead):
            self._send()

    def _send(self) -> None:
        assert self.host is not None
        batch = self._left
        self._left -= 1
        slot = batch % CREDITS
        offset, out = self._inputs[slot], self._outputs[slot]
        assert offset is not None
        assert out is not None
        self._sent[batch] = time.perf_counter()
        column = Column(TENSOR, ROWS, offset, NBYTES, DTYPES.index("float32"), (ROWS, WIDTH))
        self.host.send_batch(0, batch, ROWS, {"x": (column,)}, out, NBYTES + 4096)

    def predictor_ready(self, predictor: int, specs: Specs) -> None:
        self.ready.set_result(predictor)

    def batch_done(self, predictor: int, batch: int, columns: dict[str, Column], busy_s: float) -> None:
        now = time.perf_counter()
        begin = self._sent.pop(batch)
        if self._ahead > 1:
            begin = max(begin, self._last)
        self._last = now
        self.spent_s.append(now - begin - busy_s)
        if self._left:
            self._send()
        elif not self._sent:
            self.done.set_result(None)

    def batch_failed(self, predictor: int, batch: int, error: StageError) -> None:
        sys.exit(f"batch {batch}: {error}\n{error.traceback}")

    def space_needed(self, predictor: int, batch: int, nbytes: int) -> None:
        sys.exit(f"batch {batch} asks for {nbytes} bytes")

    def predictor_ended(self, predictor: int, ended: Ended) -> None:
        sys.exit(f"predictor ended: {ended}")

    def host_ended(self, reason: str) -> None:
        sys.exit(f"host ended: {reason}")


def stages(folder: Path) -> list[StageProgram]:
    (folder / "identity.py").write_text(IDENTITY)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", WIDTH])
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "tiny", [x], [y], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "tiny.onnx")
    inputs = (StageInput("x", (Ref("source", "x"),), dtype="float32"),)
    return [
        StageProgram("python", "python", "identity:Identity", inputs, search_path=(str(folder),)),
        StageProgram("onnx", "onnx", str(folder / "tiny.onnx"), inputs),
    ]


async def measure(stage: StageProgram, folder: Path, batches: int, rounds: int) -> None:
    arena = Arena.create(64 << 20, 64 << 20)
    events = Round(arena)
    events.host = await Host.start(stage, arena, folder, events, {})
    events.host.add_predictor()
    await events.ready
    for ahead in (1, CREDITS):
        for number in range(rounds):
            events.begin(batches, ahead)
            await events.done
            spent = np.array(events.spent_s[batches // 10 :]) * 1e6
            p50, p99 = np.percentile(spent, [50, 99])
            print(f"{stage.kind:7} {ahead} ahead  round {number}: p50 {p50:6.1f} µs  p99 {p99:7.1f} µs")
    await events.host.close()
    arena.close()


def copies() -> None:
    """Writes into the warm arena against the same into the process's own warm memory."""
    arena = Arena.create(64 << 20, 64 << 20)
    nbytes = 8 << 20
    data = np.random.default_rng(1).integers(0, 255, nbytes, np.uint8)
    shared = np.frombuffer(arena.view, np.uint8)[:nbytes]
    own = np.zeros(nbytes, np.uint8)
    ratios = []
    for _ in range(15):
        spent = []
        for target in (own, shared):
            begin = time.perf_counter()
            for _ in range(10):
                target[:] = data
            spent.append(time.perf_counter() - begin)
        ratios.append(spent[0] / spent[1])
        rate = 10 * nbytes / spent[1] / 1e9
    low, middle, high = np.percentile(ratios, [0, 50, 100])
    print(f"copies into the arena: {middle:.2f} of memcpy (min {low:.2f}, max {high:.2f}), last {rate:.1f} GB/s")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for stage in stages(Path(folder)):
            await measure(stage, Path(folder), options.batches, options.rounds)
    copies()


if __name__ == "__main__":
    asyncio.run(main())
