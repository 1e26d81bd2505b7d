"""Output rows from the source's columns and the stages' results."""

import base64
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.errors import BadJob
from headrace.program import Program, Ref, SinkColumn, SinkProgram, SourceProgram
from sidecar.assemble import assemble, empty_rows

SINK = SinkProgram(
    format="parquet",
    uri="/out",
    columns=(
        SinkColumn("score", Ref("model", "y")),
        SinkColumn("key", Ref("source", "id")),
        SinkColumn("again", Ref("model", "y")),
    ),
)
SOURCE_ROWS = pa.record_batch([pa.array([7, 8, 9]), pa.array(["a", "b", "c"])], ["id", "text"])


def test_columns_are_the_sink_s_in_its_order_and_under_its_names() -> None:
    scores = pa.array([0.5, 1.5, 2.5])
    rows = assemble(SINK, SOURCE_ROWS, {("model", "y"): scores, ("model", "unused"): scores}, None)
    assert rows.equals(pa.record_batch([scores, pa.array([7, 8, 9]), scores], ["score", "key", "again"]))


def test_only_rows_that_are_kept_come_out() -> None:
    rows = assemble(SINK, SOURCE_ROWS, {("model", "y"): pa.array([0, 1, 2])}, np.array([True, False, True]))
    assert rows.to_pydict() == {"score": [0, 2], "key": [7, 9], "again": [0, 2]}


def test_a_column_that_a_stage_does_not_give_is_a_bad_job() -> None:
    with pytest.raises(BadJob) as caught:
        assemble(SINK, SOURCE_ROWS, {("model", "z"): pa.array([0, 1, 2])}, None)
    assert str(caught.value).splitlines()[0] == (
        "spec.sink.columns.score: stage 'model' gives no column 'y'; it gives z"
    )


def test_an_empty_dataset_has_the_columns_that_rows_would_have() -> None:
    schema = pa.schema([("id", pa.int16())])
    names = {
        "key": ("source", "id"),
        "a": ("m", "a"),
        "b": ("m", "b"),
        "c": ("m", "c"),
        "d": ("m", "d"),
        "e": ("p", "e"),
    }
    program = Program(
        job_name="job",
        job_uid="uid",
        source=SourceProgram("parquet", ("id",), base64.b64encode(schema.serialize()).decode()),
        stages=(),
        sink=SinkProgram("parquet", "/out", tuple(SinkColumn(name, Ref(*ref)) for name, ref in names.items())),
    )
    specs = {
        "m": {
            "a": ("float32", (None,)),
            "b": ("int64", (None, 2, 3)),
            "c": ("datetime64[D]", (None, None)),
            "d": ("utf8", (None,)),
        }
    }
    rows = empty_rows(program, specs)
    assert rows.num_rows == 0
    assert rows.schema.equals(
        pa.schema(
            [
                ("key", pa.int16()),
                ("a", pa.float32()),
                ("b", pa.list_(pa.list_(pa.int64(), 3), 2)),
                ("c", pa.list_(pa.date32())),
                ("d", pa.string()),
                ("e", pa.null()),
            ]
        )
    )


START = """
import sys
import numpy as np
import pyarrow as pa
from headrace.local.columns import TENSOR, Column
from headrace.program import Ref, SinkColumn, SinkProgram
from sidecar.assemble import assemble
from sidecar.converter import Converter, SourceTensor, column_to_arrow
from headrace.stores import open_store
from sidecar.writer import ShardWriter

numbers = pa.Array.from_buffers(pa.float32(), 4, [None, pa.py_buffer(np.arange(4, dtype=np.float32))])
rows = pa.RecordBatch.from_arrays([numbers, numbers], ["a", "b"])
arena = memoryview(bytearray(4096))
Converter(rows.schema, [SourceTensor("x", ("a", "b"), stacked=True)]).read(rows).write(0, 4, arena, 0)
result = column_to_arrow(Column(TENSOR, 4, 0, 32, 10, (4, 2)), arena)
for format_name in ("parquet", "arrow", "jsonl"):
    columns = (SinkColumn("a", Ref("source", "a")), SinkColumn("y", Ref("m", "y")))
    sink = SinkProgram(format_name, "/", columns, "none")
    writer = ShardWriter(sink, open_store(sys.argv[1], staging=sys.argv[1]), "part")
    writer.write(assemble(sink, rows, {("m", "y"): result}, np.ones(4, bool)))
    writer.close()
print(sorted({"pandas", "pyarrow.dataset", "pyarrow.csv", "botocore"} & set(sys.modules)))
"""


def test_the_usual_job_imports_nothing_heavy(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", START, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
