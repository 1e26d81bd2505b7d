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
from coordinator.datasets.remote import Remote
from headrace.damage import is_damage
from headrace.errors import Fault, InputError, SourceUnavailable
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
    rows: int  # a damaged part, of which nobody knows how many it had, counts as one
    cuts: Sequence[int]  # ends of row groups or record batches, in rows of the file
    schema: pa.Schema | None  # None: it can't be read
    nbytes: int  # of all row groups
    detail: Any = None  # Parquet: the FileMetaData


class _Damaged(Exception):
    """A file can't be read past its first `rows` rows; the cause says why."""

    def __init__(self, file: InputFile, rows: int = 0, schema: pa.Schema | None = None) -> None:
        super().__init__(file.path)
        self.footer = Footer(file, rows + 1, [rows] if rows else [], schema, 0)


def measure_parquet(
    files: Sequence[InputFile],
    remote: Remote,
    columns: Collection[str] | None,
    limit_rows: int | None,
    faults: list[Fault],
    *,
    lists_corrupt: bool,
) -> Measured:
    """Rows and row groups of Parquet files.

    Files without a readable footer are left out and added to `faults`, as are those whose columns' types contradict
    the files before them. With `lists_corrupt`, damaged files stay among the others, as long as there is one that can
    be read: with one row for what can't, which the reader will find.
    """
    schemas = _Schemas()
    footers = _read_all(files, lambda file: _parquet_footer(file, remote, schemas), faults, lists_corrupt)
    return _measured(footers, limit_rows, _parquet_bytes(footers, columns), faults)


def measure_arrow(
    files: Sequence[InputFile], remote: Remote, limit_rows: int | None, faults: list[Fault], *, lists_corrupt: bool
) -> Measured:
    """Rows and record batches of Arrow IPC files and streams; faults as for Parquet."""
    footers = _read_all(files, lambda file: _arrow_footer(file, remote), faults, lists_corrupt)
    return _measured(footers, limit_rows, sum(footer.nbytes for footer in footers), faults)


def _measured(footers: Sequence[Footer], limit_rows: int | None, bytes_total: int, faults: list[Fault]) -> Measured:
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
        schema=_unified(footers, faults),
    )


def _cuts(footers: Sequence[Footer], units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    starts = origins(units)
    parts = [np.asarray(footer.cuts, np.int64) + starts[i] for i, footer in enumerate(footers) if len(footer.cuts)]
    return np.unique(np.concatenate([*parts, starts[1:]])) if parts else np.unique(starts[1:])


def _unified(footers: Sequence[Footer], faults: list[Fault]) -> pa.Schema:
    """One schema for all files: a column that some lack is null there; types may only be widened."""
    schema: pa.Schema | None = None
    first = ""
    found = []
    seen: set[int] = set()
    for footer in footers:
        if footer.schema is None or id(footer.schema) in seen:
            continue
        seen.add(id(footer.schema))
        own = footer.schema.remove_metadata()
        if schema is None:
            schema, first = own, footer.file.path
            continue
        try:
            schema = pa.unify_schemas([schema, own], promote_options="permissive")
        except pa.ArrowException as error:
            found.append(Fault(footer.file.path, str(error).splitlines()[0], f"the columns of {first}"))
    faults += found[:FAULTS_MAX]
    return pa.schema([]) if schema is None else schema


# ---------------------------------------------------------------- one file


T = TypeVar("T")
_WHOLE = "a whole file, or spec.source.exclude to leave it out"


def _read_all(
    files: Sequence[InputFile], read: Callable[[InputFile], Footer], faults: list[Fault], lists_corrupt: bool
) -> list[Footer]:
    """Footers of all files that have one, in order; files with equal schemas share one schema object."""
    failed: list[Fault] = []
    damaged: list[Fault] = []

    def attempt(file: InputFile) -> Footer | None:
        if len(failed) >= FAULTS_MAX:
            return None
        try:
            return read(file)
        except SourceUnavailable:  # no fault of the job
            raise
        except _Damaged as error:
            told = damaged if lists_corrupt else failed
            told.append(Fault(file.path, _why(error.footer.file, error.__cause__), _WHOLE))
            return error.footer if lists_corrupt else None
        except (pa.ArrowException, OSError, ValueError, InputError) as error:
            failed.append(Fault(file.path, _why(file, error), _WHOLE))
            return None

    if len(files) == 1:
        found = [attempt(files[0])]
    else:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="footers") as pool:
            found = list(pool.map(attempt, files))
    footers = [footer for footer in found if footer is not None]
    if all(footer.schema is None for footer in footers):  # nothing tells what the others have lost
        failed += damaged
        footers = []
    faults += sorted(failed, key=lambda fault: fault.field)[:FAULTS_MAX]
    return footers


def _why(file: InputFile, error: BaseException | None) -> str:
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


def _parquet_footer(file: InputFile, remote: Remote, schemas: _Schemas) -> Footer:
    import pyarrow.parquet as pq

    if is_remote(file.path):
        from headrace.httpfile import RangedFile

        tail = remote.files.tail(file.path, TAIL_BYTES, file.size)
        file = InputFile(file.path, tail.size, tail.version)  # a listing may be behind
        fetch = partial(remote.files.range, file.path, size=tail.size, version=tail.version)
        ranged = RangedFile(tail.size, fetch, [(tail.size - len(tail.data), tail.data)])
        opened = pa.PythonFile(ranged, mode="r")
    else:
        opened = pa.OSFile(file.path, "rb")
    with opened as raw:
        try:
            metadata = pq.ParquetFile(raw).metadata
            schema = schemas.of(metadata)
        except (pa.ArrowException, OSError) as error:
            if is_damage(error):
                raise _Damaged(file) from error
            raise
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
        for i in range(footer.detail.num_row_groups if footer.detail is not None else 0):
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


def _arrow_footer(file: InputFile, remote: Remote) -> Footer:
    if file.size == 0:
        raise _Damaged(file)
    there = remote.open(file, TAIL_BYTES)
    with pa.memory_map(file.path, "r") if there is None else pa.PythonFile(there, mode="r") as raw:
        is_file = raw.read(6) == b"ARROW1"
        raw.seek(0)
        lengths: list[int] = []
        schema = None
        try:
            if is_file:
                reader = pa.ipc.open_file(raw)
                rows = reader.count_rows()
                return Footer(file, rows, _batch_ends(reader, rows), reader.schema, file.size)
            stream = pa.ipc.open_stream(raw if there is None else pa.PythonFile(remote.open(file), mode="r"))
            schema = stream.schema
            lengths += (batch.num_rows for batch in stream)
        except (pa.ArrowException, OSError) as error:
            if is_damage(error):
                raise _Damaged(file, sum(lengths), schema) from error
            raise
    return Footer(file, sum(lengths), np.cumsum(lengths).tolist(), schema, file.size)


def _batch_ends(reader: pa.RecordBatchFileReader, rows: int) -> list[int]:
    """Ends of the record batches, as far as the first one tells.

    Writers make batches of one length but the last; where they don't, the cuts are only less cheap.
    """
    batches = reader.num_record_batches
    try:
        step = reader.get_batch(0).num_rows if batches > 1 else 0
    except (pa.ArrowException, OSError):  # the reader will find it
        return []
    return list(range(step, rows, step)) if step and step * (batches - 1) < rows <= step * batches else []
