"""From a checked job to the program that workers run, and everything that planning can find wrong.

Nothing here changes anything: files are looked at, user code runs only in the probe children of `coordinator.probing`.

Not here: what a job file says wrong by itself (`coordinator.spec`), listing the input (`coordinator.datasets`),
cutting it into shards (`coordinator.core.planner`).
"""

from coordinator.planning.output_check import look_at_sink, sink_faults
from coordinator.planning.probes import Probe, probes_from_json, probes_to_json
from coordinator.planning.resolve import find_faults, named_columns, resolve, source_columns
from coordinator.planning.system import check_system

__all__ = [
    "Probe",
    "check_system",
    "find_faults",
    "look_at_sink",
    "named_columns",
    "probes_from_json",
    "probes_to_json",
    "resolve",
    "sink_faults",
    "source_columns",
]
