"""Settings of a sidecar: the only place of this package that reads the environment and the machine."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from headrace.channel import parse_address
from headrace.cores import machine_cores
from headrace.errors import ConfigError

SOFT_ARENA_BYTES = 64 << 20
"""In flight as a rule: a few batches per predictor, small enough to stay in warm pages."""
PREFAULT_BYTES = 16 << 20
"""Made resident at the start. Regions come from low addresses, so narrow rows never need more; what wide rows touch
beyond it stays warm after its first use."""


DESCRIPTION = """\
Run one worker by hand: it leases shards of a job from a coordinator, feeds them
through the job's predictors and commits their output. `headrace run` starts its
workers by itself.
"""
EXAMPLES = """\
examples:
  headrace worker --coordinator unix:/run/headrace/coordinator.sock
  headrace worker --coordinator 127.0.0.1:7070 --token-file token --worker left

SIGTERM drains it: what has been read is finished, the rest is handed back.
"""


@dataclass(frozen=True, slots=True)
class Config:
    """One sidecar's settings."""

    coordinator: str
    worker: str
    token_file: Path | None
    lifeline_fd: int | None
    socket_folder: Path | None
    job_uid: str
    cores: int
    memory_bytes: int
    verbose: bool


def read_config(argv: list[str] | None = None) -> Config:
    """Settings from the command line and the machine.

    Raises:
        ConfigError: the platform can't run a worker.
    """
    parser = argparse.ArgumentParser(
        prog="headrace worker",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--coordinator", required=True, type=_address, metavar="URL", help="unix:PATH or HOST:PORT of the coordinator"
    )
    parser.add_argument(
        "--worker", default=f"worker-{os.getpid()}", help="its stable name (default: made of its process id)"
    )
    parser.add_argument("--token-file", type=Path, help="file with the token for HOST:PORT")
    parser.add_argument("--lifeline-fd", type=int, help="read end of a pipe: its end of file ends this worker at once")
    parser.add_argument("--socket-folder", type=Path, help="where it makes its folder for sockets of predictor hosts")
    parser.add_argument("--job-uid", default="", help="work for this job only")
    parser.add_argument("--verbose", action="store_true", help="log everything to stderr")
    args = parser.parse_args(argv)
    if not hasattr(os, "memfd_create"):
        raise ConfigError("a worker needs Linux: the arena is a sealed memfd")
    return Config(
        coordinator=args.coordinator,
        worker=args.worker,
        token_file=args.token_file,
        lifeline_fd=args.lifeline_fd,
        socket_folder=args.socket_folder,
        job_uid=args.job_uid,
        cores=cores(),
        memory_bytes=memory_bytes(),
        verbose=args.verbose,
    )


def _address(text: str) -> str:
    try:
        parse_address(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def cores() -> int:
    """CPUs this process may use: its affinity, bounded by the cgroup's quota (rounded up)."""
    count = machine_cores()
    quota = _cgroup_value("cpu.max")
    if quota and quota[0] != "max":
        count = min(count, max(1, -(-int(quota[0]) // int(quota[1]))))
    return count


def memory_bytes() -> int:
    """Memory this process may use: the machine's, bounded by the cgroup's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_value("memory.max")
    return min(total, int(limit[0])) if limit and limit[0] != "max" else total


def _cgroup_value(name: str) -> list[str]:
    """Fields of a cgroup v2 file of this process's group, [] where there is none."""
    try:
        line = Path("/proc/self/cgroup").read_text().splitlines()[-1]
        return (Path("/sys/fs/cgroup") / line.split(":", 2)[2].lstrip("/") / name).read_text().split()
    except OSError:
        return []
