"""Facts as compact bytes, and back.

One kind byte, the numbers in one little-endian struct, then texts and blobs with u32 lengths. A kind's number is never
used again for another fact, and a change of a fact's fields needs a new kind.
"""

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

from coordinator.core.facts import (
    LASTING,
    AllPublished,
    ChargeReturned,
    Checkpoint,
    CommitDecided,
    CutsPart,
    Ended,
    EpochEnded,
    Fact,
    FilesPart,
    Granted,
    JobChanged,
    JobPlanned,
    OutputFile,
    OutputStep,
    Published,
    Quarantined,
    Revoked,
    RowCounts,
    SchemaAgreed,
    ShardsPart,
    SplitMade,
    TablePage,
    TermRaised,
    WorkerSeated,
)
from headrace.dataset import CorruptUnits
from headrace.words import Incarnation, WorkerName

FACTS_VERSION: Final = 1
"""Of the encoding; a journal of a newer one is refused."""


class BadFact(ValueError):
    """The bytes are not a fact of this version."""


_U32 = struct.Struct("<I")
_COMMIT = struct.Struct("<HQIqqQQQQQ")
_CORRUPT = struct.Struct("<QI")  # rows, ranges
_RANGE = struct.Struct("<qq")
_FILE = struct.Struct("<QQ")


def _put_text(text: str) -> bytes:
    body = text.encode("utf-8", "surrogateescape")
    return _U32.pack(len(body)) + body


def _get_blob(body: bytes, at: int) -> tuple[bytes, int]:
    (size,) = _U32.unpack_from(body, at)
    end = at + 4 + size
    if end > len(body):
        raise BadFact("a fact ends too early")
    return body[at + 4 : end], end


def _get_text(body: bytes, at: int) -> tuple[str, int]:
    blob, at = _get_blob(body, at)
    return blob.decode("utf-8", "surrogateescape"), at


def _put_commit(fact: CommitDecided) -> bytes:
    c = fact.counts
    parts = [
        _COMMIT.pack(
            fact.job, fact.shard, fact.epoch, fact.begin, fact.end, c.read, c.filtered, c.out, c.rejected, c.children
        ),
        _CORRUPT.pack(c.corrupt, len(fact.corrupt)),
    ]
    for found in fact.corrupt:
        parts += [_RANGE.pack(found.begin, found.end), _put_text(found.reason)]
    parts += [_put_text(fact.worker), _put_text(fact.incarnation)]
    for file in fact.files:
        parts += [
            _FILE.pack(file.size, file.rows),
            _put_text(file.name),
            _put_text(file.kind),
            _put_text(file.digest),
            _put_text(file.staged),
        ]
    return b"".join(parts)


def _get_commit(body: bytes) -> CommitDecided:
    job, shard, epoch, begin, end, *counts = _COMMIT.unpack_from(body, 1)
    rows_corrupt, ranges = _CORRUPT.unpack_from(body, 1 + _COMMIT.size)
    at = 1 + _COMMIT.size + _CORRUPT.size
    corrupt = []
    for _ in range(ranges):
        first, last = _RANGE.unpack_from(body, at)
        reason, at = _get_text(body, at + _RANGE.size)
        corrupt.append(CorruptUnits(first, last, reason))
    worker, at = _get_text(body, at)
    incarnation, at = _get_text(body, at)
    files = []
    while at < len(body):
        size, rows = _FILE.unpack_from(body, at)
        name, at = _get_text(body, at + _FILE.size)
        kind, at = _get_text(body, at)
        digest, at = _get_text(body, at)
        staged, at = _get_text(body, at)
        files.append(OutputFile(name, kind, size, digest, rows, staged))
    return CommitDecided(
        job,
        shard,
        epoch,
        begin,
        end,
        replace(RowCounts(*counts), corrupt=rows_corrupt),
        WorkerName(worker),
        Incarnation(incarnation),
        tuple(files),
        tuple(corrupt),
    )


_REVOKED = struct.Struct("<HQIQQQQQQ")


def _put_revoked(fact: Revoked) -> bytes:
    c = fact.counts
    return _REVOKED.pack(fact.job, fact.shard, fact.epoch, c.read, c.filtered, c.out, c.rejected, c.children, c.corrupt)


def _get_revoked(body: bytes) -> Revoked:
    job, shard, epoch, *counts = _REVOKED.unpack_from(body, 1)
    return Revoked(job, shard, epoch, RowCounts(*counts))


_ENDED = struct.Struct("<HQIB?")


