"""The workloads: their data, models and right answers, made once from a seed and kept under benchmarks/.work.

Every answer is a `score` per `id`, so one check serves all of them. benchmarks/README.md says what each is for.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
WORK = HERE / ".work"
FEATURES = [f"f{i:02d}" for i in range(32)]
IMAGE_SHAPE = (3, 224, 224)
WEIGHTS_MODULUS = 997
"""A row's score counts `id % 997 + 1` times in the checked sum, so that scores which changed places are seen."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload in one size."""

    name: str
    rows: int
    files: int
    row_group: int
    http: bool = False  # the input is served by benchmarks/store.py

    @property
    def folder(self) -> Path:
        return WORK / f"{self.name}-{self.rows}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def model(self) -> Path | None:
        return None if self.name == "w4" else self.folder / "model.onnx"

    @property
    def paths(self) -> list[Path]:
        return sorted(self.data.glob("*.parquet"))


FULL = {
    "w1": Workload("w1", 4_000_000, 16, 125_000),
    "w2": Workload("w2", 4_096, 8, 64),
    "w4": Workload("w4", 500_000, 32, 15_625, http=True),
}
QUICK = {
    "w1": Workload("w1", 400_000, 16, 25_000),
    "w2": Workload("w2", 256, 8, 16),
    "w4": Workload("w4", 100_000, 32, 3_125, http=True),
}
TINY = {
    "w1": Workload("w1", 1_000, 1, 1_000),
    "w2": Workload("w2", 16, 8, 2),
    "w4": Workload("w4", 992, 32, 31, http=True),
}
"""So few rows that a run is all fixed cost."""


def prepare(workload: Workload) -> None:
    """Makes the data, the model and `expected.json`, unless they are there."""
    done = workload.folder / "expected.json"
    if done.exists():
        return
    workload.data.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20260101)
    if workload.model is not None:
        workload.model.write_bytes(_mlp(rng) if workload.name == "w1" else _conv_net(rng))
    score = _scorer(workload)
    total = absolute = 0.0
    for name, table in _tables(workload, rng):
        pq.write_table(
            table, workload.data / name, compression="zstd", row_group_size=workload.row_group, use_dictionary=False
        )
        weighted = weighted_scores(table["id"].to_numpy(), score(table))
        total, absolute = total + float(weighted.sum()), absolute + float(np.abs(weighted).sum())
    done.write_text(json.dumps({"rows": workload.rows, "weighted_sum": total, "absolute_sum": absolute}))


def weighted_scores(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """float64 ``[rows]``: each score as often as its id says."""
    return scores.astype(np.float64) * (ids % WEIGHTS_MODULUS + 1)


def check(workload: Workload, out: Path) -> str:
    """What is wrong with the rows under `out`; "" if every id is there once with its score.

    Readers skip names that begin with an underscore or a dot, as Hive, Spark and pyarrow do.
    """
    files = [path for path in out.rglob("*.parquet") if not re.search(r"(^|/)[_.]", str(path.relative_to(out)))]
    if not files:
        return "no file"
    table = pa.concat_tables([pq.read_table(path, columns=["id", "score"]) for path in files])
    ids = table["id"].to_numpy()
    expected = json.loads((workload.folder / "expected.json").read_text())
    if len(ids) != expected["rows"]:
        return f"{len(ids)} rows, expected {expected['rows']}"
    if not np.array_equal(np.sort(ids), np.arange(len(ids))):
        return "ids are missing or doubled"
    found = float(weighted_scores(ids, table["score"].to_numpy()).sum())
    if abs(found - expected["weighted_sum"]) > 1e-5 * expected["absolute_sum"]:
        return f"weighted sum {found}, expected {expected['weighted_sum']}"
    return ""


def matrix(table: pa.Table) -> np.ndarray:
    """float32 ``[rows, 32]`` of W1's and W4's columns, made in the plain way."""
    return np.stack([table[name].to_numpy() for name in FEATURES], axis=1)


def _tables(workload: Workload, rng: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    rows = workload.rows // workload.files
    for file in range(workload.files):
        ids = pa.array(np.arange(file * rows, (file + 1) * rows))
        if workload.name == "w2":
            pixels = rng.integers(0, 256, rows * int(np.prod(IMAGE_SHAPE)), dtype=np.uint8)
            width = int(np.prod(IMAGE_SHAPE))
            image = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(pixels)])
            columns = {"id": ids, "image": image}
        else:
            columns = {"id": ids} | {name: pa.array(rng.standard_normal(rows, dtype=np.float32)) for name in FEATURES}
        yield f"part-{file:05d}.parquet", pa.table(columns)


