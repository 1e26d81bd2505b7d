"""One job while the coordinator has it: its options, its state, and what it tells people (pure but for its table).

Not here: what is decided about it (`coordinator.driver`), its message on the wire (`coordinator.rpc`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from coordinator.core.lease_values import ShardView
from coordinator.exchange import Seat, StageLoad
from headrace.program import ErrorPolicy, from_plain
from headrace.words import Reason


class JobState(StrEnum):
    """States of a job in the ledger. REFUSED and ABANDONED jobs are forgotten."""

    PLANNED = "Planned"  # journaled, the output not claimed yet
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    REFUSED = "Refused"
    ABANDONED = "Abandoned"


PHASES = {
    JobState.PLANNED: "Pending",
    JobState.RUNNING: "Running",
    JobState.SUSPENDED: "Pending",
    JobState.SUCCEEDED: "Succeeded",
    JobState.FAILED: "Failed",
}

FORGOTTEN = (JobState.REFUSED, JobState.ABANDONED)

STALLED_AFTER_S = 60.0
ERROR_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Options:
    """What the job says about how to run it; may change while it runs."""

    on_quarantine: str = "fail"  # fail | degrade
    coordinator_timeout_s: float = 3600.0
    active_deadline_s: float | None = None
    workers_max: int | None = None


@dataclass(frozen=True, slots=True)
class SinkPlan:
    """What was decided about the output when the job was planned."""

    uri: str
    mode: str  # fail | append | replace | retry
    format: str
    number: int  # of the manifest to come
    base: str | None  # manifest that this one adds to
    old: tuple[str, ...] = ()  # modes replace and retry: files to delete in the end, relative
    old_digests: tuple[str, ...] = ()  # mode retry: of `old`, which are the dataset's files
    schema: str = ""  # mode append: of the base's data files (`coordinator.core.schema`); empty: none is known


@dataclass(frozen=True, slots=True)
class Plan:
    """The driver's part of a planned job, as it stands in the ledger."""

    sink: SinkPlan
    options: Options
    summary: str = ""  # JSON for people

    def to_json(self) -> str:
        """JSON text from which `plan_from_json` makes an equal value."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))


def plan_from_json(text: str) -> Plan:
    """Reads a plan from the ledger."""
    return from_plain(Plan, json.loads(text))


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition as Kubernetes shows it: its type, whether it holds, why."""

    type: str
    is_true: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What a job tells people: one value for `Get`, `Watch`, metrics and the summary."""

    name: str
    uid: str
    phase: str
    conditions: tuple[Condition, ...]
    progress: str
    rows_total: int
    rows_estimated: bool
    rows_read: int
    rows_filtered: int
    rows_out: int
    rows_rejected: int
    rows_corrupt: int
    parts_lost: int
    rows_lost: int
    rows_live: int
    rows_per_second: float
    eta_low_s: float
    eta_high_s: float
    shards_pending: int
    shards_leased: int
    shards_committed: int
    shards_quarantined: int
    shards_recomputed: int
    workers: int
    workers_max: int
    stages: tuple[StageLoad, ...]
    read_busy_s: float
    write_busy_s: float
    output: str
    manifest_path: str
    elapsed_s: float
    unit: str
    units_total: int
    units_committed: int
    files: int
    bytes_total: int
    term: int
    plan: str
    started_ago_s: float | None  # since this process first had it running
    succeeded_ago_s: float | None  # since this process saw it succeed


def budget_fault(policy: ErrorPolicy, read: int, rejected: int) -> str:
    """Says why the budget of rejects is spent, or "" while it isn't.

    Both count the rows of live epochs too.
    """
    if policy.max_rejected_rows is not None and rejected > policy.max_rejected_rows:
        return f"{rejected:,} rows were rejected, errors.maxRejected allows {policy.max_rejected_rows:,}"
    share = policy.max_rejected_share
    if share is not None and read >= policy.min_rows and rejected > share * read:
        return f"{rejected:,} of {read:,} rows were rejected, errors.maxRejected allows {share:.4%}"
    return ""


def corrupt_fault(policy: ErrorPolicy, *, total: int, rejected: int, lost: int, parts: int, unit: str) -> str:
    """Says why the budget of rejects is spent by rejected rows and corrupt ranges together; "" while it isn't.

    A corrupt range comes at once, whatever was read before it, so a share is one of all rows that the job will have.

    Args:
        policy: the job's.
        total: rows of the whole input, about.
        rejected: rows so far, those of corrupt ranges included.
        lost: of them, about how many are in parts that can't be counted (`coordinator.core.lost`).
        parts: of these, files; ranges where units are bytes.
        unit: of the plan.
    """
    fault = budget_fault(policy, total, rejected)
    if not fault or not parts:
        return fault
    word = ("range" if unit == "byte" else "file") + "s" * (parts != 1)
    return f"{fault}; about {lost:,} of them were in {parts:,} {word} that can't be read"


def nothing_came_out(policy: ErrorPolicy, out: int, rejected: int) -> str:
    """Says so when a finished job rejected every row and its share doesn't allow that; "" otherwise.

    The share counts from `ErrorPolicy.min_rows` on; a smaller job that only made rejects hasn't succeeded either.
    """
    share = policy.max_rejected_share
    if share is not None and share < 1 and out == 0 and rejected > 0:
        return f"all {rejected:,} rows were rejected, errors.maxRejected allows {share:.4%}"
    return ""


def nan_of_all(stages: Iterable[StageLoad]) -> str:
    """Names the stage that has given NaN for every row so far, which is the model's fault and no row's; "" for none."""
    for stage in stages:
        if 0 < stage.rows_nan == stage.rows_judged:
            return f"stage {stage.stage!r}: NaN for all {stage.rows_nan:,} rows"
    return ""


def failure_reason(exit_class: str) -> Reason:
    """The reason of a job's failure for the class word of the failure table."""
    try:
        return Reason(exit_class)
    except ValueError:
        return Reason.SINK_FAILED if exit_class in SINK_CLASSES else Reason.BACKOFF_LIMIT_EXCEEDED


