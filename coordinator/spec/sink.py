"""Where results go: `spec.sink`."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from coordinator.spec.pipeline import split_reference
from coordinator.spec.scalars import plain_url
from coordinator.spec.source import StorageSpec
from coordinator.spec.strict import Strict, not_built
from headrace.words import SOURCE

ALL_COLUMNS = "*"
"""The key of `sink.columns` whose value `source` carries all source columns."""

COMPRESSIONS = {
    "parquet": ("zstd", "snappy", "gzip", "lz4", "none"),
    "arrow": ("zstd", "lz4", "none"),
    "csv": ("none", "gzip", "zstd"),
    "jsonl": ("none", "gzip", "zstd"),
}
"""What each format can be compressed with; the first is its default, so that text stays readable."""


class SinkSpec(Strict):
    """A folder of files of one format."""

    format: Literal["parquet", "arrow", "csv", "jsonl"]
    uri: str = Field(
        min_length=1,
        description="The output folder, relative to the job file, or in hdfs://; a prefix in s3://, gs:// or abfss://.",
    )
    columns: dict[str, str] = Field(
        min_length=1, description='Output columns and where each comes from; {"*": source} carries all source columns.'
    )
    children: Literal["gather", "explode"] | None = not_built("What becomes of stages that make many rows.")
    mode: Literal["fail", "append", "replace"] = Field(
        default="fail", description="What to do about an output that isn't empty."
    )
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] | None = Field(
        default=None, description="Default: zstd for parquet and arrow, none for csv and jsonl."
    )
    storage: StorageSpec = Field(default_factory=StorageSpec, description="Where the store is.")

    @property
    def codec(self) -> str:
        """The compression in force."""
        return self.compression or COMPRESSIONS[self.format][0]

    @field_validator("uri")
    @classmethod
    def _no_credentials(cls, value: str) -> str:
        return plain_url(value)

    @field_validator("columns")
    @classmethod
    def _references(cls, value: dict[str, str]) -> dict[str, str]:
        for name, reference in value.items():
            if name == ALL_COLUMNS:
                if reference != SOURCE:
                    raise ValueError(f'"*": expected source, found {reference}')
            elif not name:
                raise ValueError("expected a name for every column")
            else:
                try:
                    split_reference(reference)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}, found {reference!r}") from error
        return value

    @model_validator(mode="after")
    def _known_codec(self) -> "SinkSpec":
        if self.compression is not None and self.compression not in COMPRESSIONS[self.format]:
            raise ValueError(f"compression: expected one of {', '.join(COMPRESSIONS[self.format])} for {self.format}")
        return self
