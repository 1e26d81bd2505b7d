"""The source of a job file as the planner takes it, without a job file around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from headrace.program import StorageOptions


@dataclass
class Csv:
    header: bool = True
    delimiter: str = ","
    types: Mapping[str, str] = field(default_factory=dict)
    line_breaks_in_fields: bool = True


@dataclass
class Spec:
    format: Literal["parquet", "arrow", "csv", "jsonl", "files"]
    uri: Sequence[str]
    exclude: Sequence[str] = ()
    columns: Sequence[str] | None = None
    filter: str | None = None
    on_corrupt: Literal["fail", "reject"] = "fail"
    csv: Csv = field(default_factory=Csv)
    storage: StorageOptions = field(default_factory=StorageOptions)
