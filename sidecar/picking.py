"""Some rows of a record batch, whatever its types."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def rows_at(rows: pa.RecordBatch, numbers: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """The rows of the given numbers, int64 ``[k]``, rising."""
    try:
        return rows.take(pa.array(numbers))
    except pa.ArrowNotImplementedError:
        return _joined(rows, numbers)


def rows_where(rows: pa.RecordBatch, mask: pa.BooleanArray) -> pa.RecordBatch:
    """The rows at which `mask`, without nulls, is true."""
    try:
        return rows.filter(mask)
    except pa.ArrowNotImplementedError:
        return _joined(rows, np.flatnonzero(mask.to_numpy(zero_copy_only=False)))


def _joined(rows: pa.RecordBatch, numbers: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """String and binary views can be neither taken nor filtered, but joined."""
    ends = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = [rows.slice(int(run[0]), len(run)) for run in np.split(numbers, ends) if len(run)]
    return pa.concat_batches(runs) if runs else rows.slice(0, 0)
