"""Whether the output may be written where the job says, in an object store: what `output_check` asks of a folder.

Whether objects may be written isn't known before one is: the claim, which is the first, tells.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from coordinator.spec import InferenceJob
from coordinator.spec.source import StorageSpec
from headrace.errors import BadJob, Fault
from headrace.program import StorageOptions
from headrace.publish import HIDDEN
from headrace.stores import open_store
from headrace.stores.port import OutputStore, StoreUnavailable

if TYPE_CHECKING:
    from headrace.dataset import Dataset

_FIELD = "spec.sink.uri"


def storage_options(spec: StorageSpec) -> StorageOptions:
    """What workers are told of a store."""
    return StorageOptions(spec.endpoint, spec.region, spec.anonymous)


def store_faults(
    job: InferenceJob, dataset: "Dataset | None", *, must_be_empty: bool, is_source_known: bool
) -> list[Fault]:
    """What is wrong with an output in an object store; nothing where the store can't be asked now."""
    sink = job.spec.sink
    place = sink.uri.rstrip("/")
    scheme, _, rest = place.partition("://")
    if scheme == "hdfs" and not rest.partition("/")[2]:
        return [Fault(_FIELD, f"{sink.uri} names no folder", "hdfs://HOST/PATH")]
    if not rest.partition("/")[0] and scheme != "hdfs":
        return [Fault(_FIELD, f"{sink.uri} names no bucket", "s3://BUCKET/PREFIX")]
    faults = _overlap_faults(job, place, dataset) if is_source_known else []
    try:
        store = open_store(sink.uri, storage=storage_options(sink.storage))
        found = next(_contents(store), None)
    except BadJob as error:
        return [*error.faults, *faults]
    except StoreUnavailable:
        return faults  # the job waits for its store
    except OSError as error:
        return [Fault(_FIELD, str(error), "a bucket that may be listed and written"), *faults]
    if must_be_empty and found is not None:
        expected = "an empty prefix, or mode: append or replace"
        faults.append(Fault(_FIELD, f"{place} isn't empty: it has {found}", expected))
    return faults


def _contents(store: OutputStore) -> Iterator[str]:
    """Names that make an output not empty: anything a reader sees, `_SUCCESS`, and manifests."""
    for name in store.names():
        if name.startswith(f"{HIDDEN}/manifest-") or not name.startswith((f"{HIDDEN}/", ".")):
            yield name


def _overlap_faults(job: InferenceJob, sink: str, dataset: "Dataset | None") -> list[Fault]:
    from coordinator.datasets.globs import is_glob, split_glob

    for path in dataset.paths if dataset else ():
        if path.startswith(f"{sink}/"):
            return [Fault(_FIELD, f"the source's file {path} lies in the output {sink}", "a prefix of its own")]
    for uri in job.spec.source.uri:
        if is_glob(uri):
            folder, patterns = split_glob(uri)
            # `*.parquet` beside the output's prefix lists no file in it; `**` does.
            is_read = f"{sink}/".startswith(f"{folder}/") and (len(patterns) > 1 or folder == sink)
        else:
            is_read = f"{sink}/".startswith(f"{uri.rstrip('/')}/")
        if is_read:
            found = f"{sink} lies in the source {uri}: the job would read its own output"
            return [Fault(_FIELD, found, "a prefix beside it")]
    return []
