"""Sharing of a job by a simulated fleet: virtual time, the coordinator's real decision code (`benchmarks/fleet`).

    python -m benchmarks.sharing [--workers 1,3,10,30,100,300,1000] [--seeds 5] [--minutes 30]

Workers draw their speed from a lognormal (sigma 0.5), a tenth of them runs at a fifth of it, and contention slows each
for random spans to 0.2-0.9. They read ahead in blocks that can't be split, as sidecars do, and pay for every call,
shard, file and publish. The job is as long as the fleet can do in the given time if nobody ever waits: the fluid bound.

Writes sharing.json and sharing.png beside this file, and prints a table: job time by the fluid bound (median, smallest
and largest of the seeds), its inverse (efficiency), and how much shorter the job is than with an equal part for each
worker, and than with eight equal parts per worker pulled from a queue.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.fleet.run import Fleet, Outcome

FOLDER = Path(__file__).parent
TARGET = 1.03


def spread(values: Sequence[float], form: str) -> str:
    """Median with smallest and largest: ``1.05 (0.98-1.11)``."""
    middle, low, high = (format(value, form) for value in (median(values), min(values), max(values)))
    return f"{middle} ({low}-{high})"


def row(outcomes: Sequence[Outcome]) -> str:
    """One line of the table: the seeds of one fleet size."""
    cells = (
        f"{outcomes[0].workers:,}",
        spread([o.over_fluid for o in outcomes], ".3f"),
        spread([1 / o.over_fluid for o in outcomes], ".3f"),
        spread([1 - o.job_s / o.even_s for o in outcomes], ".0%"),
        spread([1 - o.job_s / o.queue_s for o in outcomes], ".0%"),
        spread([o.tail_s for o in outcomes], ".0f"),
        f"{max(o.computed_twice for o in outcomes):.2%}",
        f"{median(o.shards for o in outcomes):,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def plot(found: Sequence[Sequence[Outcome]], path: Path) -> None:
    """Job time by the fluid bound over the size of the fleet, beside the two simple ways to share."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    workers = [outcomes[0].workers for outcomes in found]
    for name, time_of, color in (
        ("Headrace", lambda o: o.job_s, "#d1495b"),
        ("8 parts each, from a queue", lambda o: o.queue_s, "#9aa5b1"),
        ("an equal part each", lambda o: o.even_s, "#5c6b7a"),
    ):
        ratios = [[time_of(o) / o.fluid_s for o in outcomes] for outcomes in found]
        for panel in (left, right):
            panel.plot(workers, [median(each) for each in ratios], "o-", color=color, label=name, markersize=4)
            panel.fill_between(workers, [min(r) for r in ratios], [max(r) for r in ratios], color=color, alpha=0.2)
    right.axhline(TARGET, color="grey", linestyle=":", label="target")
    right.set(ylim=(1.0, 1.06), title="the same, closer")
    left.set(yscale="log", ylabel="job time by the fluid bound", title="median, smallest and largest seed")
    for panel in (left, right):
        panel.set(xscale="log", xlabel="workers")
        panel.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Runs each fleet size with each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,3,10,30,100,300,1000", help="fleet sizes (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="worlds per size (default: %(default)s)")
    parser.add_argument("--seeds-large", type=int, default=3, help="the same from 300 workers on (%(default)s)")
    parser.add_argument("--minutes", type=float, default=30.0, help="fluid bound of the job (default: %(default)s)")
    parser.add_argument("--row-bytes", type=int, default=1_000, help="what the planner is told (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="write no files")
    options = parser.parse_args()
    print("| workers | by the fluid bound | efficiency | shorter than even | than a queue | tail s | twice | shards |")
    print("|---|---|---|---|---|---|---|---|")
    found = []
    begun = time.monotonic()
    for workers in map(int, options.workers.split(",")):
        seeds = options.seeds_large if workers >= 300 else options.seeds
        outcomes = [
            Fleet(workers, seed, fluid_s=60 * options.minutes, row_bytes=options.row_bytes).run()
            for seed in range(seeds)
        ]
        found.append(outcomes)
        print(row(outcomes), flush=True)
    print(f"\n{time.monotonic() - begun:.0f} s on this machine.")
    if not options.dry:
        rows = [asdict(outcome) for outcomes in found for outcome in outcomes]
        (FOLDER / "sharing.json").write_text(json.dumps(rows, indent=1) + "\n")
        plot(found, FOLDER / "sharing.png")


if __name__ == "__main__":
    main()
