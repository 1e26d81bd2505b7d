"""The commands `headrace rejects` and `headrace retry`, and their options."""

import os
from pathlib import Path

import click

from coordinator.cli.options import (
    ROWS_MAX,
    Number,
    coordinator_option,
    examples,
    job_argument,
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
from coordinator.cli.state import state_folder
from headrace.words import ExitCode


class ExportPath(click.Path):
    """A file whose name says in which form it is to be written."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from coordinator.cli.rejects_export import SUFFIXES

        path = Path(str(value))
        if path.suffix not in SUFFIXES:
            self.fail(f"{path.name!r} ends in none of {', '.join(SUFFIXES)}.", param, ctx)
        return path


@click.command(
    epilog=examples(
        "headrace rejects out/",
        "headrace rejects digits    of a job that runs, or has run on this machine",
        "headrace rejects out/ --limit 100 -o json",
        "headrace rejects out/ --export rejects.csv",
    )
    + "\n\nWhat was rejected can be run again with `headrace retry --rejected`.",
)
@click.argument("target", metavar="JOB|OUTPUT")
@click.option(
    "--limit", type=Number(0, ROWS_MAX), metavar="ROWS", default=20, show_default=True, help="Show so many rows."
)
@click.option(
    "--export",
    "export_path",
    type=ExportPath(),
    metavar="FILE",
    help="Write all rows to a new .parquet, .csv or .jsonl.",
)
@store_options
@coordinator_option
@token_option
@state_option
@output_option
def rejects(
    target: str, limit: int, export_path: Path | None, endpoint: str, region: str, anonymous: bool,
    address: str | None, token_file: Path | None, state: Path | None, output: str,
) -> int:  # fmt: skip
    """Show which rows were rejected and why: grouped by reason, then one by one."""
    from coordinator.cli.rejects import batches_of, describe, find, lines
    from coordinator.cli.show import show
    from headrace.program import StorageOptions

    found = find(target, where_of(address, token_file, state, os.environ), StorageOptions(endpoint, region, anonymous))
    if export_path is None:
        show(describe(found, limit), output, lines)
        return ExitCode.DONE
    from coordinator.cli.rejects_export import export

    rows = export(lambda: batches_of(found), export_path)
    plain = {"output": found.output, "rows": rows, "export": str(export_path)}
    show(plain, output, lambda _: [f"{rows:,} rejected rows are written to {export_path}"])
    return ExitCode.DONE


@click.command(
    epilog=examples(
        "headrace retry --rejected job.yaml",
        "headrace retry --rejected job-with-another-model.yaml",
    )
    + "\n\nThe job file says what they are run with: the same model, or another one with the same output columns. Rows "
    "that were kept (errors.onReject: keep) are taken from the rejects, not from the input, which may have changed "
    "since. What comes out is added to the output, what is rejected again stays rejected; readers see it all at once, "
    "at the end. The same command again continues an interrupted retry.\n\n"
    "Exit codes: 0 complete, also with rows that are still rejected; otherwise as run.",
)
@job_argument
@click.option("--rejected", is_flag=True, required=True, help="Run the rejected rows of the job's output.")
@workers_option
@set_option
@click.option("--again", is_flag=True, help="Drop an interrupted retry and begin a new one.")
@verbose_option
@state_option
@output_option
def retry(
    job: Path, rejected: bool, workers: int, sets: tuple[str, ...], again: bool, verbose: bool,
    state: Path | None, output: str,
) -> int:  # fmt: skip
    """Run the rejected rows of JOB's output again and merge what comes out."""
    from coordinator.cli.retry import retry_rejected
    from coordinator.cli.run import RunOptions

    if not rejected:
        raise click.UsageError("Say what to retry: --rejected.")
    options = RunOptions(
        path=job,
        state=state_folder(state, os.environ),
        workers=workers,
        again=again,
        sets=sets_of(sets),
        verbose=verbose,
        output=output,
        rejected=True,
    )
    return retry_rejected(options, os.environ)
