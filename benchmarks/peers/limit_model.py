"""A limit: the model alone. Inputs are in memory before the clock starts; results go nowhere.

W1 and W2: ONNX Runtime in two processes of one thread each. W4: the device, always with a full batch.
"""

import numpy as np
from task import DEADLINE_S, FEATURES, IMAGE_SHAPE, Task, onnx_session, run_processes, taken, task_from_argv

BATCH_ROWS = {"w1": 2048, "w2": 8, "w4": 4096}
BATCHES = {"w1": 64, "w2": 16, "w4": 1}
"""Different ones in memory, over 16 MB of them where a model computes, so that none is found in a cache."""


def batches(workload: str, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (BATCHES[workload], BATCH_ROWS[workload])
    if workload == "w2":
        return list(rng.integers(0, 256, (*shape, *IMAGE_SHAPE), dtype=np.uint8))
    return list(rng.standard_normal((*shape, len(FEATURES)), dtype=np.float32))


def run_model(task: Task, next_batch, barrier, number: int) -> None:
    """One process: takes numbers of batches until all rows are done."""
    session, inputs = onnx_session(task.model), batches(task.workload, number)
    session.run(None, {"x": inputs[0]})
    barrier.wait(DEADLINE_S)
    while (index := taken(next_batch)) * BATCH_ROWS[task.workload] < task.rows:
        session.run(None, {"x": inputs[index % len(inputs)]})
    barrier.wait(DEADLINE_S)


def run_device(task: Task) -> None:
    from device import Device

    device, (x,) = Device(), batches("w4", 0)
    task.ready()
    for begin in range(0, task.rows, len(x)):
        device({"x": x[: task.rows - begin]})
    task.done()


if __name__ == "__main__":
    given = task_from_argv()
    run_device(given) if given.model is None else run_processes(given, run_model)
