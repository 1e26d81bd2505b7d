"""Output rows of one flow batch: the sink's columns, picked from the source's rows and the stages' results."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.arrow_types import OutputTypes, sink_schema
from headrace.errors import BadJob, Fault
from headrace.program import Program, SinkProgram
from headrace.words import SOURCE
from sidecar.converter.buffers import arrow_mask
from sidecar.picking import rows_where


def assemble(
    sink: SinkProgram,
    source_rows: pa.RecordBatch,
    stage_columns: Mapping[tuple[str, str], pa.Array],
    keep: npt.NDArray[np.bool_] | None,
) -> pa.RecordBatch:
    """Builds the rows to write, in input order.

    Args:
        sink: names the columns and their order.
        source_rows: the batch's rows as they were read.
        stage_columns: by (stage, column), as many values as there are source rows.
        keep: mask over the rows; None keeps all.

    Raises:
        BadJob: a stage gives no such column.
    """
    arrays, faults = [], []
    for column in sink.columns:
        if column.ref.producer == SOURCE:
            arrays.append(source_rows.column(column.ref.column))
            continue
        array = stage_columns.get((column.ref.producer, column.ref.column))
        if array is None:
            faults.append(_missing(column.name, column.ref.producer, column.ref.column, list(stage_columns)))
            continue
        assert len(array) == source_rows.num_rows, "a stage's columns have the batch's rows"
        arrays.append(array)
    if faults:
        raise BadJob(faults)
    rows = pa.RecordBatch.from_arrays(arrays, [column.name for column in sink.columns])
    return rows if keep is None else rows_where(rows, arrow_mask(keep))


def empty_rows(program: Program, specs: OutputTypes) -> pa.RecordBatch:
    """No rows, with the columns and types that rows would have, for the file of an empty dataset."""
    schema = sink_schema(program, specs)
    return pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in schema.types], schema=schema)


def _missing(name: str, stage: str, column: str, there: Sequence[tuple[str, str]]) -> Fault:
    given = sorted(found for producer, found in there if producer == stage)
    found = f"stage {stage!r} gives no column {column!r}"
    return Fault(f"spec.sink.columns.{name}", found, f"it gives {', '.join(given)}" if given else "")
