"""The pipeline as a graph: who needs whom, in which order, and what is wrong with that.

Pure; needs nothing but the job file. What columns there are is checked by `coordinator.planning`.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from coordinator.spec.document import nearest
from coordinator.spec.job import InferenceJob
from coordinator.spec.pipeline import StageSpec, split_reference
from coordinator.spec.sink import ALL_COLUMNS
from headrace.errors import Fault
from headrace.words import SOURCE


@dataclass(frozen=True, slots=True)
class Use:
    """One reference and the field that makes it."""

    name: str  # of the input, or of the output column
    field: str
    producer: str
    column: str


def stage_uses(stage: StageSpec, index: int) -> Iterator[Use]:
    """References of one stage, in the order written."""
    for name, references in stage.inputs.items():
        field = f"spec.pipeline[{index}].inputs.{name}"
        if isinstance(references, str):
            yield Use(name, field, *split_reference(references))
        else:
            for k, reference in enumerate(references):
                yield Use(name, f"{field}[{k}]", *split_reference(reference))


def sink_uses(job: InferenceJob) -> Iterator[Use]:
    """References of the sink but for ``"*"``, in the order written."""
    for name, reference in job.spec.sink.columns.items():
        if name != ALL_COLUMNS:
            yield Use(name, f"spec.sink.columns.{name}", *split_reference(reference))


def graph_faults(job: InferenceJob) -> list[Fault]:
    """Stages of one name, references to stages that don't exist, casts of inputs that don't exist, cycles."""
    faults: list[Fault] = []
    stages = job.spec.pipeline
    first: dict[str, int] = {}
    for i, stage in enumerate(stages):
        if stage.name in first:
            other = f"spec.pipeline[{first[stage.name]}]"
            faults.append(Fault(f"spec.pipeline[{i}].name", f"'{stage.name}' is {other} already", "another name"))
        first.setdefault(stage.name, i)
    producers = [SOURCE, *first]
    uses = [use for i, stage in enumerate(stages) for use in stage_uses(stage, i)]
    for use in [*uses, *sink_uses(job)]:
        if use.producer not in producers:
            close = nearest(use.producer, producers)
            hint = f"did you mean '{close}.{use.column}'?" if close else f"there are: {', '.join(producers)}"
            faults.append(Fault(use.field, f"no stage is called '{use.producer}'", hint))
        elif use.column == "_error":
            faults.append(Fault(use.field, "'_error' rejects rows and is no column", "another output"))
    for i, stage in enumerate(stages):
        for name in stage.cast:
            if name not in stage.inputs:
                close = nearest(name, list(stage.inputs))
                hint = f"did you mean '{close}'?" if close else f"inputs: {', '.join(stage.inputs)}"
                faults.append(Fault(f"spec.pipeline[{i}].cast.{name}", "no such input", hint))
    for cycle in find_cycles(stages):
        field = f"spec.pipeline[{first[cycle[0]]}].inputs"
        faults.append(Fault(field, f"a cycle: {' → '.join(cycle)}", "stages that need only earlier ones"))
    return faults


def _needs(stages: list[StageSpec]) -> dict[str, list[str]]:
    """The stages that each stage reads, each once, in the order written; the first of several of one name counts."""
    needs: dict[str, list[str]] = {}
    names = {stage.name for stage in stages}
    for i, stage in enumerate(stages):
        producers = dict.fromkeys(use.producer for use in stage_uses(stage, i) if use.producer in names)
        needs.setdefault(stage.name, list(producers))
    return needs


def find_cycles(stages: list[StageSpec]) -> list[list[str]]:
    """Cycles that share no stage, so many that what is left has none.

    Each is names of stages, each reading the next, the first again at the end.
    """
    needs = _needs(stages)
    done: set[str] = set()
    cycles: list[list[str]] = []
    for start in needs:
        while start not in done:
            cycle = _walk(start, needs, done)
            if cycle:
                cycles.append(cycle)
                done.update(cycle)
    return cycles


def _walk(start: str, needs: Mapping[str, Sequence[str]], done: set[str]) -> list[str]:
    """The first cycle met depth first from `start`, past what is `done`; [] after adding all that was met to `done`."""
    path = [start]
    rest = [iter(needs[start])]
    while path:
        following = next((need for need in rest[-1] if need not in done), None)
        if following is None:
            done.add(path.pop())
            rest.pop()
        elif following in path:
            return [*path[path.index(following) :], following]
        else:
            path.append(following)
            rest.append(iter(needs[following]))
    return []


def running_order(stages: list[StageSpec]) -> list[StageSpec]:
    """Stages so that each comes after those it reads; as written wherever that allows. The graph has no cycle."""
    needs = _needs(stages)
    place = {stage.name: i for i, stage in enumerate(stages)}
    missing = {name: len(producers) for name, producers in needs.items()}
    readers: dict[str, list[str]] = {name: [] for name in needs}
    for name, producers in needs.items():
        for producer in producers:
            readers[producer].append(name)
    ready = [place[name] for name, count in missing.items() if count == 0]
    heapq.heapify(ready)
    order: list[StageSpec] = []
    while ready:
        stage = stages[heapq.heappop(ready)]
        order.append(stage)
        for reader in readers[stage.name]:
            missing[reader] -= 1
            if missing[reader] == 0:
                heapq.heappush(ready, place[reader])
    assert len(order) == len(stages), "a cycle"
    return order
