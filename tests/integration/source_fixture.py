"""The source of a job file as the planner takes it, without a job file around it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from coordinator.datasets import PlannedSource, find_source
from coordinator.datasets.spec import SourceSpec
from headrace.errors import BadJob
from headrace.program import StorageOptions


@dataclass
class Csv:
    header: bool = True
    delimiter: str = ","
    types: Mapping[str, str] = field(default_factory=dict)
    line_breaks_in_fields: bool = True


@dataclass
class Storage:
    options: StorageOptions = field(default_factory=StorageOptions)


@dataclass
class Spec:
    format: Literal["parquet", "arrow", "csv", "jsonl", "files"]
    uri: Sequence[str]
    exclude: Sequence[str] = ()
    columns: Sequence[str] | None = None
    filter: str | None = None
    on_corrupt: Literal["fail", "reject"] = "fail"
    csv: Csv = field(default_factory=Csv)
    storage: Storage = field(default_factory=Storage)


def plan_source(
    source: SourceSpec, *, columns: Collection[str] | None, limit_rows: int | None, named: Collection[str] = ()
) -> PlannedSource:
    """As `find_source`, of a source that should be right.

    Raises:
        BadJob: it isn't.
    """
    planned, faults = find_source(source, columns=columns, limit_rows=limit_rows, named=named)
    if planned is None or faults:
        raise BadJob(faults)
    return planned
