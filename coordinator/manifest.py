"""The manifest: what is in an output and which input it came from, written and read as a stream.

One JSON document per line:

    {"manifest": 1, "job", "uid", "number", "base", "mode", "format", "unit", "files", "units",
     "columns": [[name, type], ...]}                                                        header
    {"file": [path, size, version, origin, units]}                                         per input file, in order
    {"shard", "epoch", "begin", "end", "read", "filtered", "out", "children", "rejected", "files": [[name, kind, size,
     digest, rows], ...], "corrupt": [[begin, end, reason], ...]}                           per commit, in any order
    {"quarantined", "begin", "end", "error"}                                                per range given up
    {"totals": {...}, "digest"}                                                             trailer

The trailer's digest is blake2b-128 over every byte before the trailer's line: a manifest cut short or changed is seen.
`base` names the manifest that this one adds to (append), or is null. `columns` are those of every data file, its base's
included, with the types that readers see; none where there is no data file. `corrupt` are units of the shard that could
not be read, whose rows are in none of the counts; left out where there are none.

Not here: whether the output matches (`coordinator.verify`), where manifests lie (`coordinator.output`).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol

from coordinator.core.facts import OutputFile
from headrace.dataset import CorruptUnits
from headrace.errors import HeadraceError

VERSION = 1
RETRY = "retry"
"""Mode of a manifest of rejects that were run again: its input files are rejects files of its bases, each given by name
and with its digest as version, and are gone from the output."""


class ManifestDamaged(HeadraceError):
    """A manifest can't be read: cut short, changed, or of a version that isn't known."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the manifest is about."""

    job: str
    uid: str
    number: int
    base: str | None  # file name of the manifest that this one adds to
    mode: str  # fail | append | replace | retry
    format: str  # of the data files
    unit: str  # row | byte | file
    files: int  # input files
    units: int  # of the whole input
    columns: tuple[tuple[str, str], ...] = ()  # name and Arrow type, of all data files; none: there are no data files


@dataclass(frozen=True, slots=True)
class InputFile:
    """One planned input file; it covers the dataset's units ``[origin, origin + units)``."""

    path: str
    size: int
    version: str
    origin: int
    units: int


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One committed range: ``read = out + filtered + rejected``; `children` are rows beyond input rows."""

    shard: int
    epoch: int
    begin: int
    end: int
    rows_read: int
    rows_filtered: int
    rows_out: int
    children: int
    rows_rejected: int
    files: tuple[OutputFile, ...]
    corrupt: tuple[CorruptUnits, ...] = ()  # by rising begin, disjoint


@dataclass(frozen=True, slots=True)
class QuarantinedEntry:
    """One range that was given up after its last attempt."""

    shard: int
    begin: int
    end: int
    error: str


@dataclass(slots=True)
class Totals:
    """Sums over a manifest's entries."""

    shards: int = 0
    quarantined: int = 0
    rows_read: int = 0
    rows_filtered: int = 0
    rows_out: int = 0
    children: int = 0
    rows_rejected: int = 0
    files: int = 0
    bytes: int = 0
    corrupt: int = 0  # ranges

    def add(self, entry: ShardEntry | QuarantinedEntry) -> None:
        """Counts one entry in."""
        if isinstance(entry, QuarantinedEntry):
            self.quarantined += 1
            return
        self.shards += 1
        self.rows_read += entry.rows_read
        self.rows_filtered += entry.rows_filtered
        self.rows_out += entry.rows_out
        self.children += entry.children
        self.rows_rejected += entry.rows_rejected
        self.files += len(entry.files)
        self.bytes += sum(file.size for file in entry.files)
        self.corrupt += len(entry.corrupt)

    def to_plain(self) -> dict[str, int]:
        """The totals by name, as they stand in the trailer and in `_SUCCESS`."""
        return {name: getattr(self, name) for name in self.__slots__}


Entry = ShardEntry | QuarantinedEntry


class Readable(Protocol):
    """A file of some store, or a path; as text, its place for people."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Opens it to read and to seek."""


def write_manifest(file: BinaryIO, header: Header, inputs: Iterable[InputFile], entries: Iterable[Entry]) -> Totals:
    """Writes a whole manifest, line by line; memory does not grow with its length.

    Raises:
        OSError: the file can't be written.
    """
    totals = Totals()
    digest = hashlib.blake2b(digest_size=16)

    def put(document: dict[str, Any]) -> None:
        line = _line(document)
        digest.update(line)
        file.write(line)

    put(_header_plain(header))
    for item in inputs:
        put({"file": [item.path, item.size, item.version, item.origin, item.units]})
    for entry in entries:
        totals.add(entry)
        put(_entry_plain(entry))
    file.write(_line({"totals": totals.to_plain(), "digest": digest.hexdigest()}))
    return totals


