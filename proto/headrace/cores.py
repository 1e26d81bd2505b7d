"""How the cores of a machine are shared between workers and stages, as long as nothing is measured."""

import os


def core_share(cores: int, stages: int, workers: int) -> int:
    """Predictors of one stage of one worker: its share of the cores, at least one."""
    return max(1, cores // max(1, stages * workers))


def within(share: int, least: int, *most: int | None) -> int:
    """`share` within what the job says; `least` is kept even beyond `most`, of which None says nothing."""
    return max(1, least, min([share, *(limit for limit in most if limit is not None)]))


def machine_cores() -> int:
    """CPUs that this process may use, as its affinity says."""
    return len(os.sched_getaffinity(0))
