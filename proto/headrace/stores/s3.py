"""An output in an S3 bucket: objects below a prefix.

    PREFIX/part-*                     data: multipart uploads, completed when they are published
    PREFIX/_headrace/rejected/part-*  rejects, likewise
    PREFIX/_headrace/claim.json, manifest-NNNNNN.jsonl, PREFIX/_SUCCESS

Staging is the uploads themselves: their parts lie in the bucket and no reader sees them. So taking a commit away from
its worker means completing its uploads, or finding that they are gone. Objects are created conditionally
(If-None-Match) and never overwritten.

Not here: requests (`headrace.stores.s3_client`), uploads (`headrace.stores.s3_upload`).
"""

import contextlib
import io
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import BinaryIO, TypeVar, cast

from headrace.errors import SinkError, SinkUnavailable
from headrace.httpfile import Pacing, RangedFile
from headrace.program import StorageOptions
from headrace.publish import HIDDEN, StagingGone, parse_part_name
from headrace.stores.port import Committed, Growing, StoreUnavailable
from headrace.stores.s3_client import LISTED_MAX, BadUpload, Bucket
from headrace.stores.s3_upload import (
    PART_BYTES,
    TOKEN,
    NameTaken,
    Staging,
    abort,
    complete,
    is_completed,
    is_parked,
    parked_from,
    uploaders,
)

T = TypeVar("T")

READ_BYTES = 4 << 20
"""Of one ranged read."""
PUBLISHES_AHEAD = 32
"""Requests asked for beyond the one that is waited for."""