def read_header(path: Readable) -> Header:
    """Reads the first line only.

    Raises:
        ManifestDamaged: it isn't a manifest's header.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        return _read_header(file.readline(), path)


def read_totals(path: Readable) -> dict[str, int]:
    """Reads the trailer's totals without reading the rest.

    Raises:
        ManifestDamaged: there is no trailer.
    """
    with path.open("rb") as file:
        totals = _parse(_last_line(file), path).get("totals")
    if not isinstance(totals, dict):
        raise ManifestDamaged(f"{path} has no trailer: it is cut short.")
    return totals


def read_manifest(path: Readable) -> Iterator[Header | InputFile | Entry | Totals]:
    """Yields the header, the input files, the entries and, last, the totals, as a stream.

    The digest is known to match only when the totals have been yielded.

    Raises:
        ManifestDamaged: while reading, where it is cut short or was changed.
    """
    digest = hashlib.blake2b(digest_size=16)
    counted = Totals()
    with path.open("rb") as file:
        line = file.readline()
        yield _read_header(line, path)
        digest.update(line)
        for line in file:
            document = _parse(line, path)
            if "totals" in document:
                totals = {"corrupt": 0} | document["totals"]
                if totals != counted.to_plain() or document.get("digest") != digest.hexdigest():
                    raise ManifestDamaged(f"{path} was changed: its digest or totals don't match its lines.")
                if file.read(1):
                    raise ManifestDamaged(f"{path} has lines after its trailer.")
                yield counted
                return
            digest.update(line)
            item = _item(document, path)
            if not isinstance(item, InputFile):
                counted.add(item)
            yield item
    raise ManifestDamaged(f"{path} has no trailer: it is cut short.")


def _line(document: dict[str, Any]) -> bytes:
    # Paths that are no valid UTF-8 hold surrogates; ASCII escapes keep them as they are.
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def _header_plain(header: Header) -> dict[str, Any]:
    plain: dict[str, Any] = {"manifest": VERSION}
    plain.update((name, getattr(header, name)) for name in Header.__slots__)
    return plain


def _entry_plain(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, QuarantinedEntry):
        return {"quarantined": entry.shard, "begin": entry.begin, "end": entry.end, "error": entry.error}
    plain: dict[str, Any] = {
        "shard": entry.shard,
        "epoch": entry.epoch,
        "begin": entry.begin,
        "end": entry.end,
        "read": entry.rows_read,
        "filtered": entry.rows_filtered,
        "out": entry.rows_out,
        "children": entry.children,
        "rejected": entry.rows_rejected,
        "files": [[file.name, file.kind, file.size, file.digest, file.rows] for file in entry.files],
    }
    if entry.corrupt:
        plain["corrupt"] = [[found.begin, found.end, found.reason] for found in entry.corrupt]
    return plain


def _item(document: dict[str, Any], path: Readable) -> InputFile | Entry:
    try:
        if "file" in document:
            return InputFile(*document["file"])
        if "quarantined" in document:
            return QuarantinedEntry(document["quarantined"], document["begin"], document["end"], document["error"])
        return ShardEntry(
            shard=document["shard"],
            epoch=document["epoch"],
            begin=document["begin"],
            end=document["end"],
            rows_read=document["read"],
            rows_filtered=document["filtered"],
            rows_out=document["out"],
            children=document["children"],
            rows_rejected=document["rejected"],
            files=tuple(OutputFile(*file) for file in document["files"]),
            corrupt=tuple(CorruptUnits(*found) for found in document.get("corrupt", ())),
        )
    except (KeyError, TypeError) as error:
        raise ManifestDamaged(f"{path} has a line that isn't a manifest's: {str(document)[:200]}") from error


def _read_header(line: bytes, path: Readable) -> Header:
    document = _parse(line, path)
    if document.pop("manifest", None) != VERSION:
        raise ManifestDamaged(f"{path} isn't a manifest of version {VERSION}.")
    try:
        columns = tuple((name, kind) for name, kind in document.pop("columns", ()))
        return Header(**document, columns=columns)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestDamaged(f"{path} has no valid header: {error}") from error


def _parse(line: bytes, path: Readable) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise ManifestDamaged(f"{path} has a line that isn't JSON: {line[:80]!r}") from error
    if not isinstance(document, dict):
        raise ManifestDamaged(f"{path} has a line that isn't an object: {line[:80]!r}")
    return document


def _last_line(file: BinaryIO) -> bytes:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 4096))
    lines = file.read().splitlines()
    return lines[-1] if lines else b""
