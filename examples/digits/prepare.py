"""Makes what job.yaml needs: a classifier of handwritten digits as ONNX, and digits it has not seen as Parquet.

Trains on the first half of scikit-learn's digits (8 × 8 pixels, 1,797 of them) and keeps the second half for the job:
model/digits.onnx (input `pixels`, float32 ``[rows, 64]``; outputs `label`, int64, and `probabilities`, float32
``[rows, 10]``) and data/digits.parquet (`id`, `pixels`, `digit`). Takes a few seconds and is the same every time.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent


def main() -> None:
    digits = load_digits()
    pixels, labels = digits.data.astype(np.float32), digits.target
    seen = len(labels) // 2

    model = make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=200, random_state=0))
    model.fit(pixels[:seen], labels[:seen])
    onnx_model = to_onnx(
        model, initial_types=[("pixels", FloatTensorType([None, 64]))], options={"zipmap": False}, target_opset=17
    )
    (HERE / "model").mkdir(exist_ok=True)
    (HERE / "model" / "digits.onnx").write_bytes(onnx_model.SerializeToString())

    unseen = pa.table({
        "id": pa.array(range(seen, len(labels)), pa.int64()),
        "pixels": pa.FixedSizeListArray.from_arrays(pa.array(pixels[seen:].ravel()), 64),
        "digit": pa.array(labels[seen:], pa.int64()),
    })  # fmt: skip
    (HERE / "data").mkdir(exist_ok=True)
    pq.write_table(unseen, HERE / "data" / "digits.parquet")
    print(f"trained on {seen} digits; {len(unseen)} more are in {HERE / 'data'}")


if __name__ == "__main__":
    main()
