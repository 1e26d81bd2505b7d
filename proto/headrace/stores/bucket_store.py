"""An output in an object store: objects below a prefix, created conditionally and never overwritten.

    PREFIX/part-*                     data
    PREFIX/_headrace/rejected/part-*  rejects
    PREFIX/_headrace/claim.json, manifest-NNNNNN.jsonl, PREFIX/_SUCCESS

What all such stores share; how a file is staged and becomes its object each says itself (`headrace.stores.s3`, `.gcs`,
`.azure`). There is no folder to rename: taking a commit away from its worker means publishing what it staged, or
finding that it is gone.

An object is known for one's own by a random token in its metadata: also when the answer to its making was lost.
"""

import io
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Protocol, cast

from headrace.errors import SinkError
from headrace.httpfile import RangedFile
from headrace.stores.port import Committed, Growing
from headrace.stores.writing import READ_BYTES, GrowingSink, each, sink_errors

PART_BYTES = 8 << 20
"""Of a file's first parts. Files up to this are one part."""
DELETED_MAX = 1000
"""Objects that are deleted together."""
TOKEN = "headrace-upload"
"""Name in an object's metadata."""


class NameTaken(SinkError):
    """The object that an upload should become is another one's."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a store says of one object."""

    size: int
    version: str
    token: str  # of whoever made it; "": somebody else


class Objects(Protocol):
    """The objects of one bucket. Thread-safe.

    Failures are OSErrors: FileNotFoundError, FileExistsError (the name is taken), PermissionError, `StoreUnavailable`.
    """

    @property
    def place(self) -> str:
        """The bucket's URI."""

    def head(self, key: str) -> Head | None:
        """What is known of an object, None where there is none."""

    def get(self, key: str, begin: int, end: int, version: str) -> bytes:
        """Bytes ``[begin, end)`` of an object of that version."""

    def put(self, key: str, body: bytes, token: str) -> None:
        """Creates an object with a token; FileExistsError: there is one, maybe this, when an answer was lost."""

    def keys(self, prefix: str, *, deep: bool = True) -> Iterator[str]:
        """Keys that begin with `prefix`; not `deep`: without those that have a further ``/``."""

    def delete(self, keys: list[str]) -> None:
        """Deletes up to DELETED_MAX objects; those that are gone already are fine."""


class Buffered(Growing, Protocol):
    """A growing file that tells whether anything of it has left this process."""

    def unsent(self) -> bytes | None:
        """All bytes, if none of them has been sent."""


