"""The program: what a worker does with a leased shard, resolved from the job file and sent as JSON.

The coordinator's planner makes it from the InferenceJob, with every default filled in, every reference resolved and
every path absolute, so that the sidecar decides nothing about the job and needs no pydantic.

Not here: what the user writes (`coordinator.spec`), how shards are cut (`coordinator.core.planner`).
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Ref:
    """A column of the source or of an earlier stage."""

    producer: str  # headrace.words.SOURCE or a stage's name
    column: str

    def __str__(self) -> str:
        return f"{self.producer}.{self.column}"


@dataclass(frozen=True, slots=True)
class Cast:
    """What the job says about one input's type; a part left out (None) is kept as it is."""

    dtype: str | None = None  # a numpy dtype name, e.g. "int64", "float16"
    shape: tuple[int, ...] | None = None  # of one row, for flat or binary columns
    fill: Scalar = None  # stands in for nulls


@dataclass(frozen=True, slots=True)
class StageInput:
    """One named input of a stage: one column, or several numeric ones stacked to ``[rows, k]``."""

    name: str
    refs: tuple[Ref, ...]
    stacked: bool = False  # the job wrote a list, also one of length 1
    cast: Cast = field(default_factory=Cast)
    dtype: str | None = None  # what the model wants, where known (onnx); None: as it comes
    shape: tuple[int | None, ...] | None = None  # of the whole batch as the model declares it; None: unknown


@dataclass(frozen=True, slots=True)
class StageProgram:
    """One stage, in the order of the pipeline: its inputs come from the source or from stages before it."""

    name: str
    kind: Literal["python", "onnx"]
    target: str  # "module:Class", or the absolute path of the model
    inputs: tuple[StageInput, ...]
    config: str = "{}"  # JSON object of keywords for a python class
    search_path: tuple[str, ...] = ()  # folders where a python stage's module is looked for first
    batch_rows: int = 1024  # "auto" is 1,024 for now, less where the arena is small
    batch_auto: bool = False  # batch_rows is a wish: fewer where as many don't fit the arena for every predictor
    as_arrow: bool = False  # `batch: {as: arrow}`: the inputs come as one Arrow record batch
    predictors_min: int = 1
    predictors_max: int | None = None  # None: auto
    rows_fixed: int | None = None  # the model's batch dimension, where it is a constant


@dataclass(frozen=True, slots=True)
class CsvOptions:
    """How CSV text is read."""

    header: bool = True
    delimiter: str = ","
    line_breaks_in_fields: bool = True


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """Where a store is; never keys: those come from the environment of whoever reads."""

    endpoint: str = ""  # "" : the provider's own
    region: str = ""  # "": of the environment, else found out
    anonymous: bool = False  # requests aren't signed


@dataclass(frozen=True, slots=True)
class SourceProgram:
    """How slices of the input become Arrow columns. The files themselves come with each grant."""

    format: Literal["parquet", "arrow", "csv", "jsonl", "files"]
    columns: tuple[str, ...]  # that the pipeline, the sink or kept rejects need, Hive keys included
    schema: str  # base64 of the Arrow IPC schema of `columns`, in that order
    partitions: tuple[str, ...] = ()  # those of `columns` that come from key=value folders in the path
    filter: str = ""  # JSON of the expression tree (headrace.filters), "" for none
    csv: CsvOptions = field(default_factory=CsvOptions)
    file_columns: tuple[str, ...] = ()  # CSV: all columns of the file in file order
    file_inferred: tuple[str, ...] = ()  # CSV: those whose type was inferred from the heads of the first files
    rejected: bool = False  # the files are rejects (`headrace.rejects`), Parquet whatever the job's source is
    on_corrupt: Literal["fail", "reject"] = "fail"
    limit_rows: int | None = None  # of the file `limit_path` only so many rows count; elsewhere the plan ends early
    limit_path: str = ""  # a compressed file, which can only be cut while it is read
    is_limited: bool = False  # the plan may end inside of its last file
    units: int = 0  # of the whole dataset
    divisible: bool = True  # a lease may be cut at any unit, else only where the plan says
    storage: StorageOptions = field(default_factory=StorageOptions)

    @property
    def is_text(self) -> bool:
        """Files are text whose records lie anywhere: units are bytes."""
        return self.format in ("csv", "jsonl")


@dataclass(frozen=True, slots=True)
class SinkColumn:
    """One output column and where it comes from."""

    name: str
    ref: Ref


@dataclass(frozen=True, slots=True)
class SinkProgram:
    """How results become files."""

    format: Literal["parquet", "arrow", "csv", "jsonl"]
    uri: str  # absolute path of the output folder, or an object store's prefix
    columns: tuple[SinkColumn, ...]  # `"*": source` is already spelt out
    compression: str = "zstd"  # none | zstd | gzip | snappy | lz4, what the format knows
    mode: Literal["fail", "append", "replace"] = "fail"
    storage: StorageOptions = field(default_factory=StorageOptions)


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """What becomes of rows that can't be predicted."""

    max_rejected_rows: int | None = None
    max_rejected_share: float | None = 0.001  # of rows read, once min_rows have been read
    min_rows: int = 1000
    keep_rows: bool = True  # onReject: keep (the row's source columns) | address (only where it is)
    nan: Literal["keep", "reject"] = "keep"


@dataclass(frozen=True, slots=True)
class Program:
    """Everything that a worker needs to know about a job."""

    job_name: str
    job_uid: str
    source: SourceProgram
    stages: tuple[StageProgram, ...]
    sink: SinkProgram
    errors: ErrorPolicy = field(default_factory=ErrorPolicy)
    arena_bytes: int | None = None  # None: auto
    predictors_max: int | None = None  # in one worker, over all stages; None: auto
    batch_timeout_s: float | None = None  # None: auto
    workers: int = 1  # workers expected on this machine, for sharing its cores

    def to_json(self) -> str:
        """JSON text from which `program_from_json` makes an equal value."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, separators=(",", ":"))


T = TypeVar("T")


def program_from_json(text: str) -> Program:
    """Reads a program.

    Raises:
        ValueError: the text is not a program of this version.
    """
    return from_plain(Program, json.loads(text))


def from_plain(cls: type[T], value: Any) -> T:
    """Builds `cls`, a dataclass of this module's forms, from what JSON made of it. Unknown keys are an error."""
    made = _convert(cls, value, cls.__name__)
    assert isinstance(made, cls)
    return made


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object, found {value!r}")
        hints = get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise ValueError(f"{where}: unknown field {unknown[0]!r}")
        return kind(**{name: _convert(hints[name], item, f"{where}.{name}") for name, item in value.items()})  # type: ignore[operator]
    origin = get_origin(kind)
    if origin is tuple:
        item_kind = get_args(kind)[0]
        return tuple(_convert(item_kind, item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        options = [option for option in get_args(kind) if option is not type(None)]
        return _convert(options[0], value, where) if len(options) == 1 else value
    if origin is typing.Literal:
        if value not in get_args(kind):
            raise ValueError(f"{where}: expected one of {get_args(kind)}, found {value!r}")
        return value
    if kind is float and isinstance(value, int):
        return float(value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise ValueError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value
