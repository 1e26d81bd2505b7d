"""Loads a stage once and says what it takes and gives: the planner's look at a model, without an arena."""

from typing import Any, Dict

from .loaders import load, spec_as_plain
from .stage import stage_from_json
from .tracebacks import stage_error


def probe(text: str) -> Dict[str, Any]:
    """What `probe` prints: ``{"inputs": ..., "outputs": ... or null}`` or ``{"error": ...}``.

    The error's `where` is "load" (import, constructor, model file) or "example" (its own example fails).
    """
    where = "load"
    try:
        stage = stage_from_json(text)
        model = load(stage)
        if stage.kind == "python":  # a run of an onnx model tells nothing that its file doesn't
            where = "example"
            model.warm_up()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is the answer
        told = stage_error(error)
        return {
            "error": {"class": told.kind, "message": told.message, "traceback": told.traceback, "where": where},
        }
    specs = model.specs
    return {
        "inputs": spec_as_plain(specs.inputs),
        "outputs": None if specs.outputs is None else spec_as_plain(specs.outputs),
    }
