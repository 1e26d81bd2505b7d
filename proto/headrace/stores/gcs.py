"""An output in a bucket of Google Cloud Storage: files are staged as pieces, and put together when they are published.

    PREFIX/_headrace/staging-UID/NAME.TOKEN.NUMBER   a piece: of a file up to 8 MiB it is the only one
                    │ compose, ifGenerationMatch=0
                    ▼
    PREFIX/NAME, with TOKEN in its metadata

The store composes up to 32 objects into a new one without moving their bytes. A file of more pieces has the first 32 of
them composed into one while it grows, and so on. A commit names its pieces with their generations: a piece that was
deleted and came back, by a request that woke late, is another one, and publishes nothing.

Pieces are deleted after the publish. What a worker leaves that dies before is deleted at the job's end.

Not here: what outputs in all object stores share (`headrace.stores.bucket_store`), requests
(`headrace.stores.gcs_client`).
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.errors import SinkError
from headrace.httpfile import Pacing
from headrace.program import StorageOptions
from headrace.publish import HIDDEN, StagingGone, staged_name
from headrace.stores.bucket_store import PART_BYTES, BucketStore
from headrace.stores.gcs_client import COMPOSED_MAX, Bucket, Piece
from headrace.stores.parts import Parts


@dataclass(frozen=True, slots=True)
class Parked:
    """A finished file that isn't published."""

    token: str
    pieces: tuple[tuple[int, str], ...]  # number and generation, in order

    def to_text(self) -> str:
        """As it stands in a commit."""
        return json.dumps([self.token, *self.pieces], separators=(",", ":"))


def parked_from(text: str) -> Parked:
    """Reads what `to_text` wrote.

    Raises:
        SinkError: it isn't that.
    """
    try:
        token, *found = json.loads(text)
        pieces = tuple((int(number), str(generation)) for number, generation in found)
    except (ValueError, TypeError) as error:
        raise SinkError(f"{text[:80]!r} says of no file where it is staged.") from error
    if not isinstance(token, str) or not token or not 0 < len(pieces) <= COMPOSED_MAX:
        raise SinkError(f"{text[:80]!r} says of no file where it is staged.")
    return Parked(token, pieces)


class Staging(Parts):
    """One file being staged. Used by one thread at a time; pieces go out in others."""

    def __init__(self, bucket: Bucket, key: str, piece_bytes: int) -> None:
        """`key` is what the keys of all pieces begin with."""
        super().__init__(piece_bytes)
        self._bucket = bucket
        self._key = key
        self._token = secrets.token_hex(16)
        self._pieces: list[tuple[int, str]] = []  # number and generation

    def finish(self) -> str:
        """Waits until the store has all pieces."""
        self._flush()
        return Parked(self._token, tuple(self._pieces)).to_text()

    def discard(self) -> None:
        """Deletes all pieces."""
        self._cancel()
        self._bucket.forget([piece_key(self._key, self._token, number) for number in range(self._number)])

    def _arrived(self, number: int, called: str) -> None:
        if len(self._pieces) == COMPOSED_MAX:
            self._compose()
        self._pieces.append((number, called))

    def _compose(self) -> None:
        """Puts the pieces so far together into one that has a number of its own."""
        pieces = pieces_of(self._key, Parked(self._token, tuple(self._pieces)))
        key = piece_key(self._key, self._token, self._number)
        try:
            generation = self._bucket.compose(key, pieces, self._token)
        except FileExistsError:
            generation = self._generation(key)
        self._pieces = [(self._number, generation)]
        self._number += 1
        self._bucket.forget([piece.key for piece in pieces])

    def _put(self, number: int, body: bytes) -> str:
        key = piece_key(self._key, self._token, number)
        try:
            return self._bucket.insert(key, body, self._token)
        except FileExistsError:
            return self._generation(key)

    def _generation(self, key: str) -> str:
        """Of a piece that an earlier try of the same request made: nobody else knows the token in its key."""
        found = self._bucket.head(key)
        if found is None:
            raise SinkError(f"{self._bucket.place}/{key} was staged and is gone.")
        return found.version


class GcsStore(BucketStore):
    """One output below a prefix of a bucket."""

    def __init__(
        self,
        uri: str,
        uid: str,
        storage: StorageOptions,
        pacing: Pacing | None = None,
        piece_bytes: int = PART_BYTES,
    ) -> None:
        """Sends nothing.

        Args:
            uri: ``gs://BUCKET/PREFIX``.
            uid: the job's, whose files these are; "" to read only.
            storage: how the store is reached.
            pacing: of requests and their retries.
            piece_bytes: size of a file's pieces.
        """
        bucket, _, prefix = uri.removeprefix("gs://").partition("/")
        self._bucket = Bucket(bucket, storage, pacing)
        self._piece_bytes = piece_bytes
        super().__init__(self._bucket, prefix, uid)

    def staged_names(self) -> Iterator[str]:
        """Of the pieces in this job's folder, each once."""
        names = {key.rpartition("/")[2].rsplit(".", 2)[0] for key in self._bucket.keys(self._staging)}
        for name in names:
            yield name.rpartition("--")[2]

    def drop_staged(self) -> None:
        """Deletes every piece in this job's folder."""
        self._bucket.delete(list(self._bucket.keys(self._staging)))

    # ------------------------------------------------------------------ inside

    @property
    def _staging(self) -> str:
        return self._key(f"{HIDDEN}/staging-{self._uid}/")

    def _pieces_key(self, name: str) -> str:
        return self._staging + staged_name(name)

    def _growing(self, name: str) -> Staging:
        return Staging(self._bucket, self._pieces_key(name), self._piece_bytes)

    def _complete(self, name: str, staged: str, size: int) -> None:
        parked = parked_from(staged)
        pieces = pieces_of(self._pieces_key(name), parked)
        try:
            self._bucket.compose(self._key(name), pieces, parked.token)
        except (FileNotFoundError, FileExistsError) as error:
            # Also when this very request was sent twice, for want of an answer. Looked at only now: pieces that are
            # gone have either become the object before or never will.
            if not self._is_completed(name, parked.token, size):
                raise StagingGone(f"{self.place_of(name)} isn't published and its pieces are gone.") from error
        self._bucket.forget([piece.key for piece in pieces])

    def _is_there(self, name: str, staged: str, size: int) -> bool:
        parked, key = parked_from(staged), self._pieces_key(name)
        found = {piece.key: piece for piece in self._bucket.pieces(f"{key}.{parked.token}.")}
        wanted = pieces_of(key, parked)
        listed = [found.get(piece.key) or self._bucket.piece(piece.key) for piece in wanted]  # a listing may lag
        held = [piece for piece in listed if piece is not None]
        are_same = [piece.generation for piece in held] == [piece.generation for piece in wanted]
        return (are_same and sum(piece.size for piece in held) == size) or self._is_completed(name, parked.token, size)


def pieces_of(key: str, parked: Parked) -> list[Piece]:
    """The pieces of a file, of which only the store knows the sizes."""
    return [Piece(piece_key(key, parked.token, number), generation, -1) for number, generation in parked.pieces]


def piece_key(key: str, token: str, number: int) -> str:
    """The key of one piece."""
    return f"{key}.{token}.{number}"
