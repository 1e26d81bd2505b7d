"""Row counts and schemas of Parquet and Arrow files, from their metadata alone, many files at once."""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coordinator.datasets.listing import FAULTS_MAX, InputFile
from coordinator.datasets.measured import Measured, first_units, origins
from headrace.errors import BadJob, Fault, InputError
from headrace.uris import is_remote

THREADS = 8
"""Footers read at once; also the requests in flight to one web server."""
TAIL_BYTES = 64 << 10
"""Bytes of a remote file's end that the first request takes; a longer footer takes a second one."""
SIZED_GROUPS = 1_000
"""Row groups whose column sizes are added up; the rest is estimated from them (33 columns cost 30 µs a row group)."""


@dataclass(frozen=True, slots=True)
class Footer:
    """What one file says of itself."""

    file: InputFile  # with size and version filled in for URLs
    rows: int
    cuts: Sequence[int]  # ends of row groups or record batches, in rows of the file
    schema: pa.Schema
    nbytes: int  # of all row groups
    detail: Any = None  # Parquet: the FileMetaData


def measure_parquet(files: Sequence[InputFile], columns: Collection[str] | None, limit_rows: int | None) -> Measured:
    """Rows and row groups of Parquet files.

    Raises:
        BadJob: a file has no readable footer, or its columns' types contradict those of the first file.
    """
    schemas = _Schemas()
    footers = _read_all(files, lambda file: _parquet_footer(file, schemas))
    return _measured(footers, limit_rows, _parquet_bytes(footers, columns))


def measure_arrow(files: Sequence[InputFile], limit_rows: int | None) -> Measured:
    """Rows and record batches of Arrow IPC files and streams.

    Raises:
        BadJob: as for Parquet.
    """
    footers = _read_all(files, _arrow_footer)
    return _measured(footers, limit_rows, sum(footer.nbytes for footer in footers))


def _measured(footers: Sequence[Footer], limit_rows: int | None, bytes_total: int) -> Measured:
    units = np.array([footer.rows for footer in footers], np.int64)
    rows_total = int(units.sum())
    cuts = _cuts(footers, units)
    if limit_rows is not None and limit_rows < rows_total:
        bytes_total = bytes_total * limit_rows // rows_total
        units = first_units(units, limit_rows)
        footers = footers[: len(units)]
        rows_total = limit_rows
        cuts = np.append(cuts[cuts < limit_rows], limit_rows)
    return Measured(
        unit="row",
        files=[footer.file for footer in footers],
        units=units,
        cuts=cuts,
        divisible=True,
        bytes_total=bytes_total,
        rows_total=rows_total,
        schema=_unified(footers),
    )


def _cuts(footers: Sequence[Footer], units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    starts = origins(units)
    parts = [np.asarray(footer.cuts, np.int64) + starts[i] for i, footer in enumerate(footers) if len(footer.cuts)]
    return np.unique(np.concatenate([*parts, starts[1:]])) if parts else np.unique(starts[1:])


def _unified(footers: Sequence[Footer]) -> pa.Schema:
    """One schema for all files: a column that some lack is null there; types may only be widened."""
    if not footers:
        return pa.schema([])
    schema = footers[0].schema.remove_metadata()
    faults = []
    seen = {id(footers[0].schema)}
    for footer in footers[1:]:
        if id(footer.schema) in seen:
            continue
        seen.add(id(footer.schema))
        try:
            schema = pa.unify_schemas([schema, footer.schema.remove_metadata()], promote_options="permissive")
        except pa.ArrowException as error:
            first = footers[0].file.path
            faults.append(Fault(footer.file.path, str(error).splitlines()[0], f"the columns of {first}"))
    if faults:
        raise BadJob(faults[:FAULTS_MAX])
    return schema


# ---------------------------------------------------------------- one file


T = TypeVar("T")


def _read_all(files: Sequence[InputFile], read: Callable[[InputFile], Footer]) -> list[Footer]:
    """Footers of all files, in order; files with equal schemas share one schema object."""
    faults: list[Fault] = []

    def attempt(file: InputFile) -> Footer | None:
        if len(faults) >= FAULTS_MAX:
            return None
        try:
            return read(file)
        except (pa.ArrowException, OSError, ValueError, InputError) as error:
            faults.append(Fault(file.path, _why(file, error)))
            return None

    if len(files) == 1:
        found = [attempt(files[0])]
    else:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="footers") as pool:
            found = list(pool.map(attempt, files))
    if faults:
        raise BadJob(sorted(faults, key=lambda fault: fault.field)[:FAULTS_MAX])
    return [footer for footer in found if footer is not None]


