"""What a stage's probe says about it, as a value and as the JSON that travels with a submission."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from headrace.errors import BadJob, Fault
from headrace.local.messages import Specs, TensorSpec

Probe = Specs
"""Inputs and outputs of a stage; None outputs: a python class tells them only with its first batch."""


def probe_from_plain(value: Any) -> Probe:
    """The probe that `value`, ``{"inputs": {...}, "outputs": {...} | null}``, describes.

    Raises:
        ValueError: it describes none.
    """
    try:
        outputs = value["outputs"]
        return Probe(_specs(value["inputs"]), None if outputs is None else _specs(outputs))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a probe: {error!r}") from error


def probes_to_json(probes: Mapping[str, Probe]) -> str:
    """JSON of all probes by stage, for `SubmitRequest.probes`."""
    return json.dumps({name: dataclasses.asdict(probe) for name, probe in probes.items()})


def probes_from_json(text: str) -> dict[str, Probe]:
    """Reads what `probes_to_json` wrote.

    Raises:
        BadJob: the text is something else.
    """
    try:
        return {str(name): probe_from_plain(value) for name, value in json.loads(text or "{}").items()}
    except (ValueError, AttributeError) as error:
        raise BadJob([Fault("probes", str(error), "what `probes_to_json` writes")]) from error


def _specs(value: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {str(name): _spec(spec) for name, spec in value.items()}


def _spec(value: Mapping[str, Any]) -> TensorSpec:
    shape, dtype = value["shape"], value["dtype"]
    sizes = None if shape is None else tuple(None if size is None else int(size) for size in shape)
    return TensorSpec(None if dtype is None else str(dtype), sizes)
