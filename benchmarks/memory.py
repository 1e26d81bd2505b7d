"""Memory: the peak of all processes together (summed PSS) over W1, and over ten times its rows.

Targets: at most 500 MB, and flat.

    python benchmarks/memory.py [--quick]

The larger input is W1's files under ten names each, so it takes no more room on the disk, and its ids come ten times.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import measure
import systems
import workloads
from workloads import FULL, HERE, QUICK, WORK, Workload

TIMES = 10


def tenfold(workload: Workload) -> Path:
    """A folder with TIMES hard links to each of the workload's files."""
    folder = workload.folder / "tenfold"
    folder.mkdir(exist_ok=True)
    for path in workload.paths:
        for number in range(TIMES):
            link = folder / f"{number}-{path.name}"
            if not link.exists():
                os.link(path, link)
    return folder


def peak_bytes(workload: Workload, data: Path, rows: int) -> int:
    """Peak over one run of `rows` rows.

    Raises:
        systems.WrongRows: the output has another number of rows.
    """
    import pyarrow.parquet as pq

    out = WORK / "out" / "memory"
    shutil.rmtree(out, ignore_errors=True)
    sets = {"INPUT": str(data), "MODEL": str(workload.model), "OUT": str(out)}
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as state:
        command = systems.headrace_command(HERE / "jobs" / "w1.yaml", sets, state)
        done = measure.run(command, os.environ, HERE, timeout_s=systems.TIMEOUT_S, memory=True)
    found = sum(pq.read_metadata(path).num_rows for path in out.glob("part-*.parquet"))
    shutil.rmtree(out)
    if found != rows:
        raise systems.WrongRows(f"{found} rows, expected {rows}")
    return done.peak_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="400,000 and 4,000,000 rows")
    workload = (QUICK if parser.parse_args().quick else FULL)["w1"]
    workloads.prepare(workload)
    once = peak_bytes(workload, workload.data, workload.rows)
    print(f"{workload.rows:12,} rows: {once / 1e6:6,.0f} MB", flush=True)
    ten = peak_bytes(workload, tenfold(workload), workload.rows * TIMES)
    print(f"{workload.rows * TIMES:12,} rows: {ten / 1e6:6,.0f} MB, {ten / once:.2f} times as much")


if __name__ == "__main__":
    main()