class S3Store:
    """One output below a prefix of a bucket."""

    staging = ""

    def __init__(
        self,
        uri: str,
        uid: str,
        storage: StorageOptions,
        pacing: Pacing | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        """Sends nothing.

        Args:
            uri: ``s3://BUCKET/PREFIX``.
            uid: the job's, whose files these are; "" to read only.
            storage: how the store is reached.
            pacing: of requests and their retries.
            part_bytes: size of a file's first parts; AWS takes 5 MiB and more.
        """
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self._prefix = f"{key.rstrip('/')}/" if key.rstrip("/") else ""
        self._uid = uid
        self._part_bytes = part_bytes
        self._bucket = Bucket(bucket, storage, pacing)

    @property
    def place(self) -> str:
        """As in the job, without a slash at the end."""
        return f"s3://{self._bucket.name}/{self._prefix}".rstrip("/")

    def place_of(self, name: str) -> str:
        """The object's URI."""
        return f"{self.place}/{name}"

    # ------------------------------------------------------------------ staged files

    def stage(self, name: str) -> Growing:
        """A new upload to the final key; it begins with the first bytes."""
        return Staging(self._bucket, self._key(name), self._part_bytes)

    def publish(self, file: Committed) -> None:
        """Completes the file's upload."""
        with _sink_errors(f"{self.place_of(file.name)} can't be published"):
            complete(self._bucket, self._key(file.name), parked_from(file.staged), file.size)

    def take(self, files: Iterable[Committed]) -> None:
        """Nothing: the uploads are completed by whoever comes first, and then are everybody's."""

    def publish_taken(self, files: Iterable[Committed]) -> None:
        """Completes the files' uploads, several at once; one that can't ever be completed is aborted for good."""
        _each(self._publish_or_abort, files)

    def publish_held(self, files: Iterable[Committed]) -> None:
        """As `publish_taken`."""
        self.publish_taken(files)

    def take_all(self) -> None:
        """Nothing, as `take`."""

    def missing(self, files: Iterable[Committed]) -> list[str]:
        """Of those whose parts the store doesn't hold, nor the whole file; several are looked for at once."""
        found: list[str] = []

        def look(file: Committed) -> None:
            parked, key = parked_from(file.staged), self._key(file.name)
            if not is_parked(self._bucket, key, parked, file.size) and not is_completed(
                self._bucket, key, parked, file.size
            ):
                found.append(file.name)

        _each(look, files)
        return found

    def staged_names(self) -> Iterator[str]:
        """Of the uploads with this job's uid."""
        for upload in self._bucket.uploads(self._prefix):
            if self._is_own(upload.key):
                yield upload.key.rpartition("/")[2]

    def drop_staged(self) -> None:
        """Aborts every upload with this job's uid, so that no worker, however late it wakes, completes one.

        And uploads of manifests: who may write here, writes none now.
        """
        manifests = self._key(f"{HIDDEN}/manifest-")
        found = list(self._bucket.uploads(self._prefix))
        own = [upload for upload in found if self._is_own(upload.key) or upload.key.startswith(manifests)]
        _each(lambda upload: abort(self._bucket, upload.key, upload.id), own)

    # ------------------------------------------------------------------ objects

    def create(self, name: str, body: bytes) -> bool:
        """One conditional request. An own object that an earlier try of it made is known by its token."""
        token = secrets.token_hex(16)
        try:
            self._bucket.call("put_object", self._key(name), Body=body, IfNoneMatch="*", Metadata={TOKEN: token})
        except FileExistsError:
            found = self._bucket.head(self._key(name))
            return found is not None and found.metadata.get(TOKEN) == token
        return True

    def create_from(self, name: str, write: Callable[[BinaryIO], object]) -> bool:
        """As `create`, or, if it is longer than a part, an upload that is completed at once on the same condition."""
        growing = Staging(self._bucket, self._key(name), self._part_bytes)
        try:
            sink = _Sink(growing)
            write(cast(BinaryIO, sink))
            body = growing.unsent()
            if body is not None:
                return self.create(name, body)
            complete(self._bucket, self._key(name), parked_from(growing.finish()), sink.tell())
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
        found = self._bucket.head(key)
        if found is None:
            raise FileNotFoundError(f"{self.place_of(name)} doesn't exist")
        fetch = partial(self._bucket.get, key, version=found.version)
        return io.BufferedReader(RangedFile(found.size, fetch), READ_BYTES)

    def size(self, name: str) -> int | None:
        """One request."""
        found = self._bucket.head(self._key(name))
        return None if found is None else found.size

    def remove(self, names: Iterable[str]) -> None:
        """Deletes LISTED_MAX objects with each request."""
        batch: list[str] = []
        for name in names:
            batch.append(self._key(name))
            if len(batch) == LISTED_MAX:
                self._bucket.delete(batch)
                batch = []
        if batch:
            self._bucket.delete(batch)

    def names(self, prefix: str = "", *, deep: bool = True) -> Iterator[str]:
        """A listing."""
        for key in self._bucket.keys(self._key(prefix), deep=deep):
            if not key.endswith("/"):  # an object that stands for a folder
                yield key.removeprefix(self._prefix)

    def around(self, name: str) -> Iterator[tuple[str, str, bytes]]:
        """Looks at every prefix above, then through everything below."""
        parts = self._prefix.rstrip("/").split("/") if self._prefix else []
        for depth in reversed(range(len(parts))):
            above = "".join(f"{part}/" for part in parts[:depth])
            body = self._bucket.read(above + name)
            if body is not None:
                yield f"s3://{self._bucket.name}/{above} above this one", self._place_of_key(above + name), body
        for key in list(self._bucket.keys(self._prefix)):
            if key.endswith(f"/{name}") and key != self._key(name):
                folder = self._place_of_key(key.removesuffix(f"/{name}"))
                yield f"{folder} below this one", self._place_of_key(key), self._bucket.read(key) or b""

    def make(self) -> None:
        """Nothing: a prefix is there when something has it."""

    def prepare(self) -> None:
        """Nothing, as `make`."""

    # ------------------------------------------------------------------ inside

    def _publish_or_abort(self, file: Committed) -> None:
        parked, key = parked_from(file.staged), self._key(file.name)
        with _sink_errors(f"{self.place_of(file.name)} can't be published"):
            try:
                complete(self._bucket, key, parked, file.size)
            except BadUpload as error:
                abort(self._bucket, key, parked.id)
                if not is_completed(self._bucket, key, parked, file.size):
                    raise StagingGone(str(error)) from error

    def _is_own(self, key: str) -> bool:
        parsed = parse_part_name(key.rpartition("/")[2])
        return parsed is not None and parsed[1] == self._uid[:8]

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _place_of_key(self, key: str) -> str:
        return f"s3://{self._bucket.name}/{key}"


class _Sink(io.RawIOBase):
    """A file object over something that grows."""

    def __init__(self, growing: Growing) -> None:
        super().__init__()
        self._growing = growing
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        view = memoryview(data).cast("B")
        self._growing.append(view)
        self._size += len(view)
        return len(view)


def _each(work: Callable[[T], None], items: Iterable[T]) -> None:
    """Does `work` for all items, several at once; the first error is raised when those under way have ended."""
    running: deque[Future[None]] = deque()
    try:
        for item in items:
            running.append(uploaders().submit(work, item))
            if len(running) > PUBLISHES_AHEAD:
                running.popleft().result()
        while running:
            running.popleft().result()
    finally:
        for future in running:
            future.cancel()
        for future in running:
            if not future.cancelled():
                future.exception()


@contextlib.contextmanager
def _sink_errors(what: str) -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise SinkUnavailable(f"{what}: {error}") from error
    except OSError as error:
        raise SinkError(f"{what}: {error}") from error
