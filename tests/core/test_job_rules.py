"""Rules of a job as a whole: the budget of rejects, the reason of a failure."""

import pytest

from coordinator.jobs import (
    Options,
    Plan,
    SinkPlan,
    budget_fault,
    failure_reason,
    nothing_came_out,
    options_json,
    plan_from_json,
    read_options,
)
from headrace.program import ErrorPolicy
from headrace.words import Reason

ROWS = ErrorPolicy(max_rejected_rows=3, max_rejected_share=None)
SHARE = ErrorPolicy(max_rejected_share=0.01, min_rows=1000)


@pytest.mark.parametrize(
    ("policy", "read", "rejected", "is_spent"),
    [
        (ROWS, 10, 3, False),
        (ROWS, 10, 4, True),
        (ROWS, 1_000_000, 4, True),
        (SHARE, 999, 999, False),  # too few rows to speak of a share
        (SHARE, 1000, 10, False),
        (SHARE, 1000, 11, True),
        (SHARE, 100_000, 1000, False),
        (ErrorPolicy(max_rejected_share=0.0), 1000, 1, True),
        (ErrorPolicy(max_rejected_share=1.0), 1000, 1000, False),
        (ErrorPolicy(max_rejected_share=None), 1000, 1000, False),
    ],
)
def test_the_budget_is_spent_by_the_first_reject_over_it(
    policy: ErrorPolicy, read: int, rejected: int, is_spent: bool
) -> None:
    assert bool(budget_fault(policy, read, rejected)) is is_spent


def test_a_small_job_of_rejects_only_is_no_success_unless_allowed() -> None:
    assert nothing_came_out(SHARE, 0, 5)
    assert not nothing_came_out(SHARE, 1, 5)
    assert not nothing_came_out(SHARE, 0, 0)
    assert not nothing_came_out(ErrorPolicy(max_rejected_share=1.0), 0, 5)


@pytest.mark.parametrize(
    ("exit_class", "reason"),
    [
        ("InputChanged", Reason.INPUT_CHANGED),
        ("ModelFailed", Reason.MODEL_FAILED),
        ("DiskFull", Reason.SINK_FAILED),
        ("", Reason.BACKOFF_LIMIT_EXCEEDED),
        ("unheard of", Reason.BACKOFF_LIMIT_EXCEEDED),
    ],
)
def test_a_failure_has_a_reason_of_the_table(exit_class: str, reason: Reason) -> None:
    assert failure_reason(exit_class) is reason


def test_plans_and_options_survive_the_ledger() -> None:
    options = Options("degrade", 60.0, 3600.0, 4)
    plan = Plan(SinkPlan("/out", "replace", "csv", 3, None, ("a", "b/ü")), options, "{}")
    assert plan_from_json(plan.to_json()) == plan
    assert read_options(options_json(options, "program")) == (options, "program")
    assert read_options("") is None
