"""Ray Data, as its guide to offline batch inference says: read_parquet, map_batches over two actors, write_parquet."""

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from task import FEATURES, IMAGE_SHAPE, PROCESSES, http_filesystem, onnx_session, task_from_argv

BATCH_ROWS = {"w1": 16_384, "w2": 32, "w4": 4096}
MODEL_ROWS = {"w1": 2048, "w2": 8, "w4": 4096}
"""Rows of one call of the model: batches of the engine are larger, because each costs Ray a task."""


class Score:
    def __init__(self, model: str | None, rows: int) -> None:
        self._rows = rows
        if model is None:
            from device import Device

            device = Device()
            self._run = lambda x: device({"x": x})["score"]
        else:
            session = onnx_session(model)
            self._run = lambda x: session.run(None, {"x": x})[0]

    def __call__(self, batch: pa.Table) -> pa.Table:
        parts = []
        for begin in range(0, batch.num_rows, self._rows):
            part = batch.slice(begin, self._rows)
            if "image" in part.column_names:
                x = np.frombuffer(b"".join(part["image"].to_pylist()), dtype=np.uint8).reshape(-1, *IMAGE_SHAPE)
            else:
                x = np.ascontiguousarray(np.array([part[name].to_numpy() for name in FEATURES]).T)
            parts.append(self._run(x))
        return pa.table({"id": batch["id"], "score": np.concatenate(parts)})


def main() -> None:
    task = task_from_argv()
    # Actors and the tasks that read and write share the cores; with whole cores for two actors no task could run.
    ray.init(num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    DataContext.get_current().enable_progress_bars = False
    task.ready()
    options = {"filesystem": http_filesystem()} if task.inputs[0].startswith("http") else {}
    rows = (
        ray.data.read_parquet(task.inputs, **options)
        .select_columns(task.columns)
        .map_batches(
            Score,
            fn_constructor_args=(task.model, MODEL_ROWS[task.workload]),
            batch_size=BATCH_ROWS[task.workload],
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=0.5,
            compute=ActorPoolStrategy(size=1 if task.model is None else PROCESSES),
        )
    )
    rows.write_parquet(task.out, compression="zstd")
    task.done()


if __name__ == "__main__":
    main()