def _scorer(workload: Workload) -> Callable[[pa.Table], np.ndarray]:
    if workload.model is None:
        return lambda table: table[FEATURES[0]].to_numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(workload.model), providers=["CPUExecutionProvider"])

    def score(table: pa.Table) -> np.ndarray:
        size = 8 if workload.name == "w2" else 2048
        parts = []
        for begin in range(0, table.num_rows, size):
            part = table.slice(begin, size)
            if workload.name == "w2":
                pixels = np.frombuffer(b"".join(part["image"].to_pylist()), dtype=np.uint8)
                x = pixels.reshape(-1, *IMAGE_SHAPE)
            else:
                x = matrix(part)
            parts.append(session.run(["score"], {"x": x})[0])
        return np.concatenate(parts)

    return score


def _mlp(rng: np.random.Generator) -> bytes:
    """32-128-128-1 with ReLU; `x` float32 ``[rows, 32]`` to `score` float32 ``[rows]``."""
    nodes, weights, previous = [], {}, "x"
    sizes = [32, 128, 128, 1]
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weights[f"w{i}"] = rng.standard_normal((fan_in, fan_out), dtype=np.float32) * np.float32((2 / fan_in) ** 0.5)
        weights[f"b{i}"] = rng.standard_normal(fan_out, dtype=np.float32) * np.float32(0.1)
        nodes.append(("Gemm", [previous, f"w{i}", f"b{i}"], [f"h{i}"], {}))
        previous = f"h{i}"
        if i < 2:
            nodes.append(("Relu", [previous], [f"r{i}"], {}))
            previous = f"r{i}"
    weights["last"] = np.array([1], dtype=np.int64)
    nodes.append(("Squeeze", [previous, "last"], ["score"], {}))
    return _onnx(nodes, weights, "FLOAT", [32])


def _conv_net(rng: np.random.Generator) -> bytes:
    """Eight 3 × 3 convolutions, 150 M multiply-adds (0.3 GFLOP) per row; `x` uint8 ``[rows, 3, 224, 224]``."""
    nodes = [("Cast", ["x"], ["x32"], {"to": 1}), ("Mul", ["x32", "scale"], ["c"], {})]
    weights: dict[str, np.ndarray] = {"scale": np.array(1 / 255, dtype=np.float32)}
    wide = [(64, 128, 2), (128, 128, 1), (128, 128, 1), (128, 256, 2)]
    layers = [(3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 64, 1), *wide]
    previous = "c"
    for i, (fan_in, fan_out, stride) in enumerate(layers):
        kernel = rng.standard_normal((fan_out, fan_in, 3, 3), dtype=np.float32)
        weights[f"w{i}"] = kernel * np.float32((2 / (9 * fan_in)) ** 0.5)
        weights[f"b{i}"] = np.zeros(fan_out, dtype=np.float32)
        shape = {"kernel_shape": [3, 3], "strides": [stride, stride], "pads": [1, 1, 1, 1]}
        nodes.append(("Conv", [previous, f"w{i}", f"b{i}"], [f"c{i}"], shape))
        nodes.append(("Relu", [f"c{i}"], [f"r{i}"], {}))
        previous = f"r{i}"
    weights["head"] = rng.standard_normal((256, 1), dtype=np.float32)
    weights["last"] = np.array([1], dtype=np.int64)
    nodes += [
        ("GlobalAveragePool", [previous], ["pooled"], {}),
        ("Flatten", ["pooled"], ["flat"], {}),
        ("MatMul", ["flat", "head"], ["logit"], {}),
        ("Squeeze", ["logit", "last"], ["score"], {}),
    ]
    return _onnx(nodes, weights, "UINT8", list(IMAGE_SHAPE))


def _onnx(nodes: list, weights: dict[str, np.ndarray], dtype: str, row_shape: list[int]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node(kind, inputs, outputs, **attributes) for kind, inputs, outputs, attributes in nodes],
        "benchmark",
        [helper.make_tensor_value_info("x", getattr(TensorProto, dtype), ["rows", *row_shape])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
