"""How far a job is, while it runs: a bar on a terminal, else a plain line every few seconds."""

import os
import sys
import time
from contextlib import suppress
from typing import Any, TextIO

from coordinator.cli.words import corrupt_text, duration, eta
from headrace import v1

PLAIN_INTERVAL_S = 5.0
BAR_WIDTH_MIN = 4
BAR_WIDTH_MAX = 20


class Progress:
    """Shows statuses as they come; rows committed and rows on their way both count as progress of the bar."""

    def __init__(self, out: TextIO = sys.stderr, quiet: bool = False) -> None:
        self._out = out
        self._quiet = quiet
        self._bar: Any = None  # a tqdm, imported only for a terminal
        self._plain_at = float("-inf")

    def show(self, job: v1.Job) -> None:
        """Shows one status."""
        if self._quiet:
            return
        if self._out.isatty():
            self._show_bar(job)
        elif time.monotonic() - self._plain_at >= PLAIN_INTERVAL_S:
            self._plain_at = time.monotonic()
            with suppress(OSError):  # nobody reads it any more: the work goes on
                print(f"{job.name}: {line(job)}", file=self._out, flush=True)

    def note(self, text: str) -> None:
        """Says something beside the progress, in lines of its own."""
        with suppress(OSError):
            if self._bar is not None:
                self._bar.write(text, file=self._out)
            else:
                print(text, file=self._out, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.close()

    def _show_bar(self, job: v1.Job) -> None:
        from tqdm import tqdm

        done, total = fraction(job)
        if self._bar is None:
            self._bar = tqdm(
                total=total or None,
                file=self._out,
                unit="rows",
                dynamic_ncols=True,
                leave=False,
                bar_format="{desc}",  # of its first line, without a description yet
            )
        self._bar.total = max(total, done, 1)
        self._bar.n = done
        text = f"{job.name}: {line(job)}"
        self._bar.bar_format = bar_format(text, os.get_terminal_size(self._out.fileno()).columns)
        self._bar.set_description_str(text, refresh=False)
        self._bar.refresh()


def bar_format(text: str, columns: int) -> str:
    """tqdm's format for a line of `columns`: numbers come first, the bar takes what they leave."""
    width = min(BAR_WIDTH_MAX, columns - 1 - len("100%|| ") - len(text))
    return f"{{percentage:3.0f}}%|{{bar:{width}}}| {{desc}}" if width >= BAR_WIDTH_MIN else "{percentage:3.0f}% {desc}"


def rows_done(job: v1.Job) -> int:
    """Rows committed and on their way; a range of bytes that can't be read is no row of the total."""
    done = job.rows_out + job.rows_filtered + job.rows_rejected + job.rows_live
    return done + (job.rows_corrupt if job.unit != "byte" else 0)


def fraction(job: v1.Job) -> tuple[int, int]:
    """Units done and to do: rows where their number is known, else bytes or files committed."""
    if job.rows_total and not job.rows_estimated:
        return min(rows_done(job), job.rows_total), job.rows_total
    return job.units_committed, job.units_total


def line(job: v1.Job) -> str:
    """Rows, rows/s and the time to go in one line."""
    total = f"/{'~' if job.rows_estimated else ''}{job.rows_total:,}" if job.rows_total else ""
    parts = [f"{rows_done(job):,}{total} rows", f"{job.rows_per_second:,.0f} rows/s"]
    if any(condition.type == "Suspended" and condition.status for condition in job.conditions):
        parts.append(f"suspended until `headrace resume {job.name}`")
    parts += [f"waiting: {x.message}" for x in job.conditions if x.type == "Stalled" and x.status and x.message]
    if job.phase == "Running":
        parts.append(f"{eta(job.eta_low_s, job.eta_high_s)} to go")
    parts.append(f"{duration(job.elapsed_s)} so far")
    if job.rows_rejected:
        parts.append(f"{job.rows_rejected:,} rejected")
    if job.rows_corrupt:
        parts.append(f"{corrupt_text(job.unit, job.rows_corrupt)} can't be read")
    return ", ".join(parts)
