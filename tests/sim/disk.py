"""A journal on a disk that tears: what wasn't synced is lost from anywhere on when its process is killed.

    transaction = u32 length, payload, 8 bytes of its digest        payload = rows of n, chain, body

Facts are encoded and chained by the real code; the framing stands for SQLite's WAL, which drops a torn transaction as
a whole. It checkpoints a thousand times as often as the real one.

Not here: the real file (`coordinator.journal`), which has its own tests.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from coordinator.core.columns import Ints
from coordinator.core.encoding import KINDS_LASTING, decode, encode
from coordinator.core.facts import CommitDecided, Fact
from coordinator.journal import CHECKPOINT_FACTS, JournalDamaged, JournalFailed, _link

CHECKPOINT_EVERY = 60
_LENGTH = struct.Struct("<I?")
_ROW = struct.Struct("<Q16sI")
_DIGEST_BYTES = 8


@dataclass
class SimDisk:
    """The bytes of one ledger, as its coordinators leave them."""

    data: bytearray
    synced: int = 0
    is_full: bool = False

    def tear(self, random: Random) -> None:
        """The writer died: what it hadn't synced is lost from some byte on, and the last one of it may be wrong."""
        kept = random.randint(self.synced, len(self.data))
        del self.data[kept:]
        if kept > self.synced and random.random() < 0.5:
            self.data[-1] ^= 0xFF
        self.synced = len(self.data)


class Witness(Protocol):
    """Who wants to know what a ledger holds."""

    def durable(self, facts: list[tuple[int, Fact]]) -> None:
        """These numbered facts are synced, so their writer may say so; some may have been told before."""

    def replayed(self, last: int) -> None:
        """A coordinator reads the ledger, which ends at this number."""


class SimJournal:
    """What the driver uses of `coordinator.journal.Journal`."""

    def __init__(self, disk: SimDisk, step: Callable[[], None], witness: Witness) -> None:
        """`step` comes before every change of the disk and may raise."""
        self.path = Path("ledger")
        self.last = 0
        self._disk = disk
        self._step = step
        self._witness = witness
        self._chain = bytes(16)
        self._checkpoint = 0
        self._bodies: dict[int, bytes] = {}
        self._is_failed = False

    @property
    def facts_since_checkpoint(self) -> int:
        """Enough for a checkpoint after a few."""
        return CHECKPOINT_FACTS + 1 if self.last - self._checkpoint > CHECKPOINT_EVERY else 0

    def append(self, facts: Iterable[Fact]) -> int:
        """As `Journal.append`."""
        return self._write(facts, is_checkpoint=False)

    def checkpoint(self, facts: Iterable[Fact]) -> int:
        """As `Journal.checkpoint`."""
        return self._write(facts, is_checkpoint=True)

    def _write(self, facts: Iterable[Fact], *, is_checkpoint: bool) -> int:
        if self._is_failed:
            raise JournalFailed("the simulated disk has failed")
        rows, numbered = [], []
        for fact in facts:
            body = encode(fact)
            self.last += 1
            self._chain = _link(self._chain, self.last, body)
            self._bodies[self.last] = body
            rows.append(_ROW.pack(self.last, self._chain, len(body)) + body)
            numbered.append((self.last, fact))
        payload = b"".join(rows)
        self._is_failed = True  # unless it comes to its end
        self._step()
        if self._disk.is_full:
            raise JournalFailed("the simulated disk is full")
        self._disk.data += _LENGTH.pack(len(payload), is_checkpoint) + payload + _digest(payload)
        self._step()
        self._sync()
        self._is_failed = False
        self._witness.durable(numbered)
        if is_checkpoint:
            self._checkpoint = self.last
        return self.last

    def _sync(self) -> None:
        self._disk.synced = len(self._disk.data)

    def replay(self) -> Iterator[tuple[int, Fact]]:
        """As `Journal.replay`: from the last checkpoint, with what is needed from before it."""
        rows = list(self._rows())
        chain = bytes(16)
        for expected, (n, link, body) in enumerate(rows, 1):
            if n != expected or _link(chain, n, body) != link:
                raise JournalDamaged(f"fact {expected} is not what was written")
            chain = link
            self._bodies[n] = body
        self.last, self._chain = len(rows), chain
        self._witness.replayed(self.last)
        self._witness.durable([(n, decode(body)) for n, _, body in rows])
        for n, _, body in rows:
            if n > self._checkpoint or body[0] in KINDS_LASTING:
                yield n, decode(body)

    def _rows(self) -> Iterator[tuple[int, bytes, bytes]]:
        data, at = bytes(self._disk.data), 0
        while at + _LENGTH.size <= len(data):
            length, is_checkpoint = _LENGTH.unpack_from(data, at)
            begin, end = at + _LENGTH.size, at + _LENGTH.size + length
            payload = data[begin:end]
            if data[end : end + _DIGEST_BYTES] != _digest(payload):
                break
            row, n = 0, 0
            while row < length:
                n, link, size = _ROW.unpack_from(payload, row)
                row += _ROW.size + size
                yield n, link, payload[row - size : row]
            if is_checkpoint:
                self._checkpoint = n
            at = end + _DIGEST_BYTES
        del self._disk.data[at:]
        self._disk.synced = at

    def commits(self, numbers: Ints) -> Iterator[CommitDecided]:
        """As `Journal.commits`."""
        return (self.commit_at(int(n)) for n in numbers)

    def commit_at(self, number: int) -> CommitDecided:
        """As `Journal.commit_at`."""
        fact = decode(self._bodies[number])
        assert isinstance(fact, CommitDecided), fact
        return fact

    def close(self) -> None:
        """Nothing to give back."""


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest()
