"""Start-up: a job of 1,000 rows from the shell to `_SUCCESS`. Target: at most 1.5 s.

python benchmarks/startup.py [--rounds 10]
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from statistics import median

import measure
import systems
import workloads
from workloads import HERE, TINY, WORK

SMALL = TINY["w1"]


def seconds(out: Path) -> float:
    """One run, in seconds on the wall clock until `_SUCCESS` was written.

    The process ends a little later; the output's reader doesn't wait for that.
    """
    shutil.rmtree(out, ignore_errors=True)
    sets = {"INPUT": str(SMALL.data), "MODEL": str(SMALL.model), "OUT": str(out)}
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as state:
        command = systems.headrace_command(HERE / "jobs" / "w1.yaml", sets, state)
        done = measure.run(command, os.environ, HERE, timeout_s=60, memory=False)
    if wrong := workloads.check(SMALL, out):
        raise systems.WrongRows(wrong)
    return (out / "_SUCCESS").stat().st_mtime - done.spawned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    workloads.prepare(SMALL)
    found = [seconds(WORK / "out" / "startup") for _ in range(rounds)]
    spread = f"{min(found):.2f}-{max(found):.2f}, {rounds} runs"
    print(f"1,000 rows, shell to _SUCCESS: median {median(found):.2f} s ({spread})")


if __name__ == "__main__":
    main()
