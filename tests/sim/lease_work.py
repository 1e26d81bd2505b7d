"""The work on one lease in a simulated worker, as the sidecar's `ShardRun` keeps it, and its files.

Not here: what becomes of it (`worker_actor`).
"""

import asyncio
import hashlib
import json
from enum import Enum, auto
from pathlib import Path

from coordinator.core.facts import OutputFile
from coordinator.core.lease_values import Held
from coordinator.exchange import Grant
from headrace.publish import staged_name
from headrace.words import Epoch, ShardId
from sidecar.reader.cursor import Cursor

Key = tuple[ShardId, Epoch]


class State(Enum):
    """As the sidecar's `RunState`."""

    READING = auto()
    COMMITTING = auto()
    PUBLISHING = auto()
    PUBLISHED = auto()


class Run:
    """The work on one lease."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.key: Key = (grant.shard, grant.epoch)
        self.cursor = Cursor(grant.begin, grant.end)
        self.end = grant.end
        self.agreed_end = grant.end
        self.state = State.READING
        self.is_cancelled = False
        self.is_read = False
        self.offered: int | None = None
        self.staged: list[tuple[Path, OutputFile]] = []
        self.changed = asyncio.Event()

    def __str__(self) -> str:
        return f"shard {self.key[0]} epoch {self.key[1]}"

    def held(self) -> Held:
        """As the sidecar reports it."""
        return Held(*self.key, self.grant.begin, self.agreed_end, self.cursor.position)


def write_staged(staging: Path, final: str, kind: str, rows: list[int]) -> tuple[Path, OutputFile]:
    """Writes one staged file of a lease.

    Raises:
        OSError: it can't be written.
    """
    body = body_of(rows)
    path = staging / staged_name(final)
    with open(path, "xb") as file:
        file.write(body)
    digest = hashlib.blake2b(body, digest_size=16).hexdigest()
    return path, OutputFile(final, kind, len(body), digest, len(rows))


def body_of(rows: list[int]) -> bytes:
    """The rows as JSON Lines."""
    return "".join(f"{json.dumps({'n': row})}\n" for row in rows).encode()
