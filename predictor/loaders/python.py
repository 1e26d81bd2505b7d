"""A class of the user's own: `module:Class`, constructed with the stage's config and called with each batch."""

import importlib
import sys
from typing import Any, Mapping, Optional

from ..local import messages
from ..outputs import Region, checked, specs_of
from ..stage import Stage
from . import BadStage


class PythonModel:
    """An instance of the class. `example()`, where it has one, gives inputs for the warm-up."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._instance = _class(stage)(**stage.config)
        if not callable(self._instance):
            raise BadStage(f"{stage.target} has no __call__(batch)")
        self.specs = messages.Specs({}, None)

    def warm_up(self) -> None:
        """Calls it with its own example, and learns the outputs from that."""
        example = getattr(self._instance, "example", None)
        if example is None:
            return
        inputs = example()
        rows = _rows(inputs)
        outputs = checked(self._instance(inputs), rows)
        self.specs = messages.Specs({}, specs_of(outputs))

    def run(self, inputs: Any, rows: int, region: Region) -> Mapping[str, Any]:
        """Calls it. What it returns is checked by the caller."""
        returned: Mapping[str, Any] = self._instance(inputs)
        return returned


def _class(stage: Stage) -> Any:
    name, _, path = stage.target.partition(":")
    for folder in reversed(stage.search_path):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    module = importlib.import_module(name)
    found: Any = module
    for part in path.split("."):
        inner: Optional[Any] = getattr(found, part, None)
        if inner is None:
            classes = sorted(key for key, value in vars(found).items() if isinstance(value, type))
            raise BadStage(f"{name} has no {path}; it has {', '.join(classes) or 'no classes'}")
        found = inner
    return found


def _rows(inputs: Any) -> int:
    """Rows of an example: an Arrow record batch, or a dict of arrays."""
    if hasattr(inputs, "num_rows"):
        return int(inputs.num_rows)
    try:
        return len(next(iter(inputs.values())))
    except (AttributeError, StopIteration, TypeError) as error:
        raise BadStage("example() must return what __call__ takes: a dict of arrays, not empty") from error
