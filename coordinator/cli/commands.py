"""The commands and their options."""

import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import click

from coordinator.cli.chaos_command import chaos
from coordinator.cli.interrupted import Interrupted, ReaderGone
from coordinator.cli.options import (
    WORKERS_MAX,
    Commands,
    Number,
    again_option,
    checked_address,
    coordinator_option,
    examples,
    job_argument,
    limit_option,
    output_option,
    set_option,
    sets_of,
    state_option,
    store_options,
    token_option,
    verbose_option,
    where_of,
    workers_option,
)
from coordinator.cli.reject_commands import rejects, retry
from coordinator.cli.show import warn
from coordinator.cli.state import state_folder
from headrace import collector
from headrace.errors import BadJob, ConfigError, HeadraceError
from headrace.words import ExitCode


@click.group(
    cls=Commands,
    epilog="`headrace COMMAND --help` shows options and examples.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="headrace", prog_name="headrace")
def cli() -> None:
    """Offline batch inference: every row predicted exactly once, whatever dies on the way.

    \b
    Start here:
      headrace plan job.yaml                find every mistake without running
      headrace run job.yaml                 run it all; again after any stop: it goes on
      headrace status --watch               how far is it? (from another terminal)
      headrace verify out/                  prove that every row is there exactly once
    """


def main() -> None:
    """Entry point of `headrace`: turns errors into text on stderr and the right exit code."""
    collector.rest()  # for the imports; commands that stay resume it
    try:
        code = cli(standalone_mode=False)
    except BadJob as error:
        count = len(error.faults)
        warn(f"The job can't run: {count} {'mistake' if count == 1 else 'mistakes'}.")
        for fault in error.faults:
            warn(f"  {fault}")
        code = ExitCode.BAD_JOB
    except Interrupted as error:
        warn(str(error))
        code = 128 + error.number
    except ConfigError as error:
        warn(f"headrace: {error}")
        code = ExitCode.BAD_CONFIG
    except ReaderGone:
        code = 128 + signal.SIGPIPE  # the reader has gone: nothing more to say, and no verdict to mistake it for
    except HeadraceError as error:
        warn(f"headrace: {error}")
        code = ExitCode.FAILED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = ExitCode.INTERRUPTED
    sys.exit(code if isinstance(code, int) else ExitCode.DONE)


@cli.command(
    epilog="""
\b
Examples:
  headrace run job.yaml
  headrace run job.yaml --workers 2 --limit 10000
  headrace run job.yaml --set DAY=2026-11-21 -o json > result.json
  headrace run job.yaml --http 9090 & curl 127.0.0.1:9090/metrics

The same command again continues an interrupted job, and answers "complete" for one that is done; --again starts anew.
After a trial with --limit the whole job is another one: --again, and sink.mode: replace or another output folder.

Exit codes: 0 complete, 1 failed, 2 usage, 42 the job file is wrong, 130 or 143 interrupted and continuable.
"""
)
@job_argument
@workers_option
@limit_option
@set_option
@click.option(
    "--predictors-max",
    type=Number(1, WORKERS_MAX),
    metavar="N",
    help="At most this many predictors for each stage of a worker.",
)
@again_option
@verbose_option
@click.option(
    "--http",
    "http_port",
    type=Number(0, 65535),
    metavar="PORT",
    help="Serve /metrics, /livez and /readyz on 127.0.0.1:PORT while the job runs; 0 picks a free port and prints it.",
)
@click.option("--under-chaos", "is_under_chaos", is_flag=True, hidden=True)
@state_option
@output_option
def run(
    job: Path, workers: int, limit: int | None, sets: tuple[str, ...], predictors_max: int | None, again: bool,
    verbose: bool, http_port: int | None, is_under_chaos: bool, state: Path | None, output: str,
) -> int:  # fmt: skip
    """Run JOB, a YAML file, on this machine, to the end."""
    from coordinator.cli.run import RunOptions, run_job

    options = RunOptions(
        path=job,
        state=state_folder(state, os.environ),
        workers=workers,
        limit_rows=limit,
        again=again,
        sets=sets_of(sets),
        predictors_max=predictors_max,
        verbose=verbose,
        output=output,
        http_port=http_port,
        is_under_chaos=is_under_chaos,
    )
    return run_job(options, os.environ)


@cli.command(
    epilog=examples(
        "headrace coordinator --state ledger --socket ledger/socket",
        "headrace worker --coordinator unix:ledger/socket",
        "headrace submit job.yaml --coordinator unix:ledger/socket --watch",
    )
    + """

The parts of `headrace run`, started one by one: workers may come, go and be added at any time. All of them see the
files of the job under the names that this command sees.

Exit codes: 0 accepted (with --watch: complete), 1 refused or failed, 2 usage, 42 the job file is wrong.
"""
)
@job_argument
@click.option(
    "--coordinator", "address", metavar="URL", callback=checked_address, required=True, help="unix:PATH or HOST:PORT."
)
@token_option
@limit_option
@set_option
@again_option
@click.option("-w", "--watch", is_flag=True, help="Follow the job to its end.")
@output_option
def submit(
    job: Path, address: str, token_file: Path | None, limit: int | None, sets: tuple[str, ...], again: bool,
    watch: bool, output: str,
) -> int:  # fmt: skip
    """Give JOB, a YAML file, to a coordinator that was started by hand."""
    from coordinator.cli.control import job_lines, watch_job
    from coordinator.cli.submit import submit_job
    from coordinator.cli.summary import job_json

    where = where_of(address, token_file, None, os.environ)

    async def work() -> int:
        accepted = await submit_job(
            job, sets_of(sets), os.environ, address=address, token=where.token, limit_rows=limit, again=again
        )
        if watch:
            return await watch_job(where, accepted.name, output)
        _show(job_json(accepted), output, lambda _: job_lines(accepted))
        return ExitCode.DONE

    return _await(work())


@cli.command(
    epilog=examples(
        "headrace plan job.yaml",
        "headrace plan job.yaml --set DAY=2026-11-21 -o json",
    )
    + "\n\nExit codes: 0 the job can run, 2 usage, 42 it can't: all its mistakes are listed."
)
@job_argument
@limit_option
@set_option
@state_option
@output_option
def plan(job: Path, limit: int | None, sets: tuple[str, ...], state: Path | None, output: str) -> None:
    """Show what JOB would do, or every mistake in it; touches nothing."""
    from coordinator.cli.plan import make_plan, plan_lines

    _take_interrupts()
    made = make_plan(job, sets_of(sets), os.environ, limit, state_folder(state, os.environ))
    _show(made, output, plan_lines)


@cli.command(
    epilog=examples("headrace schema > headrace.schema.json")
    + "\n\nFor editors with the YAML language server, put this first in the job file:\n\n\b\n"
    "  # yaml-language-server: $schema=headrace.schema.json"
)
def schema() -> None:
    """Print the JSON Schema of the job file, for editors."""
    from coordinator.cli.show import say
    from coordinator.spec import job_schema

    say(json.dumps(job_schema(), indent=2))


@cli.command(
    epilog=examples(
        "headrace verify out/",
        "headrace verify out/ -o json",
        "headrace verify s3://bucket/out --endpoint http://127.0.0.1:9000",
    )
    + "\n\nExit codes: 0 proven, 1 not proven: what is missing, damaged or too much is listed."
)
@click.argument("place", metavar="OUTPUT")
@store_options
@output_option
def verify(place: str, endpoint: str, region: str, anonymous: bool, output: str) -> int:
    """Prove that OUTPUT holds every row of its input exactly once."""
    from coordinator.cli.verdict import report_lines
    from coordinator.verify import verify as verify_output
    from headrace.program import StorageOptions

    report = verify_output(place, StorageOptions(endpoint, region, anonymous))
    _show(report.to_plain(), output, report_lines)
    return ExitCode.DONE if report.is_proven else ExitCode.FAILED


@cli.command(
    epilog=examples(
        "headrace status              all jobs that run on this machine",
        "headrace status digits       one of them in full",
        "headrace status --watch      follow the only one to its end",
        "headrace status digits --coordinator 127.0.0.1:7070 --token-file token",
    )
)
@click.argument("name", required=False)
@click.option("-w", "--watch", is_flag=True, help="Follow the job to its end.")
@coordinator_option
@token_option
@state_option
@output_option
def status(
    name: str | None, watch: bool, address: str | None, token_file: Path | None, state: Path | None, output: str
) -> int:
    """Show a job, or all jobs that run on this machine."""
    from coordinator.cli.control import show_status, watch_job

    where = where_of(address, token_file, state, os.environ)
    if watch:
        return _await(watch_job(where, name, output))
    return _await(show_status(where, name, output))


@cli.command(name="list", epilog=examples("headrace list", "headrace list -o json"))
@coordinator_option
@token_option
@state_option
@output_option
def list_jobs(address: str | None, token_file: Path | None, state: Path | None, output: str) -> int:
    """List the jobs that run on this machine."""
    from coordinator.cli.control import show_status

    return _await(show_status(where_of(address, token_file, state, os.environ), None, output))


def _control(name: str, help_text: str) -> None:
    @cli.command(name=name, help=help_text, epilog=examples(f"headrace {name} digits"))
    @click.argument("job_name", metavar="NAME")
    @coordinator_option
    @token_option
    @state_option
    @output_option
    def command(job_name: str, address: str | None, token_file: Path | None, state: Path | None, output: str) -> int:
        from coordinator.cli.control import change_job

        return _await(change_job(where_of(address, token_file, state, os.environ), job_name, name, output))


_control("cancel", "End a job; what is committed stays, and `run` can continue it.")
_control("suspend", "Pause a job: what has been read is finished, the rest handed back.")
_control("resume", "Go on with a suspended job.")


@cli.command(
    epilog=examples(
        "headrace scale digits 1    one worker goes on, the others finish what they hold",
        "headrace scale digits 0    no limit: every worker that is there takes part",
    )
    + "\n\nIt limits who gets shards and starts no workers. To stop all work for a while, suspend the job."
)
@click.argument("name")
@click.argument("workers", type=Number(0, WORKERS_MAX))
@coordinator_option
@token_option
@state_option
@output_option
def scale(
    name: str, workers: int, address: str | None, token_file: Path | None, state: Path | None, output: str
) -> int:
    """Let at most WORKERS workers take part in a job; 0 lifts the limit."""
    from coordinator.cli.control import scale_job

    return _await(scale_job(where_of(address, token_file, state, os.environ), name, workers, output))


def _listing(name: str, help_text: str) -> None:
    @cli.command(
        name=name, help=help_text, epilog=examples(f"headrace {name} digits", f"headrace {name} digits -o json")
    )
    @click.argument("job_name", metavar="NAME")
    @coordinator_option
    @token_option
    @state_option
    @output_option
    def command(job_name: str, address: str | None, token_file: Path | None, state: Path | None, output: str) -> int:
        from coordinator.cli.control import show_listing

        return _await(show_listing(where_of(address, token_file, state, os.environ), job_name, name, output))


_listing("shards", "List a job's shards: state, range, attempts, who has it.")
_listing("workers", "List a job's workers: state, leases, rows/s.")


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def coordinator(arguments: tuple[str, ...]) -> None:
    """Run a coordinator by hand."""
    os.execv(sys.executable, [sys.executable, "-m", "coordinator", *arguments])


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """Run a worker by hand."""
    os.execv(sys.executable, [sys.executable, "-m", "sidecar", *arguments])


cli.add_command(chaos)
cli.add_command(rejects)
cli.add_command(retry)


def _take_interrupts() -> None:
    """From here on Ctrl-C raises `KeyboardInterrupt`: there is something to close."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _await(work: Coroutine[Any, Any, int]) -> int:
    import asyncio

    _take_interrupts()
    return asyncio.run(work)


def _show(plain: Mapping[str, Any], output: str, lines: Callable[[Mapping[str, Any]], list[str]]) -> None:
    from coordinator.cli.show import show

    show(plain, output, lines)