def _put_ended(fact: EpochEnded) -> bytes:
    return _ENDED.pack(fact.job, fact.shard, fact.epoch, fact.why, fact.charged) + _put_text(fact.error)


def _get_ended(body: bytes) -> EpochEnded:
    job, shard, epoch, why, charged = _ENDED.unpack_from(body, 1)
    return EpochEnded(job, shard, epoch, Ended(why), charged, _get_text(body, 1 + _ENDED.size)[0])


T = TypeVar("T")
_Codec = tuple[Callable[[T], bytes], Callable[[bytes], T]]


def _plain(cls: type[T], numbers: str, *, texts: int = 0, blobs: int = 0) -> _Codec[T]:
    """Codec of a fact whose fields are numbers (struct format), then texts, then blobs, in that order."""
    names: tuple[str, ...] = tuple(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    head = struct.Struct("<" + numbers)
    n = len(names) - texts - blobs
    number_names, text_names, blob_names = names[:n], names[n : n + texts], names[n + texts :]

    def put(fact: T) -> bytes:
        parts = [head.pack(*[getattr(fact, name) for name in number_names])]
        parts += [_put_text(getattr(fact, name)) for name in text_names]
        for name in blob_names:
            blob = getattr(fact, name)
            parts += [_U32.pack(len(blob)), blob]
        return b"".join(parts)

    def get(body: bytes) -> T:
        values = list(head.unpack_from(body, 1))
        at = 1 + head.size
        for _ in text_names:
            text, at = _get_text(body, at)
            values.append(text)
        for _ in blob_names:
            blob, at = _get_blob(body, at)
            values.append(blob)
        return cls(*values)

    return put, get


_KINDS: Final[dict[int, tuple[type, Callable[..., bytes], Callable[[bytes], Any]]]] = {
    1: (TermRaised, *_plain(TermRaised, "Q")),
    2: (JobPlanned, *_plain(JobPlanned, "HQQQIqqq???", texts=7)),
    3: (FilesPart, *_plain(FilesPart, "HI", blobs=1)),
    4: (CutsPart, *_plain(CutsPart, "HI", blobs=1)),
    5: (ShardsPart, *_plain(ShardsPart, "HI", blobs=1)),
    6: (JobChanged, *_plain(JobChanged, "H", texts=4)),
    7: (OutputStep, *_plain(OutputStep, "H", texts=2)),
    8: (Granted, *_plain(Granted, "HQI", texts=2)),
    9: (EpochEnded, _put_ended, _get_ended),
    10: (ChargeReturned, *_plain(ChargeReturned, "HQI")),
    11: (SplitMade, *_plain(SplitMade, "HQQq")),
    # 12 and 15 stay free
    13: (Published, *_plain(Published, "HQI")),
    14: (AllPublished, *_plain(AllPublished, "H")),
    16: (Quarantined, *_plain(Quarantined, "HQ", texts=1)),
    17: (TablePage, *_plain(TablePage, "HQI", blobs=1)),
    18: (Checkpoint, *_plain(Checkpoint, "H", blobs=1)),
    19: (SchemaAgreed, *_plain(SchemaAgreed, "H", texts=1)),
    20: (WorkerSeated, *_plain(WorkerSeated, "", texts=2)),
    21: (CommitDecided, _put_commit, _get_commit),
    22: (Revoked, _put_revoked, _get_revoked),
}
_PUT: Final[dict[type, tuple[bytes, Callable[..., bytes]]]] = {
    cls: (bytes([kind]), put) for kind, (cls, put, _) in _KINDS.items()
}
_GET: Final[dict[int, Callable[[bytes], Fact]]] = {kind: get for kind, (_, _, get) in _KINDS.items()}
KINDS_LASTING: Final = frozenset(kind for kind, (cls, _, _) in _KINDS.items() if cls in LASTING)
"""Kind bytes (the first of an encoded fact) of `facts.LASTING`."""


def encode(fact: Fact) -> bytes:
    """The fact as bytes; `decode` makes an equal value of them."""
    kind, put = _PUT[type(fact)]
    return kind + put(fact)


def decode(body: bytes) -> Fact:
    """The fact that was encoded.

    Raises:
        BadFact: the bytes are not a fact that this version knows.
    """
    if not body or body[0] not in _GET:
        raise BadFact(f"unknown fact kind {body[:1].hex() or 'none'}")
    try:
        return _GET[body[0]](body)
    except (struct.error, UnicodeDecodeError, ValueError) as e:
        raise BadFact(f"damaged fact of kind {body[0]}: {e}") from e
