"""An output in a container of Azure Blob Storage: files are blocks, and become blobs when they are published.

    Put Block to PREFIX/NAME ...  ──(commit)──▶  Put Block List, If-None-Match: *, with a token in the blob's metadata

Blocks that no list has named lie under the final name and no reader sees them; the store forgets them after a week.
Nothing but a blob in their place discards them earlier. Only the coordinator makes such blobs, before the output's end,
so that a worker that wakes after it publishes nothing (`Blobs.drop_blocks`); one that is still there counts as absent.

Not here: what outputs in all object stores share (`headrace.stores.bucket_store`), requests
(`headrace.stores.azure_client`).
"""

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.azure_auth import split_path
from headrace.errors import SinkError
from headrace.httpfile import Pacing
from headrace.program import StorageOptions
from headrace.publish import HIDDEN, StagingGone, parse_part_name
from headrace.stores.azure_client import DROPPED, Blobs, NoSuchBlocks
from headrace.stores.bucket_store import PART_BYTES, BucketStore
from headrace.stores.parts import Parts
from headrace.stores.writing import each

BLOCKS_GROW = 5_000
"""After so many blocks their size doubles: the store takes 50,000 of them."""
BLOCKS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Parked:
    """A finished file that isn't published."""

    token: str
    count: int  # of blocks

    @property
    def blocks(self) -> list[str]:
        """Their names, all of one length, as the store wants them."""
        return [block_name(self.token, number) for number in range(self.count)]

    def to_text(self) -> str:
        """As it stands in a commit."""
        return json.dumps([self.token, self.count], separators=(",", ":"))


def parked_from(text: str) -> Parked:
    """Reads what `to_text` wrote.

    Raises:
        SinkError: it isn't that.
    """
    try:
        token, count = json.loads(text)
    except (ValueError, TypeError) as error:
        raise SinkError(f"{text[:80]!r} says of no file where it is staged.") from error
    is_right = isinstance(token, str) and token and type(count) is int and 0 < count <= BLOCKS_MAX
    if not is_right:
        raise SinkError(f"{text[:80]!r} says of no file where it is staged.")
    return Parked(token, count)


class Staging(Parts):
    """One file being staged. Used by one thread at a time; blocks go out in others."""

    def __init__(self, blobs: Blobs, key: str, block_bytes: int) -> None:
        """`key` is the final one."""
        super().__init__(block_bytes)
        self._blobs = blobs
        self._key = key
        self._token = secrets.token_hex(16)

    def finish(self) -> str:
        """Waits until the store has all blocks."""
        self._flush()
        return Parked(self._token, self._number).to_text()

    def discard(self) -> None:
        """Leaves the blocks to the job's end, else to the store: only a blob that readers see would discard them."""
        self._cancel()

    def _size_of(self, number: int) -> int:
        return self._part_bytes << (number // BLOCKS_GROW)

    def _put(self, number: int, body: bytes) -> str:
        name = block_name(self._token, number)
        self._blobs.put_block(self._key, name, body)
        return name

    def _arrived(self, number: int, called: str) -> None:
        """Nothing: names of blocks say themselves which they are."""


class AzureStore(BucketStore):
    """One output below a prefix of a container."""

    def __init__(
        self,
        uri: str,
        uid: str,
        storage: StorageOptions,
        pacing: Pacing | None = None,
        block_bytes: int = PART_BYTES,
    ) -> None:
        """Sends nothing.

        Args:
            uri: ``abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX``.
            uid: the job's, whose files these are; "" to read only.
            storage: how the store is reached.
            pacing: of requests and their retries.
            block_bytes: size of a file's first blocks.
        """
        self._blobs = Blobs(uri, storage, pacing)
        self._block_bytes = block_bytes
        super().__init__(self._blobs, split_path(uri)[1], uid)

    def staged_names(self) -> Iterator[str]:
        """Of the blocks with this job's uid."""
        for key, _ in self._blobs.waiting(self._prefix):
            if self._is_own(key):
                yield key.rpartition("/")[2]

    def drop_staged(self) -> None:
        """Discards the blocks of every file with this job's uid, and of manifests: who may write here, writes none.

        Also every blob that was to be deleted after it discarded blocks, whoever made it.
        """
        manifests = self._key(f"{HIDDEN}/manifest-")
        found = self._blobs.waiting(self._prefix)
        own = [key for key, token in found if token == DROPPED or self._is_own(key) or key.startswith(manifests)]
        each(self._blobs.drop_blocks, own)

    def drop_leavings(self) -> None:
        """Leaves blocks to the store: discarding them would show readers an empty file."""
        found = self._blobs.waiting(self._prefix)
        each(self._blobs.drop_blocks, [key for key, token in found if token == DROPPED])

    # ------------------------------------------------------------------ inside

    def _growing(self, name: str) -> Staging:
        return Staging(self._blobs, self._key(name), self._block_bytes)

    def _complete(self, name: str, staged: str, size: int) -> None:
        parked = parked_from(staged)
        try:
            self._blobs.put_blocks(self._key(name), parked.blocks, parked.token)
        except (NoSuchBlocks, FileNotFoundError, FileExistsError) as error:
            # Also when this very request was sent twice, for want of an answer. Looked at only now: blocks that are
            # gone have either become the blob before or never will.
            if not self._is_completed(name, parked.token, size):
                raise StagingGone(f"{self.place_of(name)} isn't published and its blocks are gone.") from error

    def _is_there(self, name: str, staged: str, size: int) -> bool:
        parked = parked_from(staged)
        held = dict(self._blobs.blocks(self._key(name)))
        sizes = [held.get(block, -1) for block in parked.blocks]
        is_staged = min(sizes) >= 0 and sum(sizes) == size
        return is_staged or self._is_completed(name, parked.token, size)

    def _is_own(self, key: str) -> bool:
        parsed = parse_part_name(key.rpartition("/")[2])
        return parsed is not None and parsed[1] == self._uid[:8]


def block_name(token: str, number: int) -> str:
    """What a block is called."""
    return base64.b64encode(f"{token}.{number:05}".encode()).decode()