class BucketStore(ABC):
    """One output below a prefix of a bucket (`headrace.stores.port.OutputStore`)."""

    staging = ""

    def __init__(self, objects: Objects, prefix: str, uid: str) -> None:
        """Sends nothing.

        Args:
            prefix: below which the output lies.
            uid: the job's, whose files these are; "" to read only.
        """
        self._objects = objects
        self._prefix = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        self._uid = uid

    # ------------------------------------------------------------------ what each store says itself

    @abstractmethod
    def _growing(self, name: str) -> Buffered:
        """A new file that will be `name`."""

    @abstractmethod
    def _complete(self, name: str, staged: str, size: int) -> None:
        """Makes what is staged the object `name`; again, or after another party did, changes nothing.

        Raises:
            StagingGone: it isn't staged and isn't published.
            NameTaken: the object is another one's.
            OSError: the store fails or refuses.
        """

    @abstractmethod
    def _is_there(self, name: str, staged: str, size: int) -> bool:
        """Whether the store holds the file whole, staged or published."""

    @abstractmethod
    def staged_names(self) -> Iterator[str]:
        """As the port."""

    @abstractmethod
    def drop_staged(self) -> None:
        """As the port."""

    def drop_leavings(self) -> None:
        """As `drop_staged`."""
        self.drop_staged()

    # ------------------------------------------------------------------ staged files

    @property
    def place(self) -> str:
        """As in the job, without a slash at the end."""
        return f"{self._objects.place}/{self._prefix}".rstrip("/")

    def place_of(self, name: str) -> str:
        """The object's URI."""
        return f"{self.place}/{name}"

    def stage(self, name: str) -> Growing:
        """A new file that will be `name`; it begins with the first bytes."""
        return self._growing(name)

    def publish(self, file: Committed) -> None:
        """Makes it the object."""
        with sink_errors(f"{self.place_of(file.name)} can't be published"):
            self._complete(file.name, file.staged, file.size)

    def take(self, files: Iterable[Committed]) -> None:  # noqa: B027
        """Nothing: whoever comes first publishes, and then the files are everybody's."""

    def publish_taken(self, files: Iterable[Committed]) -> None:
        """As `publish`, several at once."""
        each(self.publish, files)

    def publish_held(self, files: Iterable[Committed]) -> None:
        """As `publish_taken`."""
        self.publish_taken(files)

    def take_all(self) -> None:  # noqa: B027
        """Nothing, as `take`."""

    def missing(self, files: Iterable[Committed]) -> list[str]:
        """Of those that the store doesn't hold, staged or published; several are looked for at once."""
        found: list[str] = []

        def look(file: Committed) -> None:
            if not self._is_there(file.name, file.staged, file.size):
                found.append(file.name)

        each(look, files)
        return found

    # ------------------------------------------------------------------ objects

    def create(self, name: str, body: bytes) -> bool:
        """One conditional request. An own object that an earlier try of it made is known by its token."""
        token = secrets.token_hex(16)
        try:
            self._objects.put(self._key(name), body, token)
        except FileExistsError:
            found = self._objects.head(self._key(name))
            return found is not None and found.token == token
        return True

    def create_from(self, name: str, write: Callable[[BinaryIO], object]) -> bool:
        """As `create`, or, if it is longer than a part, a staged file that is published at once."""
        growing = self._growing(name)
        try:
            sink = GrowingSink(growing)
            write(cast(BinaryIO, sink))
            body = growing.unsent()
            if body is not None:
                return self.create(name, body)
            self._complete(name, growing.finish(), sink.tell())
        except NameTaken:
            growing.discard()
            return False
        except BaseException:
            growing.discard()
            raise
        return True

    def open(self, name: str) -> BinaryIO:
        """The object, read in ranges."""
        key = self._key(name)
        head = self._objects.head(key)
        if head is None:
            raise FileNotFoundError(f"{self._place_of_key(key)} doesn't exist")
        fetch = partial(self._objects.get, key, version=head.version)
        return io.BufferedReader(RangedFile(head.size, fetch), READ_BYTES)

    def size(self, name: str) -> int | None:
        """One request."""
        found = self._objects.head(self._key(name))
        return None if found is None else found.size

    def remove(self, names: Iterable[str]) -> None:
        """Deletes DELETED_MAX objects at a time."""
        batch: list[str] = []
        for name in names:
            batch.append(self._key(name))
            if len(batch) == DELETED_MAX:
                self._objects.delete(batch)
                batch = []
        if batch:
            self._objects.delete(batch)

    def names(self, prefix: str = "", *, deep: bool = True) -> Iterator[str]:
        """A listing."""
        for key in self._objects.keys(self._key(prefix), deep=deep):
            if not key.endswith("/"):  # an object that stands for a folder
                yield key.removeprefix(self._prefix)

    def around(self, name: str) -> Iterator[tuple[str, str, bytes]]:
        """Looks at every prefix above, then through everything below."""
        parts = self._prefix.rstrip("/").split("/") if self._prefix else []
        for depth in reversed(range(len(parts))):
            above = "".join(f"{part}/" for part in parts[:depth])
            body = self._read(above + name)
            if body is not None:
                yield f"{self._place_of_key(above)} above this one", self._place_of_key(above + name), body
        for key in list(self._objects.keys(self._prefix)):
            if key.endswith(f"/{name}") and key != self._key(name):
                folder = self._place_of_key(key.removesuffix(f"/{name}"))
                yield f"{folder} below this one", self._place_of_key(key), self._read(key) or b""

    def make(self) -> None:  # noqa: B027
        """Nothing: a prefix is there when something has it."""

    def prepare(self) -> None:  # noqa: B027
        """Nothing, as `make`."""

    # ------------------------------------------------------------------ inside

    def _is_completed(self, name: str, token: str, size: int) -> bool:
        return is_made(self._objects, self._key(name), token, size)

    def _read(self, key: str) -> bytes | None:
        """A whole small object, None where there is none."""
        found = self._objects.head(key)
        return None if found is None else self._objects.get(key, 0, found.size, found.version)

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _place_of_key(self, key: str) -> str:
        return f"{self._objects.place}/{key}"


def is_made(objects: Objects, key: str, token: str, size: int) -> bool:
    """Whether an object is there and has that token.

    Raises:
        NameTaken: it is another one's.
    """
    found = objects.head(key)
    if found is None:
        return False
    if (found.size, found.token) != (size, token):
        raise NameTaken(f"{objects.place}/{key} exists with other content; it is not overwritten.")
    return True
