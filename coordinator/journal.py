"""The journal: facts, durable and in order, in one SQLite file of one writer.

    facts(n, body, chain)      chain = blake2b-128(chain before, n, body): each row vouches for all before it
    marks(name, value)         the journal's id; where a replay may begin

One `append` is one transaction and one fsync (WAL, synchronous=FULL): group commit is the caller's, who collects the
facts of a loop turn. A torn tail is dropped by SQLite as if it had not been written, and nothing was promised on it;
a damaged middle is refused. A replay begins at the last checkpoint, with the few older facts that it needs; rows before
it are verified when they are read, at the latest for the manifest.

The exclusive lock is `flock` on a file of its own, held for life, because SQLite's own locks come and go.

Not here: what facts mean (`coordinator.core`), when a checkpoint is due (the driver; `facts_since_checkpoint`).
"""

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from coordinator.core.columns import Ints
from coordinator.core.encoding import FACTS_VERSION, KINDS_LASTING, BadFact, decode, encode
from coordinator.core.facts import CommitDecided, Fact
from headrace.errors import HeadraceError

CHECKPOINT_FACTS: Final = 250_000
"""Facts after which a checkpoint is worth its time: a replay reads about 100,000 a second."""

_CHAIN_BYTES: Final = 16
_READ_BATCH: Final = 500  # rows of one query; SQLite takes 999 parameters everywhere
_LASTING_SQL: Final = f"substr(body, 1, 1) IN ({', '.join(f'''x'{kind:02x}' ''' for kind in KINDS_LASTING)})"
_SCHEMA: Final = f"""
CREATE TABLE facts (n INTEGER PRIMARY KEY, body BLOB NOT NULL, chain BLOB NOT NULL);
CREATE TABLE marks (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX facts_lasting ON facts (n) WHERE {_LASTING_SQL};
PRAGMA user_version = {FACTS_VERSION};
"""


class JournalFailed(HeadraceError):
    """A write failed, so that nobody knows what is durable: the process must end."""


class JournalDamaged(HeadraceError):
    """The file is not what was written."""


class JournalLocked(HeadraceError):
    """Another coordinator lives on this journal."""


class JournalTooNew(HeadraceError):
    """The file was written by a newer version of Headrace."""


