"""Whether the output may be written where the job says, in a store: what `output_check` asks of a local folder.

Whether objects may be written isn't known before one is: the claim, which is the first, tells.
"""

from collections.abc import Iterator

from coordinator.spec.sink import SinkSpec
from headrace.errors import BadJob, Fault
from headrace.publish import HIDDEN
from headrace.stores import open_store
from headrace.stores.port import OutputStore, StoreUnavailable

_FIELD = "spec.sink.uri"


def store_faults(sink: SinkSpec, *, must_be_empty: bool) -> list[Fault]:
    """What is wrong with an output in such a store; nothing where the store can't be asked now."""
    try:
        store = open_store(sink.uri, storage=sink.storage.options)
        found = next(_contents(store), None)
    except BadJob as error:
        return list(error.faults)
    except StoreUnavailable:
        return []  # the job waits for its store
    except OSError as error:
        return [Fault(_FIELD, str(error), "a place that may be listed and written")]
    if not must_be_empty or found is None:
        return []
    place = sink.uri.rstrip("/")
    return [Fault(_FIELD, f"{place} isn't empty: it has {found}", "an empty prefix, or mode: append or replace")]


def _contents(store: OutputStore) -> Iterator[str]:
    """Names that make an output not empty: anything a reader sees, `_SUCCESS`, and manifests."""
    for name in store.names():
        if name.startswith(f"{HIDDEN}/manifest-") or not name.startswith((f"{HIDDEN}/", ".")):
            yield name
