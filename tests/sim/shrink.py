"""Makes the story of a broken law shorter: the fewest faults with which the same law still breaks.

Delta debugging (Zeller and Hildebrandt, 2002) over the list of faults, which are all that may be left out.

Not here: how a story is told (`story`) or run (`world`).
"""

from collections.abc import Callable

from tests.sim.story import Fault, Story
from tests.sim.world import Defect, Outcome, World

RUNS_MAX = 300
"""A few seconds."""


def shrink(story: Story, outcome: Outcome, defect: Defect) -> tuple[Story, Outcome]:
    """A story with as few faults as were found, and how it ends; `outcome` is the whole story's."""
    assert outcome.broken is not None
    law, runs, found = outcome.broken.law, 0, outcome

    def still_breaks(faults: tuple[Fault, ...]) -> bool:
        nonlocal runs, found
        runs += 1
        if runs > RUNS_MAX:
            return False
        tried = World(story.with_faults(faults), defect).run()
        if tried.broken is None or tried.broken.law != law:
            return False
        found = tried
        return True

    return story.with_faults(fewest(story.faults, still_breaks)), found


def fewest(faults: tuple[Fault, ...], still_breaks: Callable[[tuple[Fault, ...]], bool]) -> tuple[Fault, ...]:
    """A part of `faults` that breaks, and doesn't when any one more is left out (unless `still_breaks` gives up)."""
    if still_breaks(()):
        return ()
    parts = 2
    while len(faults) >= 2:
        size = -(-len(faults) // parts)
        for begin in range(0, len(faults), size):
            rest = faults[:begin] + faults[begin + size :]
            if still_breaks(rest):
                faults, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(faults))
    return faults
