"""Daft, as its guide says: read_parquet, a class UDF with two instances, write_parquet."""

import os

import daft
import numpy as np
from daft import DataType
from task import FEATURES, IMAGE_SHAPE, PROCESSES, onnx_session, task_from_argv

BATCH_ROWS = {"w1": 2048, "w2": 8, "w4": 4096}


class Scorer:
    def __init__(self, workload: str, model: str | None) -> None:
        self._workload = workload
        if model is None:
            from device import Device

            device = Device()
            self._run = lambda x: device({"x": x})["score"]
        else:
            session = onnx_session(model)
            self._run = lambda x: session.run(None, {"x": x})[0]

    def score(self, *columns: daft.Series) -> np.ndarray:
        if self._workload == "w2":
            x = np.frombuffer(b"".join(columns[0].to_pylist()), dtype=np.uint8).reshape(-1, *IMAGE_SHAPE)
        else:
            x = np.ascontiguousarray(np.array([column.to_arrow().to_numpy() for column in columns]).T)
        return self._run(x)


def main() -> None:
    task = task_from_argv()
    daft.set_runner_native()
    # In processes: in threads the two instances would wait for each other's GIL. DAFT_PROCESS=0 shows the other way.
    Scorer.score = daft.method.batch(return_dtype=DataType.float32(), batch_size=BATCH_ROWS[task.workload])(
        Scorer.score
    )
    scorer = daft.cls(
        Scorer,
        max_concurrency=1 if task.model is None else PROCESSES,
        use_process=os.environ.get("DAFT_PROCESS", "1") == "1",
    )(task.workload, task.model)
    task.ready()

    rows = daft.read_parquet(task.inputs)
    names = ["image"] if task.workload == "w2" else FEATURES
    scores = scorer.score(*[rows[name] for name in names]).alias("score")
    rows.select("id", scores).write_parquet(task.out, compression="zstd")
    task.done()
    # Daft 0.7.26 crashes now and then while the interpreter ends, long after the last row is written.
    os._exit(0)


if __name__ == "__main__":
    main()
