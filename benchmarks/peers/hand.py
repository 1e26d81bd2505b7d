"""The best script one can write by hand for these machines and data: what Headrace is measured against.

W1 and W2: two processes that take row groups from a common counter; each has one ONNX Runtime session of one thread,
columns become a matrix by blocked transposition, outputs are encoded for what they are. W4: files are fetched eight
at a time and decoded ahead, so that the device always has its next full batch; writing is a thread of its own.
"""

import io
import os
import queue
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from task import DEADLINE_S, FEATURES, IMAGE_SHAPE, Task, onnx_session, run_processes, taken, task_from_argv

BATCH_ROWS = {"w1": 2048, "w2": 8, "w4": 4096}
BLOCK_ROWS = 2048  # of a transposition: 32 columns of them stay in the L2 cache
FETCHES = 8

SCHEMA = pa.schema({"id": pa.int64(), "score": pa.float32()})


def writer(path: str) -> pq.ParquetWriter:
    """Ids rise by small steps and scores have no repeats, so a dictionary would only cost time."""
    return pq.ParquetWriter(
        path, SCHEMA, compression="zstd", compression_level=1, use_dictionary=False, write_statistics=False,
        column_encoding={"id": "DELTA_BINARY_PACKED", "score": "BYTE_STREAM_SPLIT"},
    )  # fmt: skip


def fill_matrix(x: np.ndarray, columns: list[np.ndarray]) -> None:
    """Columns, each ``[rows]``, into the row-major `x`, ``[rows, len(columns)]``."""
    for begin in range(0, len(x), BLOCK_ROWS):
        end = begin + BLOCK_ROWS
        x[begin:end] = np.array([column[begin:end] for column in columns]).T


def images(column: pa.ChunkedArray) -> np.ndarray:
    """uint8 ``[rows, 3, 224, 224]`` over the column's own memory."""
    chunk = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    width = int(np.prod(IMAGE_SHAPE))
    flat = np.frombuffer(chunk.buffers()[1], dtype=np.uint8, count=len(chunk) * width, offset=chunk.offset * width)
    return flat.reshape(-1, *IMAGE_SHAPE)


def score_groups(task: Task, groups: list[tuple[str, int]], next_group, barrier, number: int) -> None:
    """One process: scores row groups until none is left. It meets the others before the first and after the last."""
    session = onnx_session(task.model)
    rows = BATCH_ROWS[task.workload]
    x = np.empty((rows, len(FEATURES)), dtype=np.float32)
    barrier.wait(DEADLINE_S)
    with writer(os.path.join(task.out, f"part-{number:05d}.parquet")) as out:
        while (index := taken(next_group)) < len(groups):
            path, group = groups[index]
            table = pq.ParquetFile(path).read_row_group(group, columns=task.columns, use_threads=False)
            scores = np.empty(table.num_rows, dtype=np.float32)
            if task.workload == "w2":
                pixels = images(table["image"])
                for begin in range(0, len(pixels), rows):
                    scores[begin : begin + rows] = session.run(None, {"x": pixels[begin : begin + rows]})[0]
            else:
                columns = [table[name].to_numpy() for name in FEATURES]
                for begin in range(0, table.num_rows, rows):
                    end = min(begin + rows, table.num_rows)
                    block = x[: end - begin]
                    fill_matrix(block, [column[begin:end] for column in columns])
                    scores[begin:end] = session.run(None, {"x": block})[0]
            out.write_table(pa.Table.from_arrays([table["id"], pa.array(scores)], schema=SCHEMA))
    barrier.wait(DEADLINE_S)


def run_compute(task: Task) -> None:
    groups = [(path, group) for path in task.inputs for group in range(pq.read_metadata(path).num_row_groups)]
    run_processes(task, score_groups, groups)


def fetch_matrix(url: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and the matrix of one file."""
    with urllib.request.urlopen(url) as answer:
        table = pq.ParquetFile(io.BytesIO(answer.read())).read(use_threads=False)
    x = np.empty((table.num_rows, len(FEATURES)), dtype=np.float32)
    fill_matrix(x, [table[name].to_numpy() for name in FEATURES])
    return table["id"].to_numpy(), x


def write_parts(task: Task, parts: queue.SimpleQueue) -> None:
    with writer(os.path.join(task.out, "part-00000.parquet")) as out:
        while (part := parts.get()) is not None:
            out.write_table(pa.table(part, schema=SCHEMA))


def run_device(task: Task) -> None:
    """Batches go over the ends of files: a call of the device costs as much as 250 rows."""
    from device import Device

    device, rows = Device(), BATCH_ROWS["w4"]
    parts: queue.SimpleQueue = queue.SimpleQueue()
    writing = threading.Thread(target=write_parts, args=(task, parts), daemon=True)
    task.ready()
    writing.start()
    ids, x = np.empty(0, dtype=np.int64), np.empty((0, len(FEATURES)), dtype=np.float32)

    def score(count: int) -> None:
        nonlocal ids, x
        parts.put({"id": ids[:count], "score": device({"x": x[:count]})["score"]})
        ids, x = ids[count:], x[count:]

    with ThreadPoolExecutor(FETCHES) as pool:
        ahead: queue.SimpleQueue = queue.SimpleQueue()
        for url in task.inputs[:FETCHES]:
            ahead.put(pool.submit(fetch_matrix, url))
        for number in range(len(task.inputs)):
            more_ids, more_x = ahead.get().result()
            if number + FETCHES < len(task.inputs):
                ahead.put(pool.submit(fetch_matrix, task.inputs[number + FETCHES]))
            ids, x = np.concatenate([ids, more_ids]), np.concatenate([x, more_x])
            while len(ids) >= rows:
                score(rows)
        if len(ids):
            score(len(ids))
    parts.put(None)
    writing.join()
    task.done()


if __name__ == "__main__":
    given = task_from_argv()
    run_device(given) if given.model is None else run_compute(given)
