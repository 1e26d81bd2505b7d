"""What a user writes: the models of the InferenceJob, reading them, and their JSON Schema.

Start-up matters here: pydantic and PyYAML are all that may be imported, never pyarrow or numpy.
"""

from coordinator.spec.check import is_within
from coordinator.spec.graph import Use, graph_faults, running_order, sink_uses, stage_uses
from coordinator.spec.job import InferenceJob, JobSpec, Metadata, job_schema
from coordinator.spec.load import LoadedJob, examine_job, job_from_plain
from coordinator.spec.pipeline import BatchSpec, CastSpec, PredictorsSpec, StageSpec, split_reference
from coordinator.spec.policy import ErrorsSpec, RetriesSpec, WorkersSpec
from coordinator.spec.sink import ALL_COLUMNS, SinkSpec
from coordinator.spec.source import CsvSpec, SourceSpec

__all__ = [
    "ALL_COLUMNS",
    "BatchSpec",
    "CastSpec",
    "CsvSpec",
    "ErrorsSpec",
    "InferenceJob",
    "JobSpec",
    "LoadedJob",
    "Metadata",
    "PredictorsSpec",
    "RetriesSpec",
    "SinkSpec",
    "SourceSpec",
    "StageSpec",
    "Use",
    "WorkersSpec",
    "examine_job",
    "graph_faults",
    "is_within",
    "job_from_plain",
    "job_schema",
    "running_order",
    "sink_uses",
    "split_reference",
    "stage_uses",
]
