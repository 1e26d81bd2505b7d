"""Runs many seeds: `python -m tests.sim.run --seeds 1000`, or one exactly: `--seed 7`.

The first law that breaks is told as a transcript of the shortest story in which it does. Exit code 1 then.

Not here: the tests of the simulation itself (`test_sim`).
"""

import argparse
import gc
import logging
import multiprocessing
import os
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

import structlog

from tests.sim.defects import DEFECTS
from tests.sim.shrink import shrink
from tests.sim.story import Story, tell
from tests.sim.world import Defect, Outcome, World

CHUNK = 10
CHUNK_S_MAX = 300.0
"""A process that runs a chunk for longer hangs, or is dead."""
TRANSCRIPT_MAX = 150
"""Lines before the end that are printed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (nightly: 10000)")
    parser.add_argument("--first", default="0", help="the first seed, or `random`")
    parser.add_argument("--seed", type=int, help="only this one, with its transcript")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes that run seeds")
    parser.add_argument("--defect", choices=DEFECTS, default=None, help="put in on purpose")
    given = parser.parse_args(arguments)
    defect = DEFECTS[given.defect] if given.defect else Defect()
    quiet()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)  # most of what a short world costs would be looking for garbage
    if given.seed is not None:
        return _run_one(given.seed, defect)
    first = random.SystemRandom().randrange(10**9) if given.first == "random" else int(given.first)
    return _run_all(range(first, first + given.seeds), given.jobs, defect)


def quiet() -> None:
    """Lets nothing be logged: of a world, its transcript is worth reading."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that a killed process never began


def first_broken(seeds: Iterable[int], defect: Defect) -> tuple[Story, Outcome] | None:
    """The first seed whose world breaks a law."""
    for seed in seeds:
        story = tell(seed)
        outcome = World(story, defect).run()
        if outcome.broken is not None:
            return story, outcome
    return None


def transcript(story: Story, outcome: Outcome) -> str:
    """A broken law's story for people."""
    lines = outcome.transcript[-TRANSCRIPT_MAX:]
    left_out = len(outcome.transcript) - len(lines)
    told = [str(story), "", *([f"... {left_out} lines left out ..."] if left_out else []), *lines]
    if outcome.broken is not None:
        told.append(f"t={outcome.ended_at:.3f} BROKEN: {outcome.broken}")
    return "\n".join(told)


def _run_one(seed: int, defect: Defect) -> int:
    print(f"seed {seed}", flush=True)
    outcome = World(tell(seed), defect).run()
    print(transcript(tell(seed), outcome))
    print(f"digest {outcome.digest}")
    return _tell(tell(seed), outcome, defect) if outcome.broken is not None else 0


def _run_all(seeds: range, jobs: int, defect: Defect) -> int:
    print(f"seeds {seeds.start} to {seeds.stop - 1}; run one again with --seed", flush=True)
    begun, seen, done = time.monotonic(), Counter[str](), 0
    chunks = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        results = pool.imap(partial(_run_chunk, defect=defect), chunks)
        for _ in chunks:
            broken, kinds, count = results.next(CHUNK_S_MAX)
            if broken is not None:
                pool.terminate()
                return _tell(tell(broken), World(tell(broken), defect).run(), defect)
            seen.update(kinds)
            done += count
    print(", ".join(f"{kind} {count}" for kind, count in sorted(seen.items())))
    took_s = time.monotonic() - begun
    print(f"{done} seeds, every law kept, {took_s:.0f} s, {done / took_s:.0f} seeds/s")
    return 0


def _run_chunk(seeds: range, defect: Defect) -> tuple[int | None, Counter[str], int]:
    """The first seed that breaks a law, how many worlds saw what, how many there were."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            outcome = World(tell(seed), defect).run()
        except Exception:  # noqa: BLE001  may not survive the way to the parent, who runs the seed again to see it
            return seed, seen, 0
        seen.update(outcome.seen)
        if outcome.broken is not None:
            return seed, seen, 0
    return None, seen, len(seeds)


def _tell(story: Story, outcome: Outcome, defect: Defect) -> int:
    print(f"seed {story.seed}: {outcome.broken}; making the story shorter", flush=True)
    print(transcript(*shrink(story, outcome, defect)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
