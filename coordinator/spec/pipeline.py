"""What runs on the rows: the stages of `spec.pipeline`."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)

from coordinator.spec.scalars import AutoCount
from coordinator.spec.strict import Strict, not_built
from headrace.local.columns import DTYPES
from headrace.words import SOURCE

STAGE_KINDS = ("onnx", "python", "oip", "sagemaker", "vertex")
"""Keys of a stage of which exactly one says what it runs."""

_STAGE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def split_reference(text: str) -> tuple[str, str]:
    """Producer and column of ``producer.column``; split at the first dot, so columns may have dots.

    Raises:
        ValueError: one of the two is empty.
    """
    producer, _, column = text.partition(".")
    if not producer or not column:
        raise ValueError("expected a reference such as source.COLUMN or STAGE.OUTPUT")
    return producer, column


def _references(value: str | list[str]) -> str | list[str]:
    if isinstance(value, list) and not value:
        raise ValueError("expected at least one reference")
    for item in [value] if isinstance(value, str) else value:
        split_reference(item)
    return value


def _stage_name(value: str) -> str:
    if value == SOURCE:
        raise ValueError("expected another name: 'source' names the source")
    if not _STAGE_NAME.fullmatch(value):
        raise ValueError("expected letters, digits, '_' and '-', beginning with a letter; no dots")
    return value


def _target(value: str) -> str:
    if not _TARGET.fullmatch(value):
        raise ValueError("expected module:Class, such as tokenize:Tokens (no path, no .py)")
    return value


def _dtype(value: str) -> str:
    if value not in DTYPES:
        raise ValueError(f"expected one of {', '.join(DTYPES)}")
    return value


References = Annotated[
    str | list[str],
    AfterValidator(_references),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""One reference, or a list of numeric columns to stack to ``[rows, k]``."""


class BatchSpec(Strict):
    """Rows that go through a stage together."""

    rows: AutoCount = Field(default=None, description="Rows of a batch, or auto.")
    max: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Most rows of a batch where rows is auto."
    )
    as_: Literal["arrays", "arrow"] = Field(
        default="arrays", alias="as", description="arrow: a python stage gets an Arrow record batch, not arrays."
    )

    @model_validator(mode="after")
    def _one_bound(self) -> "BatchSpec":
        if self.rows is not None and self.max is not None and self.rows > self.max:
            raise ValueError(f"expected rows ({self.rows}) of at most max ({self.max})")
        return self


class PredictorsSpec(Strict):
    """How many processes hold the stage's model, in each worker."""

    min: int = Field(default=1, ge=1)
    max: AutoCount = Field(default=None, description="A number, or auto: what the cores and the other stages leave.")

    @model_validator(mode="after")
    def _ordered(self) -> "PredictorsSpec":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"expected min ({self.min}) of at most max ({self.max})")
        return self


class CastSpec(Strict):
    """How one input's values are changed on purpose."""

    dtype: Annotated[str, AfterValidator(_dtype)] | None = Field(default=None, description="A numpy dtype name.")
    shape: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="Shape of one row, for flat or binary columns, such as [3, 224, 224]."
    )
    fill: StrictBool | StrictInt | StrictFloat | StrictStr | None = Field(
        default=None, description="Stands in for nulls."
    )


class StageSpec(Strict):
    """One node of the graph; it depends on whatever its inputs name."""

    name: Annotated[str, AfterValidator(_stage_name)]
    python: Annotated[str, AfterValidator(_target)] | None = Field(
        default=None, description="module:Class; the module is looked for beside the job file, then where Python does."
    )
    onnx: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="A path beside the job file, or pkg://PACKAGE/path for a file of an installed package.",
    )
    oip: dict[str, Any] | None = not_built("A server that speaks the Open Inference Protocol.")
    sagemaker: dict[str, Any] | None = not_built("A container of the SageMaker contract.")
    vertex: dict[str, Any] | None = not_built("A container of the Vertex contract.")
    inputs: dict[str, References] = Field(description="Input names and the columns they get.")
    config: dict[str, Any] = Field(default_factory=dict, description="Keywords for the constructor of a python class.")
    cast: dict[str, CastSpec] = Field(default_factory=dict, description="By input name.")
    batch: BatchSpec = Field(default_factory=BatchSpec)
    predictors: PredictorsSpec = Field(default_factory=PredictorsSpec)
    rows: dict[str, Any] | None = not_built("Says that the stage makes many rows out of one.")
    when: str | None = not_built("Runs the stage only on rows where a column is true.")
    container: dict[str, Any] | None = not_built("The container of the stage in a cluster.")

    @property
    def kind(self) -> str:
        """The key that says what the stage runs."""
        return next(kind for kind in STAGE_KINDS if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _consistent(self) -> "StageSpec":
        kinds = [kind for kind in STAGE_KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"expected exactly one of {', '.join(STAGE_KINDS)}, found {' and '.join(kinds) or 'none'}")
        if kinds != ["python"] and self.config:
            raise ValueError("config: only python stages have it")
        if kinds != ["python"] and self.batch.as_ == "arrow":
            raise ValueError("batch.as: only python stages take Arrow")
        if not self.inputs:
            raise ValueError("inputs: expected at least one, such as {x: source.x}")
        if {"", "*"} & self.inputs.keys():
            raise ValueError("inputs: expected names other than '' and '*'")
        return self
