"""How long a run takes to recover: 30 faults of each kind, median and p99; and W2 under a kill every second.

    python benchmarks/recovery.py [--times 30] [--kinds predictor,...] [--w2] [--plot FILE]

Four kinds, each measured at the place where it matters, by processes that note the time themselves:

* predictor: `kill -9` of a predictor → the next result of a predictor that took its place. The stage notes the instant
  of every result and its process id; the model's own load is the import of numpy.
* sidecar SIGTERM: the signal → another worker, which had nothing to lease, is given what the first handed back.
* sidecar kill: `kill -9` of one of two workers of `headrace run` → the worker, started again, is given a lease. Of a
  worker by hand, which nobody starts again, the leases expire after 8 s (tests/integration/test_workers_by_hand.py).
* coordinator: `kill -9` of the coordinator of `headrace run`, with a worker that has nothing to do → its next lease.
  Also by hand, from the coordinator's `ready` on.

Leases are seen by asking the coordinator every 10 ms, which is what the times are good for. `--w2` runs W2 in turn with
and without a `kill -9` of one predictor every second and compares rows per second.
"""

import argparse
import json
import math
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from recovery_site import RecoverySite

KINDS = ("predictor", "sidecar-sigterm", "sidecar-kill", "coordinator", "coordinator-by-hand")
TARGETS_S = {
    "predictor": 1.0,
    "sidecar-sigterm": 1.0,
    "sidecar-kill": 2.0,
    "coordinator": 2.0,
    "coordinator-by-hand": 2.0,
}
SPACING_S = 6.5
"""Between kills of one child of `headrace run`, which gives up after ten in a minute."""
W2_ROUNDS = 3
W2_REPEAT = 4  # copies of W2's rows: a run must be long beside its start


def predictor(site: RecoverySite, times: int) -> list[float]:
    """Seconds from the kill to the first result of a new process."""
    site.start_run(pause_s=0.01)
    found: list[float] = []
    while len(found) < times:
        site.wait_results()
        victim = site.results()[-1][1]
        known = {pid for _, pid in site.results()}
        at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        found.append(site.wait_result_of_new(known) - at)
    site.end_run()
    return found


def sidecar_sigterm(site: RecoverySite, times: int) -> list[float]:
    """Seconds from the signal until an idle worker has what was handed back."""
    site.start_coordinator()
    site.submit(workers_max=1)
    found: list[float] = []
    site.start_worker("w0")
    for number in range(times):
        old, new = f"w{number}", f"w{number + 1}"
        site.wait_leases(old)
        site.start_worker(new)
        site.wait_worker(new)
        at = time.monotonic()
        site.workers[old].terminate()
        site.wait_leases(new)
        found.append(time.monotonic() - at)
        site.workers[old].kill()  # it would finish what it has read, which is another matter
    return found


def sidecar_kill(site: RecoverySite, times: int) -> list[float]:
    """Seconds from the kill until the worker, started again, has a lease."""
    return _killed(site, times, lambda: site.the_child("sidecar"), lambda: site.sight()[1])


def coordinator(site: RecoverySite, times: int) -> list[float]:
    """Seconds from the kill until a worker has its first lease of the next coordinator."""
    return _killed(site, times, lambda: site.the_child("coordinator"), lambda: site.sight()[0])


def _killed(site: RecoverySite, times: int, victim: Callable[[], int], name: Callable[[], str]) -> list[float]:
    site.start_run(pause_s=0.05)
    found: list[float] = []
    for _ in range(times):
        site.wait_leases("worker-0")
        before, pid = name(), victim()
        at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        site.wait(lambda before=before: name() not in ("", before) and site.leases("worker-0"), "a lease")
        found.append(time.monotonic() - at)
        time.sleep(max(0.0, SPACING_S - (time.monotonic() - at)))
    site.end_run()
    return found


def coordinator_by_hand(site: RecoverySite, times: int) -> list[float]:
    """Seconds from the coordinator's `ready` until its worker has its first lease; it was away for half a second."""
    site.start_coordinator()
    site.submit()
    site.start_worker("w0")
    found: list[float] = []
    for _ in range(times):
        site.wait_leases("w0")
        before = site.sight()[0]
        site.kill_coordinator()
        time.sleep(0.5)
        site.start_coordinator()
        at = time.monotonic()
        site.wait(lambda before=before: site.sight()[0] not in ("", before) and site.leases("w0"), "a lease")
        found.append(time.monotonic() - at)
    return found


# ---------------------------------------------------------------------- W2 under kills


def w2() -> dict[str, float]:
    """Rows per second of W2 with and without a kill every second, in turn; medians, and the loss of each round."""
    from recovery_site import W2Site

    plain, killed, kills = [], [], 0
    with tempfile.TemporaryDirectory(prefix="headrace-w2-") as name:
        site = W2Site(Path(name), W2_REPEAT)
        for _ in range(W2_ROUNDS):
            plain.append(site.run(kill_every_s=None)[0])
            rate, count = site.run(kill_every_s=1.0)
            killed.append(rate)
            kills += count
    losses = [1 - with_kills / without for without, with_kills in zip(plain, killed, strict=True)]
    return {
        "rows_per_s": statistics.median(plain),
        "rows_per_s_killed": statistics.median(killed),
        "loss": statistics.median(losses),
        "loss_min": min(losses),
        "loss_max": max(losses),
        "kills": kills,
    }


def plot(times: dict[str, list[float]], path: Path) -> None:
    """Every recovery as a point, by kind."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), constrained_layout=True)
    for row, (kind, seconds) in enumerate(times.items()):
        axes.scatter(seconds, [row] * len(seconds), alpha=0.4, s=14)
        axes.plot([TARGETS_S[kind]] * 2, [row - 0.3, row + 0.3], color="grey")
    axes.set_yticks(range(len(times)), list(times))
    axes.set(xlabel="seconds to recover; the bar is the target", xscale="log")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures each kind in turn; one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=30, help="faults of each kind (default: %(default)s)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: %(default)s")
    parser.add_argument("--w2", action="store_true", help="also W2 under a kill every second")
    parser.add_argument("--plot", type=Path, help="write a picture there")
    options = parser.parse_args()
    measures = {
        "predictor": predictor,
        "sidecar-sigterm": sidecar_sigterm,
        "sidecar-kill": sidecar_kill,
        "coordinator": coordinator,
        "coordinator-by-hand": coordinator_by_hand,
    }
    times: dict[str, list[float]] = {}
    for kind in filter(None, options.kinds.split(",")):
        with tempfile.TemporaryDirectory(prefix="headrace-recovery-") as name:
            site = RecoverySite(Path(name))
            try:
                found = sorted(measures[kind](site, options.times))
            finally:
                site.end_all()
        times[kind] = found
        p99 = found[math.ceil(0.99 * len(found)) - 1]
        row = {
            "kind": kind,
            "times": len(found),
            "median_s": round(statistics.median(found), 3),
            "p99_s": round(p99, 3),
        }
        print(json.dumps(row), flush=True)
    if options.w2:
        print(json.dumps({key: round(value, 3) for key, value in w2().items()}), flush=True)
    if options.plot and times:
        plot(times, options.plot)


if __name__ == "__main__":
    main()
