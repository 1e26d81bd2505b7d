"""Whether the output may be written where the job says, in a store: what `output_check` asks of a local folder.

Whether objects may be written isn't known before one is: the claim, which is the first, tells.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.spec.sink import SinkSpec
from headrace.errors import BadJob, Fault
from headrace.publish import HIDDEN
from headrace.stores import open_store
from headrace.stores.port import OutputStore, StoreUnavailable

_FIELD = "spec.sink.uri"


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at an output has found."""

    faults: tuple[Fault, ...] = ()
    unseen: str = ""  # why nobody knows more: the store doesn't answer, which is no fault of the job


def look_into_store(sink: SinkSpec, *, must_be_empty: bool) -> Look:
    """What is wrong with an output in such a store, as far as it can be asked now."""
    try:
        store = open_store(sink.uri, storage=sink.storage.options)
        found = next(_contents(store), None)
    except BadJob as error:
        return Look(error.faults)
    except StoreUnavailable as error:
        return Look(unseen=str(error))
    except OSError as error:
        return Look((Fault(_FIELD, str(error), "a place that may be listed and written"),))
    if not must_be_empty or found is None:
        return Look()
    place = sink.uri.rstrip("/")
    expected = "an empty prefix, or mode: append or replace"
    return Look((Fault(_FIELD, f"{place} isn't empty: it has {found}", expected),))


def _contents(store: OutputStore) -> Iterator[str]:
    """Names that make an output not empty: anything a reader sees, `_SUCCESS`, and manifests."""
    for name in store.names():
        if name.startswith(f"{HIDDEN}/manifest-") or not name.startswith((f"{HIDDEN}/", ".")):
            yield name
