"""Whether a job that the ledger knows goes on when it is submitted again: asked by `Submit` and by `headrace plan`.

Not here: doing it (`coordinator.job_desk`).
"""

from typing import TYPE_CHECKING

from coordinator.core.ledger import JobLedger
from coordinator.jobs import JobState
from coordinator.output import SUCCESS, has_success
from headrace.program import program_from_json
from headrace.stores import open_store
from headrace.words import Reason

if TYPE_CHECKING:
    from coordinator.spec import InferenceJob

_REPLACE = " and sink.mode: replace (or into another folder)"
GIVEN_FREE = "claim"
"""The last step of a job's output: it is complete, whatever its state says."""


def state_of(ledger: JobLedger) -> JobState:
    """The job's state as its facts tell it."""
    return JobState.PLANNED if ledger.changed is None else JobState(ledger.changed.state)


def is_complete(ledger: JobLedger) -> bool:
    """Whether nothing is left to be done."""
    return state_of(ledger) is JobState.SUCCEEDED or GIVEN_FREE in ledger.steps


def refusal(ledger: JobLedger, digest: str, job: "InferenceJob") -> str:
    """Why `job`, submitted again with this digest, neither goes on nor is complete; "" if it does or is."""
    name, state = ledger.planned.name, state_of(ledger)
    message = "" if ledger.changed is None else ledger.changed.message
    if ledger.planned.digest != digest:
        is_done = state is JobState.SUCCEEDED
        is_in_the_way = is_done and job.spec.sink.mode == "fail"
        return (
            f"The job {name!r} is {'' if is_done else 'not '}complete, and what decides its output has "
            f"changed since it was submitted. Start it anew with --again{_REPLACE if is_in_the_way else ''}, "
            "or give this one another name."
        )
    sink = program_from_json(ledger.planned.program).sink
    if state is JobState.SUCCEEDED and not has_success(open_store(sink.uri, storage=sink.storage)):
        return f"The job {name!r} is complete, but {sink.uri} has no {SUCCESS} any more. Start it anew with --again."
    if is_complete(ledger) or ledger.changed is None or state is not JobState.FAILED:
        return ""
    if ledger.changed.reason == Reason.LEDGER_DAMAGED:
        return f"The ledger lost facts of the job {name!r} ({message}). Start it with --again."
    quarantined = ledger.table.counts.quarantined
    if quarantined and job.spec.errors.on_quarantine == "fail":
        return (
            f"The job {name!r} gave up {quarantined} shards ({message}). "
            "Start it anew with --again, or let it end without them with errors.onQuarantine: degrade."
        )
    return ""
