"""Arrow types as text: what `str(type)` writes, and the short names that users write in `csv.types`.

Also the types that an output's files have: of tensors, and as readers find them in a file of each format.
"""

import base64
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.program import Program
from headrace.words import SOURCE

OutputTypes = Mapping[str, Mapping[str, tuple[str | None, Sequence[int | None] | None]]]
"""By stage and output, (dtype, shape with the dimension of the rows), where known."""

_SHORT: Mapping[str, Callable[[], Any]] = {
    "str": pa.string,
    "text": pa.string,
    "int": pa.int64,
    "boolean": pa.bool_,
    "date": pa.date32,
    "bytes": pa.binary,
    "timestamp": lambda: pa.timestamp("us"),
    "datetime": lambda: pa.timestamp("us"),
}
_DECIMAL = re.compile(r"decimal(?:128)?\((\d+), ?(-?\d+)\)")
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns), ?tz=([^\]]+)\]")


def type_from_text(text: str) -> pa.DataType:
    """The Arrow type that `text` names, e.g. ``int32``, ``double``, ``timestamp[us, tz=UTC]``, ``decimal128(10, 2)``.

    As in Arrow, ``float`` is 32 bits wide and ``double`` 64.

    Raises:
        ValueError: it names none that text can be read as.
    """
    name = text.strip()
    if name in _SHORT:
        return _SHORT[name]()
    if match := _DECIMAL.fullmatch(name):
        return pa.decimal128(int(match[1]), int(match[2]))
    if match := _TIMESTAMP.fullmatch(name):
        return pa.timestamp(match[1], tz=match[2])
    try:
        return pa.type_for_alias(name)
    except ValueError as error:
        raise ValueError(f"no Arrow type is named {text!r}") from error


def tensor_type(dtype: str | None, shape: Sequence[int | None] | None) -> pa.DataType:
    """The type of an output's column of this dtype (numpy's name, "utf8" or "binary") and shape, rows first.

    Rank 1 is the plain type, higher ranks are nested fixed-size lists, plain lists along axes that are free (None) or
    of length 0. The null type where dtype or shape aren't known; () is no shape of rows, but what ONNX Runtime says
    where a model leaves the shape open.
    """
    if dtype is None:
        return pa.null()
    if dtype in ("utf8", "binary"):
        return pa.string() if dtype == "utf8" else pa.binary()
    if not shape:
        return pa.null()
    kind = pa.date32() if dtype == "datetime64[D]" else pa.from_numpy_dtype(np.dtype(dtype))
    for size in reversed(tuple(shape[1:])):
        kind = pa.list_(kind, size) if size else pa.list_(kind)
    return kind


def sink_schema(program: Program, outputs: OutputTypes) -> pa.Schema:
    """The sink's columns as they are written; the null type where a stage's output isn't known."""
    source = schema_from_text(program.source.schema)
    fields = []
    for column in program.sink.columns:
        if column.ref.producer == SOURCE:
            kind = source.field(column.ref.column).type
        else:
            kind = tensor_type(*outputs.get(column.ref.producer, {}).get(column.ref.column, (None, None)))
        fields.append((column.name, kind))
    return pa.schema(fields)


def stored_schema(schema: pa.Schema, format_name: str) -> pa.Schema:
    """The schema that a reader finds in a file of this format that was written with `schema`.

    Parquet has no seconds, and Arrow files here no dictionaries; text formats have no types, and keep the rows' own.

    Raises:
        pyarrow.ArrowNotImplementedError: the format doesn't know a type.
    """
    if format_name == "parquet":
        import pyarrow.parquet as pq

        file = io.BytesIO()
        pq.ParquetWriter(file, schema).close()
        return pq.read_schema(file)
    if format_name == "arrow":
        return pa.schema([pa.field(field.name, _decoded(field.type), field.nullable) for field in schema])
    return schema


def schema_text(schema: pa.Schema) -> str:
    """A whole schema as a program carries it: base64 of its Arrow IPC message."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from_text(text: str) -> pa.Schema:
    """The schema of which `schema_text` made `text`."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def columns_text(schema: pa.Schema) -> str:
    """Names and types as one line of JSON, ``[[name, type], ...]``: equal texts are equal columns."""
    pairs = [[field.name, str(field.type)] for field in schema]
    return json.dumps(pairs, separators=(",", ":"))


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
