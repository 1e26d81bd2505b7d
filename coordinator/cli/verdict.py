"""What `headrace verify` says."""

from collections.abc import Mapping
from typing import Any


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report as text; `report` is `coordinator.verify.Report.to_plain()`."""
    lines = [
        f"{report['output']}: {'every row is there exactly once' if report['proven'] else 'NOT proven'}",
        f"  input   {report['input_files']:,} files, {report['units']:,} units in {report['shards']:,} shards",
        f"  rows    {report['rows_read']:,} read = {report['rows_out']:,} out + "
        f"{report['rows_filtered']:,} filtered + {report['rows_rejected']:,} rejected",
        f"  output  {report['files']:,} files, {report['bytes']:,} bytes, digests checked; "
        f"{report['rows_counted']:,} rows counted by footers",
    ]
    lines += [f"  {finding['kind']}: {finding['message']}" for finding in report["findings"]]
    hidden = report["findings_total"] - len(report["findings"])
    return [*lines, *([f"  and {hidden:,} more"] if hidden else [])]
