"""Input that lies on web servers and in stores, as planning sees it: listed, looked at, opened for reading."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from coordinator.datasets.globs import ANY_FOLDERS, Excludes, PathMatcher, literal_start
from coordinator.datasets.listing import InputFile, names_text
from coordinator.datasets.spec import SourceFormat, StorageSpec
from headrace.errors import Fault
from headrace.retries import Patience
from headrace.uris import is_remote
from headrace.versions import with_modified

if TYPE_CHECKING:
    from headrace.httpfile import Found
    from headrace.remote_files import RemoteFiles

THREADS = 8
"""Requests in flight."""
CHUNK_BYTES = 2 << 20
"""Of a text file whose head is looked at; one request where the file isn't longer."""


PATIENCE = Patience(tries=8)
"""Eight seconds in the mean: no job is there yet that could pause while its store is away."""


class Remote:
    """The remote files of one source. What it needs is imported when the first of them is met."""

    def __init__(self, storage: StorageSpec) -> None:
        self._storage = storage
        self._last: _Chunks | None = None  # of one file the header, the head and the limit are looked for in turn

    @cached_property
    def files(self) -> "RemoteFiles":
        """How they are reached."""
        from headrace.httpfile import Pacing
        from headrace.remote_files import RemoteFiles

        return RemoteFiles(self._storage.options, Pacing(PATIENCE))

    def open(self, file: InputFile, chunk_bytes: int = CHUNK_BYTES) -> Any:
        """A remote file's bytes as a stream that may be read anywhere; None for a local file.

        Each request asks for `chunk_bytes`, or what is read if that is more.
        """
        if not is_remote(file.path):
            return None
        from headrace.httpfile import RangedFile

        chunks = self._last  # other threads open other files
        if chunks is None or (chunks.file, chunks.chunk_bytes) != (file, chunk_bytes):
            self._last = chunks = _Chunks(self.files, file, chunk_bytes)
        return RangedFile(file.size, chunks.read)

    def stat(self, paths: Sequence[str]) -> "Mapping[str, Found | None]":
        """What the stores say of files; None where there is none."""
        if len(paths) <= 1:
            return {path: self.files.stat(path) for path in paths}
        with ThreadPoolExecutor(THREADS, thread_name_prefix="stat") as pool:
            return dict(zip(paths, pool.map(self.files.stat, paths), strict=True))


class _Chunks:
    """Reads of a file, in chunks of which the last is kept."""

    def __init__(self, files: "RemoteFiles", file: InputFile, chunk_bytes: int) -> None:
        self._files = files
        self.chunk_bytes = chunk_bytes
        self.file = file
        self._at = 0
        self._data = b""

    def read(self, begin: int, end: int) -> bytes:
        """Bytes ``[begin, end)``."""
        if not (self._at <= begin and end <= self._at + len(self._data)):
            file = self.file
            last = min(max(end, begin + self.chunk_bytes), file.size)
            self._data = self._files.range(file.path, begin, last, size=file.size, version=file.version)
            self._at = begin
        return self._data[begin - self._at : end - self._at]


class BucketTree:
    """The folders of a store: what its paths look like, for object stores have none (`listing.Tree`)."""

    def __init__(self, remote: Remote, kind: SourceFormat) -> None:
        self._remote = remote
        self._kind = kind
        self._found: dict[str, Found] = {}
        self._prefix: str | None = None  # of the listing that `_paths` came from
        self._paths: list[str] = []  # in the order of their code points, as the store lists them

    def below(
        self, root: str, patterns: Sequence[str], excludes: Excludes, is_hidden: Callable[[str], bool]
    ) -> tuple[list[str], list[str]]:
        """As `listing.Tree`."""
        start = f"{root}/" + ("" if patterns[0] == ANY_FOLDERS else literal_start(patterns[0]))
        matcher = PathMatcher(root, patterns, excludes, is_hidden)
        paths = [path for path in self._listed(start) if not path.endswith("/") and matcher.hits(path)]
        return paths, sorted(matcher.folders)

    def checked(self, paths: Sequence[str], field: str, faults: list[Fault]) -> list[InputFile]:
        """As `listing.Tree`; the listing has told everything."""
        return [input_file(self._found[path], self._kind) for path in paths]

    def there(self, folder: str) -> str:
        """As `listing.Tree`."""
        names = dict.fromkeys(path[len(folder) + 1 :].split("/", 1)[0] for path in self._listed(f"{folder}/"))
        return names_text(folder, list(names))

    def _listed(self, prefix: str) -> list[str]:
        if self._prefix is None or not prefix.startswith(self._prefix):
            self._found = {found.path: found for found in self._remote.files.list(prefix)}
            self._prefix = prefix
            self._paths = sorted(self._found)
        first = bisect_left(self._paths, prefix)
        last = bisect_left(self._paths, prefix + chr(0x10FFFF))
        return self._paths[first:last]


def input_file(found: "Found", kind: SourceFormat) -> InputFile:
    """A file of the plan. Only a source of format `files` reads when it was changed, where the store tells it."""
    version = found.version
    if kind == "files" and found.modified_ns is not None:
        version = with_modified(version, found.modified_ns)
    return InputFile(found.path, found.size, version)