SINK_CLASSES = ("DiskFull", "SinkFailed")
FATAL_CLASSES = (
    *SINK_CLASSES,
    Reason.INPUT_CHANGED,
    Reason.CORRUPT_INPUT,
    Reason.SOURCE_REFUSED,
    Reason.SCHEMA_MISMATCH,
    Reason.MODEL_LOAD_FAILED,
)
"""Classes that another try of the same shard can't change: the job fails at once and can be continued."""
PAUSING_CLASSES = (Reason.SOURCE_UNAVAILABLE, Reason.SINK_UNAVAILABLE)
"""Classes that are a store's fault: the job pauses and tries again (`coordinator.core.breaker`)."""


def sum_stages(names: Iterable[str], seats: Iterable[Seat]) -> tuple[StageLoad, ...]:
    """Each stage's load over all workers, in the order of the pipeline."""
    sums: dict[str, StageLoad] = {name: StageLoad(name) for name in names}
    for seat in seats:
        for load in seat.stages:
            if load.stage in sums:
                sums[load.stage] = sums[load.stage] + load
    return tuple(sums.values())


def conditions(
    state: JobState,
    reason: str,
    message: str,
    *,
    given_up: str,
    is_committed: bool,
    is_stalled: bool,
    waits_for: tuple[str, str] = ("", ""),
) -> tuple[Condition, ...]:
    """All conditions of a job, true or not, so that nobody has to guess what a missing one means.

    `given_up`: as `given_up_text` says it, or ""; `waits_for`: reason and message of the store that the job waits for.
    """
    succeeded, failed = state is JobState.SUCCEEDED, state is JobState.FAILED
    running = state is JobState.RUNNING
    return (
        Condition("Complete", succeeded),
        Condition("Failed", failed, reason if failed else "", message if failed else ""),
        Condition("Suspended", state is JobState.SUSPENDED),
        Condition("Progressing", running and not is_stalled and not waits_for[0]),
        _stalled(running and is_stalled, waits_for if running else ("", "")),
        Condition("Degraded", bool(given_up), "Quarantined" if given_up else "", given_up),
        Condition("OutputCommitted", is_committed),
    )


def given_up_text(shards: int, first: ShardView) -> str:
    """How many shards were given up, and in one line why the first of them was."""
    error = " ".join(first.error.split())
    shown = error if len(error) <= ERROR_CHARS_MAX else f"{error[:ERROR_CHARS_MAX]} …"
    which = "1 shard was" if shards == 1 else f"{shards:,} shards were"
    return f"{which} given up, the first is {first.shard}: {shown or 'no reason was given'}"


def _stalled(is_stalled: bool, waits_for: tuple[str, str]) -> Condition:
    if waits_for[0]:
        return Condition("Stalled", True, *waits_for)
    return Condition("Stalled", is_stalled, Reason.NO_PROGRESS if is_stalled else "")


def options_json(options: Options, program: str) -> str:
    """Detail of a `JobChanged` that changes how the job runs."""
    return json.dumps({"options": asdict(options), "program": program})


def read_options(detail: str) -> tuple[Options, str] | None:
    """What `options_json` wrote, or None for a change without it."""
    if not detail:
        return None
    plain: Mapping[str, Any] = json.loads(detail)
    return from_plain(Options, plain["options"]), plain["program"]
