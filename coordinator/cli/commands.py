"""The commands and their options."""

import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.state import state_folder
from headrace import collector
from headrace.errors import BadJob, ConfigError, HeadraceError
from headrace.words import ExitCode

if TYPE_CHECKING:
    from coordinator.cli.control import Where

EXAMPLES = """
\b
Examples:
  headrace run job.yaml                       run a job here, to the end
  headrace run job.yaml --limit 1000          try it on the first 1,000 rows
  headrace plan job.yaml                      find every mistake without running
  headrace status --watch                     how far are the jobs of this machine?
  headrace verify out/                        prove that every row is there exactly once
"""

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="Form of the answer.",
)
state_option = click.option(
    "--state", type=click.Path(path_type=Path), help="State folder (default: headrace under the XDG state folder)."
)
coordinator_option = click.option(
    "--coordinator", "address", metavar="URL", help="unix:PATH or HOST:PORT (default: the jobs run on this machine)."
)
token_option = click.option("--token-file", type=click.Path(path_type=Path), help="File with the token for HOST:PORT.")
job_argument = click.argument("job", type=click.Path(path_type=Path, dir_okay=False))
set_option = click.option(
    "--set", "sets", multiple=True, metavar="NAME=VALUE", help="Value for ${NAME} in the job file."
)
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), metavar="ROWS", help="Take the first ROWS rows only."
)


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace", prog_name="headrace")
def cli() -> None:
    """Offline batch inference: every row predicted exactly once, whatever dies on the way."""


def main() -> None:
    """Entry point of `headrace`: turns errors into text on stderr and the right exit code."""
    collector.rest()  # for the imports; commands that stay resume it
    from coordinator.cli.run import Interrupted

    try:
        code = cli(standalone_mode=False)
    except BadJob as error:
        count = len(error.faults)
        print(f"The job can't run: {count} {'mistake' if count == 1 else 'mistakes'}.", file=sys.stderr)
        for fault in error.faults:
            print(f"  {fault}", file=sys.stderr)
        code = ExitCode.BAD_JOB
    except Interrupted as error:
        print(error, file=sys.stderr)
        code = 128 + error.number
    except ConfigError as error:
        print(f"headrace: {error}", file=sys.stderr)
        code = ExitCode.BAD_CONFIG
    except HeadraceError as error:
        print(f"headrace: {error}", file=sys.stderr)
        code = ExitCode.FAILED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing more to say
        code = ExitCode.FAILED
    sys.exit(code if isinstance(code, int) else ExitCode.DONE)


@cli.command(
    epilog="""
\b
Examples:
  headrace run job.yaml
  headrace run job.yaml --workers 2 --limit 10000
  headrace run job.yaml --set DAY=2026-11-21 -o json > result.json

The same command again continues an interrupted job, and answers "complete" for one that is done; --again starts anew.
Exit codes: 0 complete, 1 failed, 2 usage, 42 the job file is wrong, 130 or 143 interrupted and continuable.
"""
)
@job_argument
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Worker process groups.")
@limit_option
@set_option
@click.option(
    "--predictors-max", type=click.IntRange(min=1), help="At most this many predictors for each stage of a worker."
)
@click.option("--again", is_flag=True, help="Start anew, also if the job is complete or half done.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the processes log.")
@state_option
@output_option
def run(
    job: Path, workers: int, limit: int | None, sets: tuple[str, ...], predictors_max: int | None, again: bool,
    verbose: bool, state: Path | None, output: str,
) -> int:  # fmt: skip
    """Run JOB (a YAML file) on this machine, to the end."""
    from coordinator.cli.run import RunOptions, run_job

    options = RunOptions(
        path=job,
        state=state_folder(state, os.environ),
        workers=workers,
        limit_rows=limit,
        again=again,
        sets=_sets(sets),
        predictors_max=predictors_max,
        verbose=verbose,
        output=output,
    )
    return run_job(options, os.environ)


