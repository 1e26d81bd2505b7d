"""The loop that one writes first: file by file, a batch at a time, one process, every library at its defaults."""

import io
import os
import urllib.request

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from task import FEATURES, IMAGE_SHAPE, task_from_argv

BATCH_ROWS = {"w1": 8192, "w2": 32, "w4": 4096}


def main() -> None:
    task = task_from_argv()
    if task.model is None:
        from device import Device

        device = Device()
    else:
        session = onnxruntime.InferenceSession(task.model, providers=["CPUExecutionProvider"])
    task.ready()

    for number, path in enumerate(task.inputs):
        source = io.BytesIO(urllib.request.urlopen(path).read()) if path.startswith("http") else path
        ids, scores = [], []
        for batch in pq.ParquetFile(source).iter_batches(batch_size=BATCH_ROWS[task.workload]):
            if task.workload == "w2":
                x = np.frombuffer(b"".join(batch["image"].to_pylist()), dtype=np.uint8).reshape(-1, *IMAGE_SHAPE)
            else:
                x = np.column_stack([batch[name].to_numpy() for name in FEATURES])
            scores.append(device({"x": x})["score"] if task.model is None else session.run(None, {"x": x})[0])
            ids.append(batch["id"].to_numpy())
        table = pa.table({"id": np.concatenate(ids), "score": np.concatenate(scores)})
        pq.write_table(table, os.path.join(task.out, f"part-{number:05d}.parquet"), compression="zstd")
    task.done()


if __name__ == "__main__":
    main()
