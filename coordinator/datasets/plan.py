"""From `spec.source` to the planned dataset and the worker's source program."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from coordinator.datasets.footers import measure_arrow, measure_parquet
from coordinator.datasets.listing import InputFile, list_files
from coordinator.datasets.measured import Measured, first_units
from coordinator.datasets.remote import Remote
from coordinator.datasets.spec import SourceSpec
from coordinator.datasets.text import measure_csv, measure_jsonl
from headrace.arrow_types import schema_text
from headrace.dataset import Dataset
from headrace.errors import BadJob, Fault
from headrace.filter_rows import filter_faults
from headrace.filters import Expression, columns_used, filter_to_json, parse_filter
from headrace.hive import hive_keys, is_integer
from headrace.program import CsvOptions, SourceProgram

LISTING_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("bytes", pa.binary()),
        ("size", pa.int64()),
        ("modified", pa.timestamp("us", tz="UTC")),
    ]
)
"""Columns of a `files` source."""


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """The input as planned: its files and units, and every column that a job may name."""

    dataset: Dataset
    schema: pa.Schema  # columns of the files, then Hive keys
    partitions: tuple[str, ...]  # columns that come from key=value folders; they hide a file's column of that name
    file_columns: tuple[str, ...] = ()  # CSV: all columns in the order of the first file
    file_inferred: tuple[str, ...] = ()  # CSV: those whose type the job doesn't give
    limit_path: str = ""  # as in SourceProgram
    limit_rows: int | None = None


def find_source(
    source: SourceSpec, *, columns: Collection[str] | None, limit_rows: int | None, named: Collection[str] = ()
) -> tuple[PlannedSource | None, list[Fault]]:
    """Lists the source and reads its metadata: what of it could be planned, and all that is wrong with it.

    `columns` (None: all) only decide `Dataset.bytes_total`. `limit_rows` ends the dataset after so many rows of the
    input, before the filter. `named` are the columns that the job names: those of CSV and JSONL files without any
    record, which then have the null type.

    Raises:
        SourceUnavailable: a store that holds files can't be reached.
    """
    faults: list[Fault] = []
    expression: Expression | None = None
    try:
        expression = parse_filter(source.filter) if source.filter else None
    except BadJob as error:
        faults += error.faults
    remote = Remote(source.storage)
    files = list_files(source, remote, faults)
    used = columns_used(expression) if expression is not None else ()
    try:
        wanted = tuple(dict.fromkeys([*named, *used]))
        measured = _measure(source, files, remote, columns, wanted, limit_rows, faults)
    except BadJob as error:
        return None, faults + list(error.faults)
    if faults and not len(measured.files):
        return None, faults
    keys = _partition_fields(file.path for file in measured.files)
    names = [field.name for field in keys]
    schema = pa.schema([*(field for field in measured.schema if field.name not in names), *keys])
    is_known = not any(name in schema.names and pa.types.is_null(schema.field(name).type) for name in used)
    if expression is not None and is_known:
        faults += filter_faults(expression, schema)
    is_csv = source.format == "csv"
    planned = PlannedSource(
        dataset=measured.dataset(),
        schema=schema,
        partitions=tuple(names),
        file_columns=tuple(measured.schema.names) if is_csv else (),
        file_inferred=tuple(name for name in measured.schema.names if name not in source.csv.types) if is_csv else (),
        limit_path=measured.limit_path,
        limit_rows=measured.limit_rows,
    )
    return planned, faults


def source_program(
    source: SourceSpec, planned: PlannedSource, columns: Sequence[str], limit_rows: int | None
) -> SourceProgram:
    """What a worker needs to read `columns` (which exist) of the planned source.

    Columns that only the filter uses are added at the end. `limit_rows` is the one that was planned with; the plan
    already ends there.
    """
    assert limit_rows is None or planned.dataset.rows_total is None or planned.dataset.rows_total <= limit_rows
    expression: Expression | None = parse_filter(source.filter) if source.filter else None
    names = tuple(dict.fromkeys([*columns, *(columns_used(expression) if expression else ())]))
    schema = pa.schema([planned.schema.field(name) for name in names])
    return SourceProgram(
        format=source.format,
        columns=names,
        schema=schema_text(schema),
        partitions=tuple(name for name in names if name in planned.partitions),
        filter=filter_to_json(expression) if expression else "",
        csv=CsvOptions(source.csv.header, source.csv.delimiter, source.csv.line_breaks_in_fields),
        file_columns=planned.file_columns,
        file_inferred=planned.file_inferred,
        on_corrupt=source.on_corrupt,
        limit_rows=planned.limit_rows,
        limit_path=planned.limit_path,
        is_limited=limit_rows is not None,
        units=planned.dataset.units_total,
        divisible=planned.dataset.divisible,
        storage=source.storage.options,
    )


def _measure(
    source: SourceSpec,
    files: Sequence[InputFile],
    remote: Remote,
    columns: Collection[str] | None,
    named: Collection[str],
    limit_rows: int | None,
    faults: list[Fault],
) -> Measured:
    lists_corrupt = source.on_corrupt == "reject"
    match source.format:
        case "parquet":
            return measure_parquet(files, remote, columns, limit_rows, faults, lists_corrupt=lists_corrupt)
        case "arrow":
            return measure_arrow(files, remote, limit_rows, faults, lists_corrupt=lists_corrupt)
        case "csv":
            return measure_csv(files, remote, source.csv, named, limit_rows, faults, lists_corrupt=lists_corrupt)
        case "jsonl":
            return measure_jsonl(files, remote, named, limit_rows, lists_corrupt=lists_corrupt)
        case "files":
            return _measure_listing(files, columns, limit_rows)


def _measure_listing(files: Sequence[InputFile], columns: Collection[str] | None, limit_rows: int | None) -> Measured:
    units = np.ones(len(files), np.int64)
    if limit_rows is not None:
        units = first_units(units, limit_rows)
        files = files[: len(units)]
    reads_bytes = columns is None or "bytes" in columns
    return Measured(
        unit="file",
        files=files,
        units=units,
        cuts=np.arange(1, len(files) + 1, dtype=np.int64),
        divisible=True,
        bytes_total=sum(file.size for file in files) if reads_bytes else 0,
        rows_total=len(files),
        schema=LISTING_SCHEMA,
    )


def _partition_fields(paths: Iterable[str]) -> list[pa.Field]:
    """Hive keys of all paths in order of appearance: int64 where every value is written as one, else string."""
    integers: dict[str, bool] = {}
    known_folders: set[str] = set()
    for path in paths:
        folder = path[: path.rfind("/") + 1]
        if folder in known_folders:
            continue
        known_folders.add(folder)
        for key, text in hive_keys(path).items():
            integers[key] = integers.get(key, True) and (text is None or is_integer(text))
    return [pa.field(key, pa.int64() if is_int else pa.string()) for key, is_int in integers.items()]
