"""Writing one staged file, and reading it back with plain pyarrow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from headrace.program import SinkProgram
from headrace.publish import staged_name
from headrace.stores.local import LocalStore
from sidecar.writer import ShardWriter, Staged

STEM = "part-00000007-abcdef01-2-0123abcd"
FORMATS = ["parquet", "arrow", "csv", "jsonl"]


def sink_of(format_name: Any, compression: str = "none") -> SinkProgram:
    return SinkProgram(format=format_name, uri="/unused", columns=(), compression=compression)


class Folder(LocalStore):
    """Files staged in `folder`, found again by what was staged."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "", folder)


@dataclass(frozen=True)
class Written:
    """A staged file and where it lies."""

    staged: Staged
    path: Path

    @property
    def name(self) -> str:
        return self.staged.name


def write(folder: Path, format_name: str, *batches: pa.RecordBatch, compression: str = "none") -> Written:
    writer = ShardWriter(sink_of(format_name, compression), Folder(folder), STEM)
    for batch in batches:
        writer.write(batch)
    (staged,) = writer.close()
    return Written(staged, folder / staged_name(staged.name))


def read(staged: Written) -> pa.Table:
    """By plain pyarrow."""
    match staged.name.split(".", 1)[1].split(".")[0]:
        case "parquet":
            return pq.read_table(staged.path)
        case "arrow":
            with pa.ipc.open_file(staged.path) as reader:
                return reader.read_all()
        case "csv":
            with pa.input_stream(staged.path, compression=compression_of(staged)) as stream:
                return pyarrow.csv.read_csv(stream)
        case _:
            with pa.input_stream(staged.path, compression=compression_of(staged)) as stream:
                return pyarrow.json.read_json(stream)


def compression_of(staged: Written) -> str | None:
    return {"gz": "gzip", "zst": "zstd"}.get(staged.name.rsplit(".", 1)[1])


def rows_of(begin: int, end: int) -> pa.RecordBatch:
    numbers = np.arange(begin, end)
    texts = [f"row {number}" for number in numbers]
    return pa.record_batch([pa.array(numbers), pa.array(numbers / 8), pa.array(texts)], ["id", "score", "text"])


COMPRESSIONS = [
    *(("parquet", codec, ".parquet") for codec in ("none", "zstd", "snappy", "gzip", "lz4")),
    *(("arrow", codec, ".arrow") for codec in ("none", "zstd", "lz4")),
    *(("csv", codec, ".csv" + end) for codec, end in (("none", ""), ("gzip", ".gz"), ("zstd", ".zst"))),
    *(("jsonl", codec, ".jsonl" + end) for codec, end in (("none", ""), ("gzip", ".gz"), ("zstd", ".zst"))),
]

ODD = {
    "union": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    "interval": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([1])),
    "view": pa.array(["a", None], pa.string_view()),
    "list_view": pa.array([[1], None], pa.list_view(pa.int8())),
}