def _why(file: InputFile, error: Exception) -> str:
    if file.size == 0:
        return "is an empty file"
    if isinstance(error, InputError):
        return str(error).removeprefix(f"{file.path}: ")
    return f"can't be read: {(str(error) or type(error).__name__).splitlines()[0]}"


class _Schemas:
    """Shares equal schemas: 100,000 files have mostly one, and making it costs more than the footer."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, pa.Schema]] = []

    def of(self, metadata: Any) -> pa.Schema:
        for parquet_schema, schema in self._known:
            if parquet_schema.equals(metadata.schema):
                return schema
        schema = metadata.schema.to_arrow_schema()
        self._known.append((metadata.schema, schema))
        return schema


def _parquet_footer(file: InputFile, schemas: _Schemas) -> Footer:
    import pyarrow.parquet as pq

    if is_remote(file.path):
        from headrace.httpfile import RangedFile, fetch_range, fetch_tail

        tail = fetch_tail(file.path, TAIL_BYTES)
        file = InputFile(file.path, tail.size, tail.version)
        fetch = partial(fetch_range, file.path, size=tail.size, version=tail.version)
        raw = RangedFile(tail.size, fetch, [(tail.size - len(tail.data), tail.data)])
        metadata = pq.ParquetFile(pa.PythonFile(raw, mode="r")).metadata
    else:
        with pa.OSFile(file.path, "rb") as raw:
            metadata = pq.ParquetFile(raw).metadata
    schema = schemas.of(metadata)
    twice = _twice(schema.names)
    if twice:
        raise ValueError(f"two columns are named {twice!r}")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return Footer(
        file=file,
        rows=metadata.num_rows,
        cuts=np.cumsum([group.num_rows for group in groups]).tolist() if groups else [],
        schema=schema,
        nbytes=sum(group.total_byte_size for group in groups),
        detail=metadata,
    )


def _twice(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _parquet_bytes(footers: Sequence[Footer], columns: Collection[str] | None) -> int:
    """Compressed bytes of the wanted columns: of the first row groups exactly, of the others by their share."""
    exact = uncompressed = groups = 0
    for footer in footers:
        for i in range(footer.detail.num_row_groups):
            if groups >= SIZED_GROUPS:
                break
            group = footer.detail.row_group(i)
            for j in range(group.num_columns):
                column = group.column(j)
                if columns is None or column.path_in_schema.split(".", 1)[0] in columns:
                    exact += column.total_compressed_size
            uncompressed += group.total_byte_size
            groups += 1
    total = sum(footer.nbytes for footer in footers)
    return exact if total == uncompressed else int(exact * (total / max(uncompressed, 1)))


def _arrow_footer(file: InputFile) -> Footer:
    if file.size == 0:
        raise ValueError("is empty")
    with pa.memory_map(file.path, "r") as raw:
        is_file = raw.read(6) == b"ARROW1"
        raw.seek(0)
        if is_file:
            reader = pa.ipc.open_file(raw)
            rows = reader.count_rows()
            batches = reader.num_record_batches
            # Writers make batches of one length but the last; where they don't, the cuts are only less cheap.
            step = reader.get_batch(0).num_rows if batches > 1 else 0
            cuts = list(range(step, rows, step)) if step and step * (batches - 1) < rows <= step * batches else []
            schema = reader.schema
        else:
            stream = pa.ipc.open_stream(raw)
            schema = stream.schema
            lengths = [batch.num_rows for batch in stream]
            rows, cuts = sum(lengths), np.cumsum(lengths).tolist()
    return Footer(file, rows, cuts, schema, file.size)
