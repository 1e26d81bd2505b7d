"""Rejected rows as one file for other tools: Parquet, CSV or JSON lines, told by the file's name.

CSV and JSON have no bytes and CSV has no lists: bytes become base64, lists and structs in CSV become JSON.
"""

import base64
import csv
import json
import secrets
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError
from headrace.rejects import ADDRESS, NAMES

SUFFIXES = (".parquet", ".csv", ".jsonl")


def export(batches: Callable[[], Iterable[Any]], path: Path) -> int:
    """Writes all rows to `path`, which must not exist, and gives their number. `batches` is called twice.

    Raises:
        HeadraceError: the file exists or can't be written.
    """
    import pyarrow as pa

    schemas = dict.fromkeys(batch.schema.remove_metadata() for batch in batches())
    described = pa.schema([(name, pa.int64() if name == ADDRESS else pa.string()) for name in NAMES])
    schema = pa.unify_schemas([described, *schemas], promote_options="permissive")
    whole = (_conformed(batch, schema) for batch in batches())
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    write = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_json}[path.suffix]
    try:
        if path.exists():
            raise FileExistsError(f"{path} exists.")
        try:
            rows = write(temporary, schema, whole)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise HeadraceError(f"The rejects can't be written to {path}: {error.strerror or error}") from error
    return rows


def _conformed(batch: Any, schema: Any) -> Any:
    import pyarrow as pa

    columns = []
    for field in schema:
        at = batch.schema.get_field_index(field.name)
        columns.append(pa.nulls(batch.num_rows, field.type) if at < 0 else batch.column(at).cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _write_parquet(path: Path, schema: Any, batches: Iterable[Any]) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _write_csv(path: Path, schema: Any, batches: Iterable[Any]) -> int:
    rows = 0
    with open(path, "x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(schema.names)
        for batch in batches:
            writer.writerows(map(_field, row.values()) for row in batch.to_pylist())
            rows += batch.num_rows
    return rows


def _write_json(path: Path, schema: Any, batches: Iterable[Any]) -> int:
    rows = 0
    with open(path, "x", encoding="utf-8") as file:
        for batch in batches:
            file.writelines(json.dumps(_value(row), ensure_ascii=False) + "\n" for row in batch.to_pylist())
            rows += batch.num_rows
    return rows


def _field(value: Any) -> Any:
    return json.dumps(_value(value), ensure_ascii=False) if isinstance(value, list | dict) else _value(value)


def _value(value: Any) -> Any:
    """A value that JSON knows."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {str(key): _value(item) for key, item in value.items()}
        case list() | tuple():
            return [_value(item) for item in value]
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal() | timedelta():
            return str(value)
        case _:
            return value
