"""What planning reads of the job's `spec.source`, owned here and met by `coordinator.spec.SourceSpec`."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from headrace.program import StorageOptions

SourceFormat = Literal["parquet", "arrow", "csv", "jsonl", "files"]


class CsvSpec(Protocol):
    """How CSV text is read."""

    @property
    def header(self) -> bool: ...
    @property
    def delimiter(self) -> str: ...
    @property
    def types(self) -> Mapping[str, str]: ...
    @property
    def line_breaks_in_fields(self) -> bool: ...


class StorageSpec(Protocol):
    """Where the store is."""

    @property
    def options(self) -> StorageOptions: ...


class SourceSpec(Protocol):
    """The source as the job file says, URIs made absolute."""

    @property
    def format(self) -> SourceFormat: ...
    @property
    def uri(self) -> Sequence[str]: ...
    @property
    def exclude(self) -> Sequence[str]: ...
    @property
    def columns(self) -> Sequence[str] | None: ...
    @property
    def filter(self) -> str | None: ...
    @property
    def on_corrupt(self) -> Literal["fail", "reject"]: ...
    @property
    def csv(self) -> CsvSpec: ...
    @property
    def storage(self) -> StorageSpec: ...
