"""What commands say, apart from running them."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from coordinator.cli.children import Child
from coordinator.cli.control import job_lines, unknown_job
from coordinator.cli.progress import bar_format, fraction, line
from coordinator.cli.summary import summary_text
from coordinator.cli.verdict import report_lines
from coordinator.cli.words import corrupt_text
from coordinator.verify import Report
from headrace import v1
from headrace.channel import parse_address
from headrace.errors import ConfigError


def test_a_job_that_waits_for_its_store_says_why() -> None:
    text = "The output s3://b/x can't be listed: connection refused; tried again in 5 s"
    job = v1.Job(name="job", phase="Running", conditions=[v1.Condition("Stalled", True, "SinkUnavailable", text)])
    assert f", waiting: {text}, " in line(job)


@pytest.mark.parametrize("columns", [10, 30, 60, 61, 80, 200])
def test_a_bar_takes_what_the_numbers_leave(columns: int) -> None:
    text = "x" * 48
    shown = bar_format(text, columns)
    if "{bar" not in shown:
        assert columns - 9 - len(text) < 4
    else:
        width = int(shown.partition("{bar:")[2].partition("}")[0])
        assert 4 <= width <= 20
        assert len("100%|| ") + width + len(text) < columns


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (["digits", "other"], "did you mean 'digits'?"),
        (["aaa", "bbb"], "known: aaa, bbb."),
        ([], "nor any other (--state or --coordinator may name another place)."),
        ([f"{i:04}" for i in range(1000)], "0019 and 980 more."),
    ],
)
def test_an_unknown_name_gets_the_nearest_right_one(known: list[str], said: str) -> None:
    assert unknown_job("digts", known).endswith(said)


@pytest.mark.parametrize(
    "address", ["", "localhost", "unix:", "unix", ":7070", "h:", "h:x", "h:0", "h:65536", "http://h:70", "h:-1", "h:٣"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="neither unix:PATH nor HOST:PORT"):
        parse_address(address)


def test_what_could_not_be_looked_at_is_not_counted() -> None:
    report = Report("out")
    report.add("NoManifest", "out doesn't exist.")
    assert report_lines(report.to_plain()) == ["out: NOT proven", "  NoManifest: out doesn't exist."]


@pytest.mark.parametrize(("unit", "done"), [("row", 80), ("file", 80), ("byte", 75)])
def test_rows_that_cannot_be_read_are_done_and_ranges_of_bytes_are_no_rows(unit: str, done: int) -> None:
    rows = {"rows_out": 40, "rows_filtered": 20, "rows_rejected": 10, "rows_corrupt": 5, "rows_live": 5}
    job = v1.Job(name="j", unit=unit, rows_total=100, **rows)
    assert fraction(job) == (done, 100)
    assert line(job).startswith(f"{done}/100 rows, ")


def test_a_condition_without_a_reason_is_one_word() -> None:
    conditions = [
        v1.Condition("Progressing", True),
        v1.Condition("Failed", True, "Cancelled", "It was cancelled."),
        v1.Condition("Stalled", False),
    ]
    assert job_lines(v1.Job(name="j", uid="u", phase="Running", conditions=conditions))[2:4] == [
        "  Progressing",
        "  Failed: Cancelled It was cancelled.",
    ]


def test_the_end_of_a_log_is_whole_lines_from_the_last_traceback_on(tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    traceback = "Traceback (most recent call last):\n  File x\nValueError: {}\n"
    log.write_text("noise " * 5000 + "\nlast line\n")
    assert ended_child(log).tail() == f"last line\nAll of it: {log}"
    log.write_text("noise\n" * 5000 + traceback.format("first") + traceback.format("second"))
    assert ended_child(log).tail() == traceback.format("second") + f"All of it: {log}"


def ended_child(log: Path) -> Child:
    """A child of which only the log is asked for."""
    return Child("worker-0", cast(asyncio.subprocess.Process, None), log)


@pytest.mark.parametrize(("before", "after"), [("default_int_handler", "SIG_DFL"), ("SIG_IGN", "SIG_IGN")])
def test_an_interrupt_while_modules_are_imported_ends_without_a_traceback(before: str, after: str) -> None:
    code = (
        f"import signal; signal.signal(signal.SIGINT, signal.{before}); import coordinator.cli; "
        f"assert signal.getsignal(signal.SIGINT) is signal.{after}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_a_summary_tells_rows_computed_from_those_of_failed_tries() -> None:
    done = v1.StageStats(stage="m", rows_in=11_999, rows_out=2_996, batches=73)
    text = summary_text(v1.Job(name="j", rows_out=2_996, rows_rejected=4, stages=[done]), 1.0, 0)
    assert "  stage   m: busy 0%, 2,996 rows in 73 batches, 9,003 rows in failed tries" in text
    done = v1.StageStats(stage="m", rows_in=3_000, rows_out=3_000, batches=3)
    text = summary_text(v1.Job(name="j", rows_out=3_000, stages=[done]), 1.0, 0)
    assert "  stage   m: busy 0%, 3,000 rows in 3 batches\n" in text


def test_a_summary_tells_lost_files_and_about_how_many_rows_they_held() -> None:
    job = v1.Job(name="j", unit="row", output="out", rows_corrupt=505, parts_lost=5, rows_lost=20_003)
    told = "  corrupt 500 rows and about 20,003 rows of 5 files can't be read; `headrace rejects out` says why"
    assert told in summary_text(job, 1.0, 0)
    assert corrupt_text("row", 5, 5, 20_003) == "about 20,003 rows of 5 files"
    assert corrupt_text("byte", 1, 1, 1) == "about 1 row of 1 range"
    assert corrupt_text("byte", 3) == "3 ranges"
