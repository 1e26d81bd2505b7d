"""The stage to run, as read from the JSON of a StageProgram (`headrace.program`, which needs a newer Python)."""

import json
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

SOURCE = "source"


@dataclass(frozen=True)
class StageInput:
    """One input: where its columns come from, and what the job and the model want of them."""

    name: str
    producers: Tuple[str, ...]
    stacked: bool
    cast_dtype: Optional[str]  # what the job says, whatever it does to values
    cast_shape: Optional[Tuple[int, ...]]  # of one row
    fill: Any
    dtype: Optional[str]  # what the model takes

    @property
    def is_from_source(self) -> bool:
        """Whether the sidecar has already stacked, filled and cast it."""
        return all(producer == SOURCE for producer in self.producers)


@dataclass(frozen=True)
class Stage:
    """What a predictor needs to know of a StageProgram."""

    name: str
    kind: str
    target: str
    inputs: Tuple[StageInput, ...]
    config: Dict[str, Any]
    search_path: Tuple[str, ...]
    as_arrow: bool
    rows_fixed: Optional[int]


def stage_from_json(text: str) -> Stage:
    """Reads a StageProgram; fields that only the sidecar uses are left out.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    plain = json.loads(text)
    return Stage(
        name=plain["name"],
        kind=plain["kind"],
        target=plain["target"],
        inputs=tuple(_input(each) for each in plain["inputs"]),
        config=json.loads(plain.get("config", "{}")),
        search_path=tuple(plain.get("search_path", ())),
        as_arrow=plain.get("as_arrow", False),
        rows_fixed=plain.get("rows_fixed"),
    )


def _input(plain: Dict[str, Any]) -> StageInput:
    cast = plain.get("cast") or {}
    shape = cast.get("shape")
    return StageInput(
        name=plain["name"],
        producers=tuple(ref["producer"] for ref in plain["refs"]),
        stacked=plain.get("stacked", False),
        cast_dtype=cast.get("dtype"),
        cast_shape=None if shape is None else tuple(shape),
        fill=cast.get("fill"),
        dtype=plain.get("dtype"),
    )
