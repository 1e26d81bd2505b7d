"""Files on their way to HDFS: parts that become one file when it is finished, and get its name when it is published.

    Staging ──append──▶ FOLDER/NAME~0000-TRY, NAME~0001-TRY ... ──finish──▶ the first, with the bytes of all

A part is written by one request and again under another name where its answer is lost. CONCAT of the NameNode moves
blocks, no bytes. A file of HDFS is known by its id, which it keeps when it is renamed: one found under the final name
counts as published with the id and size that were committed; where a server tells no ids (HttpFS), with the digest.

Not here: requests and their retries (`headrace.webhdfs`).
"""

import contextlib
import re
import secrets
from dataclasses import dataclass

from headrace.errors import SinkError
from headrace.stores.parts import Parts
from headrace.webhdfs import WebHdfs

PART_BYTES = 32 << 20
"""Of a file's parts; each but the last becomes a block of its own."""
PARTS_AHEAD = 1
"""Of one file, under way while the next one fills: two of these parts are enough in memory."""
MARK = "~"
"""Between a file's name and the number of its part."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A finished file that isn't published."""

    name: str  # in the folder that it is staged in
    id: int  # 0: not told

    def to_text(self) -> str:
        """As it stands in a commit."""
        return f"{self.name} {self.id}"


def staged_from(text: str, name: str) -> Staged:
    """Reads what `to_text` wrote of a file that is staged as `name`.

    Raises:
        SinkError: it isn't that.
    """
    match = re.fullmatch(rf"({re.escape(name)}{MARK}0000-[0-9a-f]{{16}}) (\d{{1,20}})", text)
    if match is None:
        raise SinkError(f"{text[:80]!r} doesn't say where {name} is staged.")
    return Staged(match[1], int(match[2]))


class Staging(Parts):
    """One file being written."""

    def __init__(self, client: WebHdfs, folder: str, name: str, part_bytes: int, *, makes_folder: bool = False) -> None:
        """Sends nothing; `makes_folder` also makes the folder, where it isn't there."""
        super().__init__(part_bytes, PARTS_AHEAD)
        self._client = client
        self._folder = folder
        self._name = name
        self._makes_folder = makes_folder
        self._size = 0
        self._tried: list[str] = []  # paths of all parts of all tries
        self._parts: list[str] = []

    def append(self, data: memoryview) -> None:
        """Adds bytes; waits while a part is under way and the next one is full."""
        self._size += len(data)
        super().append(data)

    def finish(self) -> str:
        """Waits for all parts and makes them one file."""
        self._flush()
        first, *others = self._parts
        found = self._client.concat(first, others, self._size)
        self._forget({first})
        return Staged(first.rpartition("/")[2], found.id).to_text()

    def discard(self) -> None:
        """Deletes all parts."""
        self._cancel()
        self._forget(set())

    def _put(self, number: int, body: bytes) -> str:
        def new_name() -> str:
            self._tried.append(f"{self._folder}/{self._name}{MARK}{number:04d}-{secrets.token_hex(8)}")
            return self._tried[-1]

        return self._client.put(new_name, body, makes_folders=self._makes_folder)

    def _arrived(self, number: int, called: str) -> None:
        self._parts.append(called)

    def _forget(self, keep: set[str]) -> None:
        """Deletes what tries left whose answers were lost; what this leaves lies in the staging folder."""
        for path in self._tried:
            if path not in keep and not (keep and path in self._parts):
                with contextlib.suppress(OSError):
                    self._client.delete(path, tries=1)
        self._tried = list(keep)
