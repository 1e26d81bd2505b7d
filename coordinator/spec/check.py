"""A plain value as a job, as far as it is one: what is wrong is left out or stood in for, so that the rest is checked.

A wrong field that has a default is left out. Where that isn't possible, the section around it (the source, a stage, the
sink) gets a stand-in and is named in `Checked.blank`: nothing can be said of it but what it is told here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from coordinator.spec.built import unbuilt
from coordinator.spec.document import Path, field_name
from coordinator.spec.faults import error_paths, faults_of
from coordinator.spec.graph import graph_faults
from coordinator.spec.job import InferenceJob
from headrace.errors import Fault

_ROUNDS_MAX = 8
"""Each one leaves out or stands in for something more; hardly a job needs a third."""
_PIPELINE: Path = ("spec", "pipeline")
_STAND_INS: dict[Path, Any] = {
    ("apiVersion",): "headrace.dev/v1alpha1",
    ("kind",): "InferenceJob",
    ("metadata",): {"name": "job"},
    ("spec", "source"): {"format": "files", "uri": "."},
    ("spec", "sink"): {"format": "parquet", "uri": ".", "columns": {"column": "source.column"}},
}


@dataclass(frozen=True, slots=True)
class Checked:
    """What could be made of a value."""

    job: InferenceJob | None  # None: too little of it is a job
    faults: tuple[Fault, ...] = ()
    blank: frozenset[str] = field(default_factory=frozenset)  # fields whose stand-in is in `job`


def is_within(name: str, section: str) -> bool:
    """Whether the field `name` is `section` or lies in it."""
    return name == section or name.startswith((f"{section}.", f"{section}["))


def checked(value: Any) -> Checked:
    """All that a job file says wrong by itself, and the job without that."""
    if not isinstance(value, dict):
        return Checked(
            None, (Fault("this file", f"found a {type(value).__name__}", "an InferenceJob, as README.md shows one"),)
        )
    repair = _Repair(value)
    job = repair.run()
    faults = repair.faults
    if job is None:
        return Checked(None, tuple(faults))
    blank = frozenset(map(field_name, repair.blank))
    found = [fault for fault in unbuilt(job) + graph_faults(job) if not any(is_within(fault.field, at) for at in blank)]
    told = {fault.field for fault in faults}
    return Checked(job, (*faults, *(fault for fault in found if fault.field not in told)), blank)


class _Repair:
    """Validates a copy of the value again and again, with less of it each time."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.faults: list[Fault] = []
        self.blank: set[Path] = set()
        self._value = value
        self._copy: Any = None  # made with the first error
        self._removed: set[Path] = set()  # known fields that are left out

    def run(self) -> InferenceJob | None:
        value: Any = self._value
        for _ in range(_ROUNDS_MAX):
            try:
                return InferenceJob.model_validate(value)
            except ValidationError as error:
                if self._copy is None:
                    self._copy = value = json.loads(json.dumps(value, default=str))
                self._tell(error)
                mended = [self._mend(path, kind) for path, kind in error_paths(error, value)]  # as many as can be
                if not all(mended):
                    return None
        return None

    def _tell(self, error: ValidationError) -> None:
        """Notes what an error says, but for what only follows from what was left out before."""
        follows = {
            field_name(path)
            for path, _ in error_paths(error, self._copy)
            if any(removed[: len(path)] == path for removed in self._removed)
        }
        self.faults += [
            fault
            for fault in faults_of(error, InferenceJob, self._copy)
            if fault.field not in follows and fault not in self.faults
        ]

    def _mend(self, path: Path, kind: str) -> bool:
        """Leaves the field out or puts a stand-in where it was; False where neither can be done."""
        section = _section(path)
        if section in self.blank:
            return True
        inside = path[len(section) :] if section else path
        # An item of a list can't be left out: the others would change places.
        end = next((i for i, part in enumerate(inside) if isinstance(part, int)), len(inside))
        at = path[: len(path) - len(inside) + end]
        if kind != "missing" and len(at) > len(section) and at not in self._removed:
            if not _remove(self._copy, at):
                return True  # with something around it
            if kind != "extra_forbidden":
                self._removed.add(at)
            return True
        return self._stand_in(section)

    def _stand_in(self, section: Path) -> bool:
        if section in _STAND_INS:
            stand_in = _STAND_INS[section]
        elif section[:2] == _PIPELINE and len(section) == 3:
            stage = self._copy["spec"]["pipeline"][section[2]]
            name = stage.get("name") if isinstance(stage, dict) else None
            if not isinstance(name, str) or (*section, "name") in self._removed:
                return False  # what refers to it can't be told from what refers to nothing
            stand_in = {"name": name, "python": "stand:In", "inputs": {"column": "source.column"}}
        else:
            return False
        at = self._copy
        for part in section[:-1]:
            at = at.get(part) if isinstance(at, dict) else at[part]
            if not isinstance(at, dict | list):
                return False
        at[section[-1]] = stand_in
        self.blank.add(section)
        return True


def _section(path: Path) -> Path:
    """The part of a job that `path` lies in and that is stood in for as one; () for the others."""
    if path[:2] == _PIPELINE:
        return path[:3]
    return next((path[: len(section)] for section in _STAND_INS if path[: len(section)] == section), ())


def _remove(value: Any, path: Sequence[str | int]) -> bool:
    for part in path[:-1]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(value, dict) and value.pop(path[-1], value) is not value
