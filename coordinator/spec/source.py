"""Where rows come from: `spec.source`."""

from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from coordinator.spec.scalars import CREDENTIALS, Strings, plain_url
from coordinator.spec.strict import Strict
from headrace.program import StorageOptions
from headrace.stores import QUERY_FOUND, QUERY_HINT, has_query


class CsvSpec(Strict):
    """How CSV text is read."""

    header: bool = Field(default=True, description="The first line of each file names the columns.")
    delimiter: str = Field(default=",", description="One character.")
    types: dict[str, str] = Field(
        default_factory=dict,
        description="Arrow types by column, such as {id: int64}; the others are inferred from the first MiB of each of "
        "the first three files. A row that doesn't fit a given type is rejected; one that doesn't fit an inferred type "
        "fails the job, which must then say the type.",
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


class StorageSpec(Strict):
    """Where a store is. Keys and tokens never stand here: they are found in the environment, a profile or a role."""

    endpoint: str = Field(
        default="",
        description="URL of a store that speaks S3's, Google's or Azure's API (default: the provider's own), of "
        "WebHDFS or of HttpFS (default: port 9870 of the URI's host); several NameNodes with commas between.",
    )
    region: str = Field(default="", description="Of S3. Default: the environment's, or what the store says.")
    anonymous: bool = Field(default=False, description="Requests aren't signed and name no user: for public buckets.")

    @property
    def options(self) -> StorageOptions:
        """What whoever opens the store is told."""
        return StorageOptions(self.endpoint, self.region, self.anonymous)

    @field_validator("endpoint")
    @classmethod
    def _a_url(cls, value: str) -> str:
        plain_url(value)
        if has_query(value):
            raise PydanticCustomError(CREDENTIALS, "{hint}", {"hint": QUERY_HINT, "found": QUERY_FOUND})
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("expected a URL such as https://s3.example.org:9000")
        return value


class SourceSpec(Strict):
    """Files of one format; every row of every file that matches is read once, in the order of their paths."""

    format: Literal["parquet", "arrow", "csv", "jsonl", "files"] = Field(
        description="files: one row per file with the columns path, bytes, size and modified."
    )
    uri: Strings = Field(
        description="A path, a glob or a list; relative to the job file; s3://, gs://, abfss://, hdfs:// or "
        "http(s)://. The query of a presigned URL is part of the path, which plans, ledgers and manifests hold."
    )
    exclude: Strings = Field(default_factory=list, description="Globs of paths to leave out.")
    columns: list[str] | None = Field(
        default=None, description="Columns to read; default: what the pipeline and the sink name."
    )
    filter: str | None = Field(
        default=None, description="Only rows for which this is true, such as: lang == 'en' and size > 100"
    )
    on_corrupt: Literal["fail", "reject"] = Field(
        default="fail",
        description="reject: list a file or range that can't be read, and go on; its rows count as rejected ones, or "
        "it counts as one where nobody knows how many it had.",
    )
    csv: CsvSpec = Field(default_factory=CsvSpec, description="Only for format csv.")
    storage: StorageSpec = Field(default_factory=StorageSpec, description="Where the store is.")

    @field_validator("uri", "exclude")
    @classmethod
    def _no_credentials(cls, value: list[str]) -> list[str]:
        return list(map(plain_url, value))

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
