"""Runs the systems in turn, several rounds, and writes the table and the plot of benchmarks/README.md.

    python benchmarks/run.py                     all workloads, five rounds, about half an hour
    python benchmarks/run.py w1 --quick          fewer rows, to see that everything runs
    python benchmarks/run.py w1 --systems headrace,hand --rounds 9

Machines are shared and noisy, so no figure is compared with one of another round: each round gives the ratio of
Headrace's rate to every other system's, and the table quotes the median of these ratios with the smallest and the
largest. The order turns by one in each round. Each run is followed by one of about a thousand rows, all fixed cost;
the marginal rate is that of the rows which the long run has more. Memory is sampled in a run of its own at the end.
"""

import argparse
import datetime
import json
import platform
import subprocess
from pathlib import Path

import measure
import report
import systems
import workloads
from systems import SYSTEMS, Run
from workloads import HERE, WORK, Workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="w1, w2, w4 (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer rows; the README stays as it is")
    parser.add_argument("--rounds", type=int, default=0, help="default: 5, quick: 1")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="default: %(default)s")
    parser.add_argument("--no-memory", action="store_true", help="leave the run for the memory out")
    given = parser.parse_args()
    if unknown := (set(given.workloads) - set(workloads.FULL)) | (set(given.systems.split(",")) - set(SYSTEMS)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")

    sizes = workloads.QUICK if given.quick else workloads.FULL
    rounds = given.rounds or (1 if given.quick else 5)
    results = {
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "workloads": {},
    }
    for name in given.workloads or sizes:
        workload = sizes[name]
        print(f"{name}: {workload.rows:,} rows", flush=True)
        workloads.prepare(workload)
        keys = [key for key in given.systems.split(",") if name in SYSTEMS[key].workloads]
        results["workloads"][name] = measured(
            workload, keys, rounds, with_fixed=not given.quick, with_memory=not given.no_memory
        )

    WORK.mkdir(exist_ok=True)
    latest = WORK / "results.json"
    latest.write_text(json.dumps(results, indent=1))
    print(report.table(results))
    if not given.quick:
        report.write(results, HERE)
        print(f"written: {HERE / 'README.md'}, results.json, results.png")


def measured(workload: Workload, keys: list[str], rounds: int, *, with_fixed: bool, with_memory: bool) -> dict:
    """All rounds of one workload, as report.py reads them. A system that fails is out of the workload, and said so."""
    tiny = workloads.TINY[workload.name]
    workloads.prepare(tiny)
    runs: dict[str, list[Run]] = {key: [] for key in keys}
    fixed: dict[str, list[float]] = {key: [] for key in keys}
    failed: dict[str, str] = {}
    memory: dict[str, int] = {}
    for number in range(rounds):
        turn = number % len(keys)
        for key in keys[turn:] + keys[:turn]:
            if key in failed or not (made := _run(key, workload, failed, memory=False)):
                continue
            runs[key].append(made)
            if with_fixed and SYSTEMS[key].gives_rows and (short := _run(key, tiny, failed, memory=False)):
                fixed[key].append(short.wall_s)
            print(f"  round {number + 1}  {key:9}{workload.rows / made.work_s:12,.0f} rows/s", flush=True)
    for key in keys if with_memory else ():
        if SYSTEMS[key].gives_rows and key not in failed and (made := _run(key, workload, failed, memory=True)):
            memory[key] = made.peak_bytes
            print(f"  memory   {key:9}{made.peak_bytes / 1e6:12,.0f} MB", flush=True)
    return {
        "rows": workload.rows,
        "systems": {
            key: {
                "rows_per_s": [workload.rows / run.work_s for run in made],
                "marginal_rows_per_s": [
                    (workload.rows - tiny.rows) / (run.wall_s - fixed_s)
                    for run, fixed_s in zip(made, fixed[key], strict=False)
                ],
                "fixed_s": fixed[key],
                "startup_s": [run.startup_s for run in made],
                "wall_s": [run.wall_s for run in made],
                "peak_bytes": memory.get(key),
            }
            for key, made in runs.items()
            if key not in failed
        },
        "failed": failed,
    }


def _run(key: str, workload: Workload, failed: dict[str, str], *, memory: bool) -> Run | None:
    try:
        return systems.run(key, workload, memory=memory)
    except (measure.CommandFailed, systems.WrongRows) as error:
        failed[key] = str(error)
        print(f"  {key} failed: {error}", flush=True)
        return None


def machine() -> dict[str, str]:
    """What the figures were taken on and with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = {
        "cpu": next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine()),
        "cores": str(sum(line.startswith("processor") for line in lines)),
        "python": platform.python_version(),
    }
    wanted = {"main": "headrace onnxruntime pyarrow numpy", "ray": "ray", "daft": "daft"}
    for venv, packages in wanted.items():
        python = SYSTEMS["headrace" if venv == "main" else venv].python
        script = f"from importlib.metadata import version as v; print(*(v(p) for p in {packages.split()!r}))"
        if python.exists():
            asked = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
            found |= zip(packages.split(), asked.stdout.split(), strict=True)
    return found


if __name__ == "__main__":
    main()
