"""`headrace rejects`: which rows were rejected and why, from a finished output or from a job that runs.

    groups      rows by stage and class of the error, with one of them as an example
    rejects     the first rows, each with its place in the input
    corrupt     ranges of the input that could not be read at all

Not here: running them again (`coordinator.cli.retry`), what a rejects file holds (`headrace.rejects`).
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from coordinator.cli.show import table
from coordinator.cli.words import corrupt_text
from coordinator.rejected import CorruptPart, find_rejected
from headrace.errors import HeadraceError
from headrace.program import StorageOptions
from headrace.publish import HIDDEN, REJECTED
from headrace.rejects import ADDRESS, CLASS, FILE, MESSAGE, NAMES, STAGE
from headrace.stores import check_plain, open_store
from headrace.uris import is_in_store

if TYPE_CHECKING:
    from coordinator.cli.control import Where
    from headrace.stores.port import OutputStore

CORRUPT_SHOWN = 20
MESSAGE_CHARS = 80


@dataclass(frozen=True, slots=True)
class RejectsFile:
    """One rejects file; a committed one may not have its final name yet."""

    store: "OutputStore"
    name: str
    rows: int

    def open(self) -> BinaryIO:
        """Opens it.

        Raises:
            FileNotFoundError: it isn't published yet.
        """
        return self.store.open(self.name)


@dataclass(frozen=True, slots=True)
class Found:
    """What is rejected."""

    output: str
    files: tuple[RejectsFile, ...]
    corrupt: tuple[CorruptPart, ...]


def find(target: str, where: "Where", storage: StorageOptions) -> Found:
    """The rejects of an output, or of the job of that name.

    Raises:
        HeadraceError: there is neither.
    """
    check_plain("the output", target)
    if is_in_store(target) or (Path(target) / HIDDEN).is_dir():
        uri = target if is_in_store(target) else str(Path(target).absolute())
        return _of_output(uri, storage)
    from coordinator.cli.control import NotRunning, list_rejects

    if "/" in target or target in (".", ".."):
        raise HeadraceError(f"{target} isn't the output of a job: it has no folder {HIDDEN}.")
    try:
        reply = asyncio.run(list_rejects(where, target))
    except NotRunning:
        return _of_output(_output_of(target, where), storage)
    corrupt = (CorruptPart(item.path, item.begin, item.end, reply.unit, item.reason) for item in reply.corrupt)
    stores: dict[str, OutputStore] = {}
    files = []
    for file in reply.files:
        uri, _, name = file.path.rpartition(f"/{REJECTED}/")
        if uri not in stores:
            stores[uri] = open_store(uri, storage=storage)
        files.append(RejectsFile(stores[uri], f"{REJECTED}/{name}", file.rows))
    return Found(next(iter(stores), target), tuple(files), tuple(corrupt))


def _of_output(uri: str, storage: StorageOptions) -> Found:
    store = open_store(uri, storage=storage)
    rejected = find_rejected(store)
    if rejected is None:
        raise HeadraceError(f"{uri} has no manifest: its job isn't complete. While it runs, ask by the job's name.")
    return Found(
        uri,
        tuple(RejectsFile(store, file.name, file.rows) for file in rejected.files),
        rejected.corrupt,
    )


def _output_of(name: str, where: "Where") -> str:
    """The output of a job that nobody runs, as its ledger on this machine says."""
    from coordinator.cli.standing import find_standing
    from coordinator.cli.state import job_folder
    from coordinator.jobs import plan_from_json

    standing = find_standing(job_folder(where.state, name), name)
    if standing is None:
        raise HeadraceError(f"Nobody runs the job {name!r} and no ledger on this machine knows it.")
    return plan_from_json(standing.planned.plan).sink.uri


def describe(found: Found, limit: int) -> dict[str, Any]:
    """What is rejected as plain values: groups of all rows, and the first `limit` rows.

    Raises:
        HeadraceError: a file can't be read.
    """
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    unpublished = 0
    for file in found.files:
        try:
            for batch in _batches(file, NAMES):
                for row in batch.to_pylist():
                    key = row[STAGE], row[CLASS]
                    plain = {name.removeprefix("_"): row[name] for name in (STAGE, CLASS, MESSAGE, FILE, ADDRESS)}
                    groups.setdefault(key, plain | {"rows": 0})["rows"] += 1
                    if len(rows) < limit:
                        rows.append(plain)
        except FileNotFoundError:
            unpublished += file.rows
    return {
        "output": found.output,
        "rows": sum(file.rows for file in found.files),
        "rows_unpublished": unpublished,
        "groups": sorted(groups.values(), key=lambda group: -group["rows"]),
        "rejects": rows,
        "corrupt": [asdict(part) for part in found.corrupt],
    }


def _batches(file: RejectsFile, columns: Sequence[str] | None = None) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open() as body, pq.ParquetFile(pa.PythonFile(body, mode="r")) as parquet:
            yield from parquet.iter_batches(columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise HeadraceError(f"{file.store.place_of(file.name)} can't be read: {error}") from error


def lines(plain: Mapping[str, Any]) -> list[str]:
    """The answer as text."""
    told = [f"{plain['output']}: {plain['rows']:,} rejected {'row' if plain['rows'] == 1 else 'rows'}"]
    if plain["rows_unpublished"]:
        told.append(f"  of {plain['rows_unpublished']:,} of them the reasons can be read when they are published")
    if plain["groups"]:
        groups = [group | {"example": _short(group["message"])} for group in plain["groups"]]
        told += ["", *table(groups, ["rows", "stage", "class", "example"])]
    if plain["rejects"]:
        rows = [row | {"message": _short(row["message"])} for row in plain["rejects"]]
        told += ["", *table(rows, ["file", "address", "stage", "class", "message"])]
        if len(rows) < plain["rows"]:
            told.append(f"the first {len(rows):,}; --limit shows more, --export writes all")
    if plain["corrupt"]:
        told += ["", f"{corrupt_text('byte', len(plain['corrupt']))} of the input can't be read:"]
        told += [
            f"  {part['path']}, {part['unit']}s [{part['begin']:,}, {part['end']:,}): {part['reason']}"
            for part in plain["corrupt"][:CORRUPT_SHOWN]
        ]
        hidden = len(plain["corrupt"]) - CORRUPT_SHOWN
        told += [f"  and {hidden:,} more; -o json shows them"] if hidden > 0 else []
    return told


def _short(message: str) -> str:
    one_line = " ".join(message.split())
    return one_line if len(one_line) <= MESSAGE_CHARS else f"{one_line[:MESSAGE_CHARS]} …"


def batches_of(found: Found) -> Iterator[Any]:
    """All rejected rows with all their columns, as record batches; the columns differ where the files' do.

    Raises:
        HeadraceError: a file can't be read, or isn't published yet.
    """
    for file in found.files:
        try:
            yield from _batches(file)
        except FileNotFoundError as error:
            text = f"{file.store.place_of(file.name)} isn't published yet; export when the job is complete."
            raise HeadraceError(text) from error
