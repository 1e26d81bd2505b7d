"""Where rows come from: `spec.source`."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from coordinator.spec.scalars import Strings
from coordinator.spec.strict import Strict, not_built


class CsvSpec(Strict):
    """How CSV text is read."""

    header: bool = Field(default=True, description="The first line of each file names the columns.")
    delimiter: str = Field(default=",", description="One character.")
    types: dict[str, str] = Field(
        default_factory=dict,
        description="Arrow types by column, such as {id: int64}; the others are inferred from the first file.",
    )
    line_breaks_in_fields: bool = Field(
        default=True, description="Whether quoted fields may hold line breaks; a file may be cut only where not."
    )

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        if len(value.encode()) != 1 or value in '\r\n"':
            raise ValueError('expected one ASCII character other than a quote or a line break, such as ";" or "\\t"')
        return value


class SourceSpec(Strict):
    """Files of one format; every row of every file that matches is read once, in the order of their paths."""

    format: Literal["parquet", "arrow", "csv", "jsonl", "files"] = Field(
        description="files: one row per file with the columns path, bytes, size and modified."
    )
    uri: Strings = Field(description="A path, a glob or a list; relative to the job file; http(s):// for Parquet.")
    exclude: Strings = Field(default_factory=list, description="Globs of paths to leave out.")
    columns: list[str] | None = Field(
        default=None, description="Columns to read; default: what the pipeline and the sink name."
    )
    filter: str | None = Field(
        default=None, description="Only rows for which this is true, such as: lang == 'en' and size > 100"
    )
    on_corrupt: Literal["fail", "reject"] = Field(
        default="fail", description="reject: list a file or range that can't be read, and go on."
    )
    csv: CsvSpec = Field(default_factory=CsvSpec, description="Only for format csv.")
    storage: dict[str, Any] | None = not_built("Endpoint and region of an object store; never keys.")

    @field_validator("uri")
    @classmethod
    def _not_empty(cls, value: list[str]) -> list[str]:
        if not value or not all(item.strip() for item in value):
            raise ValueError("expected a path, a glob or a list of them")
        return value

    @model_validator(mode="after")
    def _csv_only_for_csv(self) -> "SourceSpec":
        if "csv" in self.model_fields_set and self.format != "csv":
            raise ValueError(f"csv: only for format csv, not for {self.format}")
        return self

    @field_validator("columns")
    @classmethod
    def _distinct(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("expected a list of column names, each once")
        return value
