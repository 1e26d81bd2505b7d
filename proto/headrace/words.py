"""The project's vocabulary as types: ids, states, exit codes (docs/architecture.md uses the same words)."""

from enum import IntEnum, StrEnum
from typing import NewType

JobUid = NewType("JobUid", str)
WorkerName = NewType("WorkerName", str)
Incarnation = NewType("Incarnation", str)
ShardId = NewType("ShardId", int)
Epoch = NewType("Epoch", int)

SOURCE = "source"
"""The name that references use for the source; no stage may have it."""


class ShardState(IntEnum):
    """States of a shard. COMMITTED means that the publish is journaled."""

    PENDING = 0
    LEASED = 1
    COMMITTING = 2
    COMMITTED = 3
    QUARANTINED = 4


TERMINAL_PHASES = ("Succeeded", "Failed")
"""Of a job that is over, until it is submitted again."""


class ExitCode(IntEnum):
    """Exit codes of `headrace` and of its processes (42 and 78 are never retried, 75 is temporary)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BAD_JOB = 42
    TEMPORARY = 75
    BAD_CONFIG = 78
    INTERRUPTED = 130
    TERMINATED = 143


MODEL_SUSPECT = "ModelSuspect"
"""What a worker reports in place of a reason when a stage has failed on everything it was given there: ModelFailed,
unless the stage has worked for other rows of the job."""


ACCEPTED = "ACCEPTED"
STALE = "STALE"
REFUSED = "REFUSED"
"""Of the three, the coordinator's word on a commit, a publish or a held lease."""

DRAIN = "drain"
"""Directive to take no more leases, and to end when those held are committed or given back."""
STOP = "stop"
"""Directive to end: the job is over for this worker."""
REGISTER = "register"
"""Directive to a worker that isn't known (any more): nothing of what it said was taken."""

HELD_OUTPUT = "held"
"""Reason of an ACCEPTED commit that the worker must not publish: the output wasn't empty at the start."""
PUBLISHED = "published"
"""Reason of an ACCEPTED commit that is published already."""


class Reason(StrEnum):
    """Reasons of a job's `Failed` condition."""

    DEADLINE_EXCEEDED = "DeadlineExceeded"
    ERROR_BUDGET_EXCEEDED = "ErrorBudgetExceeded"
    MODEL_FAILED = "ModelFailed"
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    SCHEMA_MISMATCH = "SchemaMismatch"
    NO_PROGRESS = "NoProgress"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    INPUT_CHANGED = "InputChanged"
    CORRUPT_INPUT = "CorruptInput"
    SOURCE_REFUSED = "SourceRefused"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    SINK_FAILED = "SinkFailed"
    SINK_UNAVAILABLE = "SinkUnavailable"
    LEDGER_DAMAGED = "LedgerDamaged"
    CANCELLED = "Cancelled"
