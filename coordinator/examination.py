"""Everything that can be found wrong with a job before it runs: its input, its stages against that, its output.

Each phase looks at what the others could find out, so that one look tells as many mistakes as there are. What follows
only from a mistake that was told already isn't told again: a fault is dropped whose field has one, or whose section
(`Told.blank`) couldn't be read at all.

Not here: what the job file says wrong by itself (`coordinator.spec`), loading the stages (`coordinator.probing`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from headrace.errors import BadJob, Fault

if TYPE_CHECKING:
    from coordinator.datasets import PlannedSource
    from coordinator.planning import Probe
    from coordinator.spec import InferenceJob, LoadedJob
    from headrace.program import Program

_SOURCE, _SINK = "spec.source", "spec.sink"
_SINK_URI = f"{_SINK}.uri"
_HARMLESS = {
    _SOURCE: ("uri", "columns", "filter", "onCorrupt"),
    _SINK: ("uri", "format", "columns", "compression"),
}
_HARMLESS_IN_STAGES = ("name", "inputs", "predictors", "rows", "when", "container")
"""Fields that may be wrong, or be what a wrong name stands for, while the section's others mean what they say."""
_FOLLOWING = ("spec.source.filter", "spec.source.csv")
"""Fields of the source whose faults follow from columns that aren't what the user means."""
_NAME = re.compile(r"[.\[]")


@dataclass(frozen=True, slots=True)
class Told:
    """What is known to be wrong before the job is examined, or after it."""

    faults: tuple[Fault, ...] = ()
    blank: frozenset[str] = field(default_factory=frozenset)  # sections that are but stand-ins
    unseen: str = ""  # why the output couldn't be looked at

    @staticmethod
    def of(loaded: "LoadedJob") -> "Told":
        """What the job file says wrong by itself."""
        return Told(loaded.faults, loaded.blank)

    def is_doubtful(self, section: str) -> bool:
        """Whether what is wrong in a section may make its other fields mean something else."""
        from coordinator.spec import is_within
        from coordinator.spec.document import nearest

        harmless = _HARMLESS.get(section, _HARMLESS_IN_STAGES)
        names = [
            _NAME.split(fault.field[len(section) + 1 :])[0] for fault in self.faults if is_within(fault.field, section)
        ]
        return section in self.blank or not all(nearest(name, harmless) for name in names)

    def also(self, faults: Sequence[Fault]) -> "Told":
        """With the faults of another phase, but for those that follow from the ones before."""
        from coordinator.spec import is_within

        fields = {fault.field for fault in self.faults}
        new = [
            fault
            for fault in dict.fromkeys(faults)
            if fault.field not in fields and not any(is_within(fault.field, section) for section in self.blank)
        ]
        return replace(self, faults=(*self.faults, *new))


def examine(
    job: "InferenceJob",
    probes: "Mapping[str, Probe]",
    *,
    limit_rows: int | None,
    with_output: bool = True,
    told: Told | None = None,
    source: "PlannedSource | None" = None,
) -> tuple["PlannedSource | None", Told]:
    """The source as far as it can be planned, and `told` with all that is wrong beside.

    The job's local paths are absolute. `with_output`: whether the output's folder is looked at. `source` stands for
    what `job.spec.source` says, if given.
    """
    from coordinator.datasets import find_source
    from coordinator.planning import find_faults, look_at_sink, named_columns, source_columns

    told = before = told or Told()
    is_known = _SOURCE not in told.blank
    if is_known and source is None:
        source, faults = find_source(
            job.spec.source, columns=source_columns(job), limit_rows=limit_rows, named=named_columns(job)
        )
        # A mistyped delimiter makes other columns of the same files.
        is_known = job.spec.source.format != "csv" or not before.is_doubtful(_SOURCE)
        told = told.also(faults if is_known else [fault for fault in faults if not fault.field.startswith(_FOLLOWING)])
    told = told.also(find_faults(job, source if is_known else None, probes, untyped=doubtful_stages(job, before)))
    is_sink_told = any(fault.field == _SINK_URI for fault in before.faults)
    if with_output and _SINK not in before.blank and not is_sink_told:
        dataset = source.dataset if source is not None else None
        look = look_at_sink(
            job,
            dataset,
            is_mode_known=not before.is_doubtful(_SINK),
            is_source_known=_SOURCE not in before.blank,
        )
        told = replace(told.also(look.faults), unseen=look.unseen)
    return source, told


def examined_program(
    job: "InferenceJob",
    probes: "Mapping[str, Probe]",
    *,
    limit_rows: int | None,
    with_output: bool = True,
    told: Told | None = None,
    source: "PlannedSource | None" = None,
) -> "tuple[PlannedSource, Program, str]":
    """The source and the program of a job that is right, looked at as `examine` does, and `Told.unseen`.

    Raises:
        BadJob: all that `examine` finds wrong.
    """
    from coordinator.planning import resolve

    source, told = examine(job, probes, limit_rows=limit_rows, with_output=with_output, told=told, source=source)
    if source is None or told.faults:
        raise BadJob(told.faults)
    program = resolve(job, source, probes, limit_rows=limit_rows, workers=job.spec.workers.max or 1)
    return source, program, told.unseen


def doubtful_stages(job: "InferenceJob", told: Told) -> set[int]:
    """Indexes of the stages whose own fields are wrong: what they were given isn't what the user means."""
    return {index for index in range(len(job.spec.pipeline)) if told.is_doubtful(f"spec.pipeline[{index}]")}
