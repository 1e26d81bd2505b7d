"""The command `headrace chaos` and its options."""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coordinator.cli.options import (
    Number,
    again_option,
    examples,
    job_argument,
    limit_option,
    output_option,
    set_option,
    sets_of,
    state_option,
    workers_option,
)
from coordinator.cli.state import job_folder, state_folder

if TYPE_CHECKING:
    from coordinator.cli.chaos import Kind

SEEDS = 2**32
FAULTS_MAX = 100_000
TOGETHER_MAX = 20


class Kinds(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on, and only there
    """Names of faults with commas between them."""

    name = "kinds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> "tuple[Kind, ...]":
        from coordinator.cli.chaos import MEANINGS, Kind

        if isinstance(value, tuple):
            return value
        known = "".join(f"\n  {kind:<18} {meaning}" for kind, meaning in MEANINGS.items())
        if value == "?" and ctx is not None:
            click.echo(f"What can be broken:{known}")
            ctx.exit()
        names = [name.strip() for name in str(value).split(",") if name.strip()]
        if names == ["all"]:
            return tuple(Kind)
        try:
            return tuple(map(Kind, names))
        except ValueError as error:
            self.fail(f"{error}. There are:{known}", param, ctx)


@click.command(
    name="chaos",
    epilog=examples(
        "headrace chaos job.yaml --workers 2",
        "headrace chaos job.yaml --faults kill-predictor,kill-sidecar --every 1 --seed 7",
        "headrace chaos job.yaml --faults ?    lists what can be broken",
        "headrace chaos job.yaml -o json > chaos.json",
    )
    + "\n\nIt is `headrace run` with the job's real input and output; the same command continues it, as `run` does. "
    "Faults are charged to no shard.\n\nExit codes: as run; 1 also if the output is not proven.",
)
@job_argument
@click.option(
    "--faults", "kinds", type=Kinds(), default="all", show_default=True, metavar="KINDS", help="What to break."
)
@click.option(
    "--every", "every_s", type=click.FloatRange(0.0, 86400.0), metavar="S", default=2.0, show_default=True,
    help="Seconds from one recovery to the next fault, give or take a half.",
)  # fmt: skip
@click.option(
    "--pause", "pause_s", type=click.FloatRange(0.1, 3600.0), metavar="S", default=2.0, show_default=True,
    help="Longest SIGSTOP.",
)  # fmt: skip
@click.option(
    "--together", "together_max", type=Number(1, TOGETHER_MAX), metavar="N", default=1, show_default=True,
    help="Most faults at one moment.",
)  # fmt: skip
@click.option("--faults-max", type=Number(0, FAULTS_MAX), metavar="N", help="Break no more after N faults.")
@click.option("--seed", type=Number(0, SEEDS - 1), metavar="N", help="Draws the same faults again.")
@workers_option
@limit_option
@set_option
@again_option
@state_option
@output_option
def chaos(
    job: Path, kinds: "tuple[Kind, ...]", every_s: float, pause_s: float, together_max: int, faults_max: int | None,
    seed: int | None, workers: int, limit: int | None, sets: tuple[str, ...], again: bool, state: Path | None,
    output: str,
) -> int:  # fmt: skip
    """Run JOB while breaking its processes, its ledger and its disk; show how long each recovery took."""
    from coordinator.cli.chaos import ChaosOptions, Kind, run_chaos
    from coordinator.cli.plan import mistakes
    from coordinator.spec import examine_job
    from headrace.uris import is_in_store

    environ = os.environ
    loaded = examine_job(job, sets_of(sets), environ)
    folder = job_folder(state_folder(state, environ), loaded.job.metadata.name)
    if loaded.faults:
        raise mistakes(loaded, folder, limit)
    sink = loaded.job.spec.sink
    if is_in_store(sink.uri):
        kinds = tuple(kind for kind in kinds if kind is not Kind.FILL_OUTPUT_DISK)
        if not kinds:
            raise click.UsageError("fill-output-disk: the output lies on no disk.")
    arguments = [str(job), "--workers", str(workers), "--state", str(state_folder(state, environ))]
    arguments += [] if limit is None else ["--limit", str(limit)]
    arguments += [part for pair in sets for part in ("--set", pair)] + (["--again"] if again else [])
    options = ChaosOptions(
        run_arguments=arguments,
        folder=folder,
        job=loaded.job.metadata.name,
        storage=sink.storage.options,
        kinds=kinds,
        every_s=every_s,
        pause_max_s=pause_s,
        seed=secrets.randbelow(SEEDS) if seed is None else seed,
        faults_max=faults_max,
        together_max=together_max,
        output=output,
    )
    return run_chaos(options, environ)