class Journal:
    """An open journal. Calls must not overlap; they may come from different threads."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock_fd: int) -> None:
        """Not for callers: `Journal.open`."""
        self.path = path
        self.id = b""  # random; the first link of the chain
        self._connection = connection
        self._lock_fd: int | None = lock_fd
        self._last = 0
        self._chain = b""
        self._checkpoint = 0  # number of the last fact of the last checkpoint
        self._lasting = hashlib.blake2b(digest_size=_CHAIN_BYTES)  # over the chains of all lasting facts
        self._failure = ""  # why nothing more is written

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Opens or creates the journal and takes its lock, until `close`; `replay` it before the first `append`.

        Raises:
            JournalLocked, JournalTooNew, JournalDamaged, JournalFailed: the text names the file.
        """
        lock_fd = _take_lock(path)
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            journal = cls(path, connection, lock_fd)
            journal._prepare()
        except sqlite3.Error as e:
            _give_up(connection, lock_fd)
            raise JournalDamaged(f"{path} can't be opened as a journal: {e}") from e
        except HeadraceError:
            _give_up(connection, lock_fd)
            raise
        return journal

    def close(self) -> None:
        """Gives the lock back; no call may follow but another `close`."""
        if self._lock_fd is not None:
            _give_up(self._connection, self._lock_fd)
            self._lock_fd = None

    @property
    def last(self) -> int:
        """Number of the last durable fact, 0 if there is none; known after `replay`."""
        return self._last

    @property
    def facts_since_checkpoint(self) -> int:
        """Facts that a restart would replay one by one; see `CHECKPOINT_FACTS`."""
        return self._last - self._checkpoint

    def append(self, facts: Iterable[Fact]) -> int:
        """Makes the facts durable, all or none, and returns the number of the last one. May be a stream.

        Raises:
            JournalFailed: end the process.
        """
        return self._write(facts, is_checkpoint=False)

    def checkpoint(self, facts: Iterable[Fact]) -> int:
        """As `append`, for the `checkpoint` facts of the tables of all jobs: the next replay begins with them."""
        return self._write(facts, is_checkpoint=True)

    def replay(self) -> Iterator[tuple[int, Fact]]:
        """Facts and their numbers, in order, from which the same state follows; to be read to the end.

        Raises:
            JournalDamaged: a row is not what was written.
        """
        self._last, self._chain = 0, self.id
        self._lasting = hashlib.blake2b(digest_size=_CHAIN_BYTES)
        self._checkpoint, lasting_digest = self._checkpoint_mark()
        try:
            for n, body, chain, before in self._connection.execute(
                "SELECT a.n, a.body, a.chain, b.chain FROM facts a LEFT JOIN facts b ON b.n = a.n - 1 "
                f"WHERE a.n <= ? AND {_LASTING_SQL.replace('body', 'a.body')} ORDER BY a.n",
                (self._checkpoint,),
            ):
                self._verify(n, body, chain, before or self.id)
                self._lasting.update(chain)
                self._last, self._chain = n, chain
                yield n, self._decode(n, body)
            if self._last != self._checkpoint or (self._checkpoint and self._lasting.digest() != lasting_digest):
                raise JournalDamaged(f"{self.path}: facts before the checkpoint at {self._checkpoint} are missing")
            for n, body, chain in self._connection.execute(
                "SELECT n, body, chain FROM facts WHERE n > ? ORDER BY n", (self._checkpoint,)
            ):
                if n != self._last + 1:
                    raise JournalDamaged(f"{self.path}: fact {self._last + 1} is missing")
                self._verify(n, body, chain, self._chain)
                if body[0] in KINDS_LASTING:
                    self._lasting.update(chain)
                self._last, self._chain = n, chain
                yield n, self._decode(n, body)
        except sqlite3.Error as e:
            raise JournalDamaged(f"{self.path} can't be read after fact {self._last}: {e}") from e

    def commits(self, numbers: Ints) -> Iterator[CommitDecided]:
        """The commits with these numbers (`LeaseTable.commit_numbers`), in that order, read as a stream.

        Raises:
            JournalDamaged: a row is not what was written, or not a commit.
        """
        for i in range(0, len(numbers), _READ_BATCH):
            batch: list[int] = numbers[i : i + _READ_BATCH].tolist()
            rows = self._read(batch)
            for n in batch:
                fact = self._decode(n, rows[n]) if n in rows else None
                if not isinstance(fact, CommitDecided):
                    raise JournalDamaged(f"{self.path}: fact {n} should be a commit, found {type(fact).__name__}")
                yield fact

    def commit_at(self, number: int) -> CommitDecided:
        """The commit with this number (`LeaseTable.commit_number`)."""
        return next(self.commits(np.array([number], np.int64)))

    # ------------------------------------------------------------ inside

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA cache_size = -8192")  # KiB; a plan of ten million shards passes through it
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > FACTS_VERSION:
            raise JournalTooNew(f"{self.path} is of version {version}; this Headrace knows up to {FACTS_VERSION}")
        if version == 0:
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
            execute("INSERT INTO marks VALUES ('id', ?)", (os.urandom(_CHAIN_BYTES),))
            execute("COMMIT")
        row = execute("SELECT value FROM marks WHERE name = 'id'").fetchone()
        if row is None:
            raise JournalDamaged(f"{self.path} has no id")
        self.id = self._chain = bytes(row[0])

    def _write(self, facts: Iterable[Fact], *, is_checkpoint: bool) -> int:
        if self._failure:  # what waited behind a write that failed would leave a gap where that was to be
            raise JournalFailed(self._failure)
        execute = self._connection.execute
        before = self._last, self._chain, self._lasting.copy()
        try:
            execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO facts VALUES (?, ?, ?)", self._rows(facts))
            if is_checkpoint:
                mark = self._last.to_bytes(8, "little") + self._lasting.digest()
                execute("INSERT OR REPLACE INTO marks VALUES ('checkpoint', ?)", (mark,))
            execute("COMMIT")
        except sqlite3.Error as e:
            self._failure = f"{self.path} can't be written: {e}"
            raise JournalFailed(self._failure) from e
        except BaseException:
            # The caller's stream of facts failed, not the disk: as if nothing had been asked.
            execute("ROLLBACK")
            self._last, self._chain, self._lasting = before
            raise
        if is_checkpoint:
            self._checkpoint = self._last
        return self._last

    def _rows(self, facts: Iterable[Fact]) -> Iterator[tuple[int, bytes, bytes]]:
        for fact in facts:
            body = encode(fact)
            self._last += 1
            self._chain = _link(self._chain, self._last, body)
            if body[0] in KINDS_LASTING:
                self._lasting.update(self._chain)
            yield self._last, body, self._chain

    def _checkpoint_mark(self) -> tuple[int, bytes]:
        row = self._connection.execute("SELECT value FROM marks WHERE name = 'checkpoint'").fetchone()
        return (int.from_bytes(row[0][:8], "little"), bytes(row[0][8:])) if row else (0, b"")

    def _read(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Bodies by number, verified against the rows before them."""
        rows: dict[int, bytes] = {}
        try:
            for n, body, chain, before in self._connection.execute(
                "SELECT a.n, a.body, a.chain, b.chain FROM facts a LEFT JOIN facts b ON b.n = a.n - 1 "
                f"WHERE a.n IN ({','.join('?' * len(numbers))})",
                numbers,
            ):
                self._verify(n, body, chain, before or self.id)
                rows[n] = body
        except sqlite3.Error as e:
            raise JournalDamaged(f"{self.path} can't be read: {e}") from e
        return rows

    def _verify(self, n: int, body: bytes, chain: bytes, before: bytes) -> None:
        if _link(before, n, body) != chain:
            raise JournalDamaged(f"{self.path}: fact {n} is not what was written")

    def _decode(self, n: int, body: bytes) -> Fact:
        try:
            return decode(body)
        except BadFact as e:
            raise JournalDamaged(f"{self.path}: fact {n}: {e}") from e


def _link(before: bytes, n: int, body: bytes) -> bytes:
    return hashlib.blake2b(before + n.to_bytes(8, "little") + body, digest_size=_CHAIN_BYTES).digest()


def _take_lock(path: Path) -> int:
    fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(fd)
        raise JournalLocked(f"another coordinator holds {path}") from e
    return fd


def _give_up(connection: sqlite3.Connection | None, lock_fd: int) -> None:
    if connection is not None:
        connection.close()
    os.close(lock_fd)