@cli.command()
@job_argument
@limit_option
@set_option
@output_option
def plan(job: Path, limit: int | None, sets: tuple[str, ...], output: str) -> None:
    """Check JOB and show its plan, without running it or touching anything."""
    from coordinator.cli.plan import make_plan, plan_lines

    made = make_plan(job, _sets(sets), os.environ, limit)
    _show(made, output, plan_lines)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of the job file, for editors."""
    from coordinator.spec import job_schema

    print(json.dumps(job_schema(), indent=2))


@cli.command()
@click.argument("folder", metavar="OUTPUT", type=click.Path(path_type=Path))
@output_option
def verify(folder: Path, output: str) -> int:
    """Prove that OUTPUT holds every row of its input exactly once."""
    from coordinator.cli.verdict import report_lines
    from coordinator.verify import verify as verify_output

    report = verify_output(folder)
    _show(report.to_plain(), output, report_lines)
    return ExitCode.DONE if report.is_proven else ExitCode.FAILED


@cli.command()
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

    where = _where(address, token_file, state)
    if watch:
        return _await(watch_job(where, name, output))
    return _await(show_status(where, name, output))


@cli.command(name="list")
@coordinator_option
@token_option
@state_option
@output_option
def list_jobs(address: str | None, token_file: Path | None, state: Path | None, output: str) -> int:
    """List the jobs that run on this machine."""
    from coordinator.cli.control import show_status

    return _await(show_status(_where(address, token_file, state), None, output))


def _control(name: str, help_text: str) -> None:
    @cli.command(name=name, help=help_text)
    @click.argument("job_name", metavar="NAME")
    @coordinator_option
    @token_option
    @state_option
    @output_option
    def command(job_name: str, address: str | None, token_file: Path | None, state: Path | None, output: str) -> int:
        from coordinator.cli.control import change_job

        return _await(change_job(_where(address, token_file, state), job_name, name, output))


_control("cancel", "End a job; what is committed stays, nothing more is added.")
_control("suspend", "Stop a job for a while: workers finish what they have read and hand the rest back.")
_control("resume", "Go on with a suspended job.")


@cli.command()
@click.argument("name")
@click.argument("workers", type=click.IntRange(min=0))
@coordinator_option
@token_option
@state_option
@output_option
def scale(
    name: str, workers: int, address: str | None, token_file: Path | None, state: Path | None, output: str
) -> int:
    """Let at most WORKERS workers take part in a job."""
    from coordinator.cli.control import scale_job

    return _await(scale_job(_where(address, token_file, state), name, workers, output))


def _listing(name: str, help_text: str) -> None:
    @cli.command(name=name, help=help_text)
    @click.argument("job_name", metavar="NAME")
    @coordinator_option
    @token_option
    @state_option
    @output_option
    def command(job_name: str, address: str | None, token_file: Path | None, state: Path | None, output: str) -> int:
        from coordinator.cli.control import show_listing

        return _await(show_listing(_where(address, token_file, state), job_name, name, output))


_listing("shards", "List the shards of a running job.")
_listing("workers", "List the workers of a running job.")
_listing("rejects", "List the files that hold a running job's rejected rows.")


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def coordinator(arguments: tuple[str, ...]) -> None:
    """Run a coordinator by hand; `headrace coordinator --help` lists its options."""
    os.execv(sys.executable, [sys.executable, "-m", "coordinator", *arguments])


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """Run a worker by hand: `headrace worker --coordinator URL`; --help lists its options."""
    os.execv(sys.executable, [sys.executable, "-m", "sidecar", *arguments])


def _sets(pairs: tuple[str, ...]) -> dict[str, str]:
    sets = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--set takes NAME=VALUE, found {pair!r}.")
        sets[name] = value
    return sets


def _where(address: str | None, token_file: Path | None, state: Path | None) -> "Where":
    from coordinator.cli.control import Where
    from headrace.channel import read_token

    return Where(address, read_token(token_file) if token_file else None, state_folder(state, os.environ))


def _await(work: Coroutine[Any, Any, int]) -> int:
    import asyncio

    return asyncio.run(work)


def _show(plain: Mapping[str, Any], output: str, lines: Callable[[Mapping[str, Any]], list[str]]) -> None:
    from coordinator.cli.show import show

    show(plain, output, lines)
