"""What `headrace chaos` says at the end: what it broke, how long each kind took to recover, that nothing is lost.

Not here: the verification itself (`coordinator.verify`).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.cli.show import table
from coordinator.verify import Report

UNTIL = {
    "kill-predictor": "another one is in its place",
    "kill-host": "the worker, started again, holds leases",
    "kill-sidecar": "the worker, started again, holds leases",
    "stop-sidecar": "the worker, drained and started again, holds leases",
    "pause-sidecar": "woken, the worker holds leases",
    "fill-output-disk": "with space again, the worker holds leases",
    "pause-coordinator": "woken, it answers and leases are held",
    "kill-run": "the same command, given again, holds leases",
}
UNTIL_TERM = "another coordinator answers and leases are held"


@dataclass(frozen=True, slots=True)
class Broken:
    """One fault that fell."""

    kind: str
    what: str
    at_s: float  # since the start
    recovered_s: float | None  # until work went on; None: nothing to wait for, or it was not seen
    alone: bool  # no second one fell at the same moment


def recoveries(broken: Sequence[Broken]) -> list[dict[str, Any]]:
    """Per kind: how often, and the times of those that fell alone."""
    rows = []
    for kind in dict.fromkeys(fault.kind for fault in broken):
        of_kind = [fault for fault in broken if fault.kind == kind]
        times = sorted(x.recovered_s for x in of_kind if x.alone and x.recovered_s is not None)
        rows.append(
            {
                "fault": kind,
                "times": len(of_kind),
                "median_s": round(statistics.median(times), 3) if times else None,
                "p99_s": round(times[math.ceil(0.99 * len(times)) - 1], 3) if times else None,
                "until": UNTIL.get(kind, UNTIL_TERM) if times else "",
            }
        )
    return rows


def chaos_json(
    seed: int, broken: Sequence[Broken], job: Mapping[str, Any] | None, report: Report | None, outlived: Sequence[str]
) -> dict[str, Any]:
    """All of it as plain values.

    Args:
        job: the run's last word; None: it was interrupted.
        report: of an output that the run says is complete.
        outlived: processes that a killed run has left.
    """
    is_whole = False
    if job is not None and report is not None:
        accounted = job["rows_out"] + job["rows_filtered"] + job["rows_rejected"]
        is_whole = report.is_proven and report.rows_read >= job["rows_read"] == accounted
    return {
        "seed": seed,
        "faults": [
            {"kind": x.kind, "what": x.what, "at_s": round(x.at_s, 3), "recovered_s": x.recovered_s} for x in broken
        ],
        "recoveries": recoveries(broken),
        "is_nothing_lost": is_whole,
        "findings": [] if report is None else [f"{x.kind}: {x.message}" for x in report.findings],
        "outlived": list(outlived),
        "job": None if job is None else dict(job),
    }


def chaos_lines(plain: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    faults, job = plain["faults"], plain["job"]
    lines = [f"{len(faults)} faults, seed {plain['seed']}:"]
    lines += [f"  {x['at_s']:7.1f} s  {x['kind']:<17} {x['what']}{_recovered(x['recovered_s'])}" for x in faults]
    if faults:
        lines += ["", *(_seconds(plain["recoveries"]))]
    lines.append("")
    if job is None:
        lines.append("The run didn't end by itself; the same command continues it.")
    elif plain["is_nothing_lost"]:
        lines.append(
            f"Nothing is lost and nothing came twice: {job['rows_in']:,} rows read = {job['rows_out']:,} out + "
            f"{job['rows_filtered']:,} filtered + {job['rows_rejected']:,} rejected, every file as the manifest says."
        )
    else:
        lines.append(f"The job's phase is {job['phase']}; its output isn't proven.")
        failed = [x for x in job["conditions"] if x["type"] == "Failed" and x["status"]]
        lines += [f"  {x['reason']}: {x['message']}" for x in failed]
        lines += [f"  {finding}" for finding in plain["findings"]]
    lines += [f"A killed run has left {name}." for name in plain["outlived"]]
    return lines


def _recovered(seconds: float | None) -> str:
    return "" if seconds is None else f": {seconds:.2f} s"


def _seconds(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = [{**row, "median_s": _figure(row["median_s"]), "p99_s": _figure(row["p99_s"])} for row in rows]
    return table(shown, ["fault", "times", "median_s", "p99_s", "until"])


def _figure(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}"
