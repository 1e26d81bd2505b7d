"""Python's cycle collector, kept out of the way: of starting up, and of objects that live as long as the process.

Importing makes some hundred thousand objects and no garbage, and the collector walks them again and again: a tenth of
a second of each process's start, and a twentieth of a busy sidecar's time, measured with perf.
"""

import gc

YOUNG_MAX = 20_000
"""Objects between two collections of the young; the default of 700 fits programs that make cycles all the time."""

PROMPT_MAX = 2_000
"""The same for a process that many wait for: with YOUNG_MAX, two thousand workers saw pauses of a third of a second."""


def rest() -> None:
    """Collects nothing from now on: the process starts up."""
    gc.disable()


def resume(young_max: int = YOUNG_MAX) -> None:
    """Collects again, but never walks what exists now: the process has started.

    Pauses grow with `young_max`, most of all those that walk what is left of the last twenty collections of the young.
    """
    gc.freeze()
    gc.set_threshold(young_max, 20, 50)
    gc.enable()
