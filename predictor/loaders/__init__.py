"""Loaders: each turns a stage into a model that runs batches. The only folder that imports what users bring.

A loader raises whatever the user's code or the library raises; `serving` and `probing` turn it into a StageError.
"""

from typing import Any, Dict, Mapping, Protocol

from ..local import messages
from ..outputs import Region
from ..stage import Stage


class Model(Protocol):
    """A loaded stage."""

    specs: messages.Specs

    def warm_up(self) -> None:
        """Runs once on made-up inputs, where it can know them, so that the first batch is no slower than the others."""

    def run(self, inputs: Any, rows: int, region: Region) -> Mapping[str, Any]:
        """Runs one batch.

        Args:
            inputs: arrays by name, or an Arrow record batch where the stage asked for one.
            region: where the model may write an output in place, by `region.place`.
        """
        ...


class BadStage(ValueError):
    """The stage can't be what the job file says: no such class, not a model, outputs that no column holds."""

    __module__ = "headrace"  # in tracebacks, in place of our private name


def load(stage: Stage) -> Model:
    """Loads the stage's model."""
    if stage.kind == "onnx":
        from .onnx import OnnxModel

        return OnnxModel(stage)
    from .python import PythonModel

    return PythonModel(stage)


def spec_as_plain(specs: Dict[str, messages.TensorSpec]) -> Dict[str, Any]:
    """For JSON: ``{"dtype": ..., "shape": [...]}`` by name."""
    return {
        name: {"dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}
        for name, spec in specs.items()
    }
