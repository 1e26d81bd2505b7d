"""Planning of the input: which files there are, how long they are, and what columns they have.

Only metadata is read: listings, sizes, footers, and the head of text files for their columns' types. What is found
becomes a `headrace.dataset.Dataset`, which is journaled once and never listed again.
"""

from coordinator.datasets.plan import PlannedSource, find_source, source_program

__all__ = ["PlannedSource", "find_source", "source_program"]
