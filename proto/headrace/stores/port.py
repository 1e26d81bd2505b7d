"""What an output asks of the store that it lies in.

    worker        stage ─▶ append ... ─▶ finish ─(commit)─▶ publish
    coordinator   claim, listing, take, publish_taken, manifest, removal

Names are relative to the output, with ``/`` between folders. All of it is blocking and may be called from several
threads. Failures of the store are OSErrors, `StoreUnavailable` where another try later may succeed.

Not here: what an output consists of and in which order it comes to be (`coordinator.output`).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Protocol


class StoreUnavailable(OSError):
    """The store throttles, fails or doesn't answer, also after all tries: the platform's fault."""


class Committed(Protocol):
    """A file as it was committed."""

    @property
    def name(self) -> str:
        """Its final name."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def digest(self) -> str:
        """blake2b-128 of its bytes, hex."""

    @property
    def staged(self) -> str:
        """Where it is staged, as `Growing.finish` said."""


class Growing(Protocol):
    """A file being staged; after the first error, and when it is finished, it can only be discarded."""

    def append(self, data: memoryview) -> None:
        """Adds bytes."""

    def finish(self) -> str:
        """Makes all bytes durable, where no reader looks. Gives what the store needs to find them again."""

    def discard(self) -> None:
        """Removes what was staged, whatever state it is in, where readers notice nothing of that.

        Never fails: the job's end sweeps what it leaves.
        """


class WorkerStore(Protocol):
    """What a worker does with an output."""

    def stage(self, name: str) -> Growing:
        """A new file that will be `name`."""

    def publish(self, file: Committed) -> None:
        """Makes a staged file visible under its final name; again, or after the coordinator did, changes nothing.

        Raises:
            StagingGone: it isn't staged and isn't published.
            SinkError: the name is another file's, or the store fails.
        """


class OutputStore(WorkerStore, Protocol):
    """What the coordinator does with an output."""

    @property
    def place(self) -> str:
        """The output as its users write it."""

    @property
    def staging(self) -> str:
        """The folder that workers stage into, "" where they need none."""

    def place_of(self, name: str) -> str:
        """One of its files as users write it."""

    # ------------------------------------------------------------------ objects

    def create(self, name: str, body: bytes) -> bool:
        """Creates a whole object durably, or says that another one of this name exists."""

    def create_from(self, name: str, write: Callable[[BinaryIO], object]) -> bool:
        """As `create`, with the body that `write` writes, which may be long."""

    def open(self, name: str) -> BinaryIO:
        """An object to be read, and seeked in.

        Raises:
            FileNotFoundError: there is none.
        """

    def size(self, name: str) -> int | None:
        """Bytes of an object, None where there is none."""

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects durably, and folders that this left empty; those that are gone already are fine."""

    def names(self, prefix: str = "", *, deep: bool = True) -> Iterator[str]:
        """Names that begin with `prefix`, in any order; not `deep`: without those that have a further ``/``."""

    def around(self, name: str) -> Iterator[tuple[str, str, bytes]]:
        """Objects called `name` in outputs above and below: what that output is, the object's place, its body."""

    # ------------------------------------------------------------------ staging

    def make(self) -> None:
        """Makes the output durably, where the store knows empty ones."""

    def prepare(self) -> None:
        """Makes the places that workers stage and publish into; workers never do."""

    def take(self, files: Iterable[Committed]) -> None:
        """Takes one commit's staged files away: from here on its worker publishes only what the coordinator would."""

    def publish_taken(self, files: Iterable[Committed]) -> None:
        """Publishes files that were taken.

        Raises:
            StagingGone: one is neither staged as committed nor published.
            SinkError: a name is another file's, or the store fails.
        """

    def publish_held(self, files: Iterable[Committed]) -> None:
        """Publishes files that `take_all` took, after `missing` named none of them; raises as `publish_taken`."""

    def take_all(self) -> None:
        """Takes all that is staged: from here on no worker publishes anything. After it, `prepare` may be called."""

    def missing(self, files: Iterable[Committed]) -> list[str]:
        """Names of files that neither lie whole where `take_all` left them nor are published."""

    def staged_names(self) -> Iterator[str]:
        """Last parts of the final names of this job's files that are staged or taken."""

    def drop_staged(self) -> None:
        """Removes all that is staged for this job; what has an open upload is never published afterwards."""

    def drop_leavings(self) -> None:
        """As `drop_staged` in an output that is complete, of whose staged files nothing can be published any more.

        Readers of the output notice nothing.
        """
