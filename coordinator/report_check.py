"""What no honest worker says: looked for before anything of its message is believed.

Numbers of the wire are unsigned 64-bit; a negative one arrives as a huge one. What concerns a lease is judged by the
lease table; here is what would reach sums, metrics and loops.

Not here: whether a lease is the worker's (`coordinator.core.leases`), a commit's rows and names (`commit_check`).
"""

import math
from collections.abc import Collection, Iterator

from coordinator.exchange import Report

LISTED_MAX = 1000
"""Leases, commits and the like in one message; a worker holds some dozens."""
INT64_MAX = 2**63 - 1
ROWS_MAX = 2**53
"""Of one commit, also bytes of one file: far beyond any, and sums of as many as there can be stay below 2^63."""


def report_fault(report: Report, *, units_total: int, stages: Collection[str]) -> str:
    """Why the report can't be true; empty if it may be.

    Args:
        report: as it came.
        units_total: of the job's dataset; no more rows than these can be in the worker's hands.
        stages: names of the job's stages.
    """
    lists = (report.held, report.commits, report.published, report.releases, report.offers)
    if max(map(len, lists)) > LISTED_MAX:
        return f"more than {LISTED_MAX} leases in one message"
    rows = max((rows for held in report.held for rows in (held.rows_done, held.rows_rejected)), default=0)
    if rows > units_total:
        return f"{rows} rows of {units_total} units"
    named = [load.stage for load in report.stages] + [measures.stage for measures in report.measures]
    strange = set(named) - set(stages)
    if strange or len(report.stages) > len(stages) or len(report.measures) > len(stages):
        return f"stages that the job hasn't: {', '.join(sorted(strange))[:100]}"
    for asked in report.commits:
        counts, sizes = asked.counts, [number for file in asked.files for number in (file.size, file.rows)]
        if max(counts.read, counts.filtered, counts.out, counts.rejected, counts.children, *sizes, 0) > ROWS_MAX:
            return f"a commit of more than {ROWS_MAX} rows or bytes"
    for number in _numbers(report):
        if not (math.isfinite(number) and -1.0 <= number <= INT64_MAX):
            return f"a measure of {number}"
    return ""


def _numbers(report: Report) -> Iterator[float]:
    """Everything that is only measured, not decided on."""
    yield from (report.rows_per_second, report.read_busy_s, report.write_busy_s)
    yield from (report.arena_bytes, report.arena_used_bytes)
    for load in report.stages:
        yield from (load.busy_s, load.wait_input_s, load.predictor_s)
        yield from (load.predictors, load.rows_in, load.rows_out, load.batches, load.queue_batches, load.restarts)
        yield from (load.rows_judged, load.rows_nan)
    for measures in report.measures:
        yield from (measures.wait_output_s, measures.last_done_ago_s, measures.load_s)
        yield from (measures.rows_in_progress, measures.hangs, *measures.rows_tried_again.values())
        yield from (*measures.seconds_counts, *measures.rows_counts)
