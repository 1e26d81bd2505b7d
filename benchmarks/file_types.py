"""examples/file-types beside magika's own Python API, over the running Python's standard library, from the shell.

    python benchmarks/file_types.py [--rounds 3]

Both read from the page cache and end with labels on disk; magika's side is the few lines its documentation shows.
"""

import argparse
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from statistics import median

import measure
from systems import headrace_command
from workloads import HERE

EXAMPLE = HERE.parent / "examples" / "file-types"

MAGIKA = """
import json, os, sys
from magika import Magika
paths = []
for folder, names, files in os.walk(sys.argv[1], followlinks=True):
    names[:] = [name for name in names if name not in ("site-packages", "__pycache__")]
    paths += [os.path.join(folder, name) for name in files]
results = Magika().identify_paths(paths)
with open(sys.argv[2], "w") as out:
    for result in results:
        print(json.dumps([str(result.path), str(result.output.label), result.score]), file=out)
print(len(paths))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    library = sysconfig.get_path("stdlib")
    ours, theirs, files = [], [], 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as state:
            shutil.copytree(EXAMPLE, f"{state}/example", ignore=shutil.ignore_patterns("out"))
            job = Path(state) / "example" / "job.yaml"
            command = headrace_command(job, {"FILES": library}, f"{state}/state")
            ours.append(measure.run(command, os.environ, HERE, timeout_s=600, memory=False).wall_s)
            command = [sys.executable, "-c", MAGIKA, library, f"{state}/labels.jsonl"]
            done = measure.run(command, os.environ, HERE, timeout_s=600, memory=False)
            theirs.append(done.wall_s)
            files = int(done.stdout)
    print(f"{files:,} files, {rounds} rounds\n\n| | seconds | files/s |\n| --- | --- | --- |")
    print(f"| `examples/file-types/run` | {median(ours):.1f} | {files / median(ours):,.0f} |")
    print(f"| `Magika().identify_paths(paths)` in one process | {median(theirs):.1f} | {files / median(theirs):,.0f} |")
    print(f"\nfaster by {median([b / a for a, b in zip(ours, theirs, strict=True)]):.2f} (median of the rounds)")


if __name__ == "__main__":
    main()
