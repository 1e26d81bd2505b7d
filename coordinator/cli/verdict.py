"""What `headrace verify` says."""

from collections.abc import Mapping
from typing import Any

from coordinator.cli.words import corrupt_text

CORRUPT_SHOWN = 10


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report as text; `report` is `coordinator.verify.Report.to_plain()`."""
    which = "every row that could be read" if report["corrupt_total"] else "every row"
    head = f"{report['output']}: {f'{which} is there exactly once' if report['proven'] else 'NOT proven'}"
    if not report["proven"] and not report["shards"]:  # no manifest could be read: there is nothing to count by
        return [head, *(f"  {finding['kind']}: {finding['message']}" for finding in report["findings"])]
    lines = [
        head,
        f"  input   {report['input_files']:,} files, {report['units']:,} units in {report['shards']:,} shards",
        f"  rows    {report['rows_read']:,} read = {report['rows_out']:,} out + "
        f"{report['rows_filtered']:,} filtered + {report['rows_rejected']:,} rejected",
        f"  output  {report['files']:,} files, {report['bytes']:,} bytes, digests checked; "
        f"{report['rows_counted']:,} rows counted by footers",
    ]
    if report["corrupt_total"]:
        lines.append(f"  corrupt {corrupt_text('byte', report['corrupt_total'])} of the input can't be read:")
        lines += [f"    {text}" for text in report["corrupt"][:CORRUPT_SHOWN]]
        more = report["corrupt_total"] - CORRUPT_SHOWN
        lines += [f"    and {more:,} more"] if more > 0 else []
    lines += [f"  {finding['kind']}: {finding['message']}" for finding in report["findings"]]
    hidden = report["findings_total"] - len(report["findings"])
    return [*lines, *([f"  and {hidden:,} more"] if hidden else [])]
