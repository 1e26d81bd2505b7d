"""Input files that lie on web servers and in object stores: listed, looked at, and read by ranges, whatever the scheme.

What a scheme needs is imported with its first path.
"""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from headrace.httpfile import Found, HttpFiles, Pacing, PlainUrls, Tail
from headrace.program import StorageOptions
from headrace.retries import RetryBudget

if TYPE_CHECKING:
    from headrace.hdfs_files import HdfsFiles


class RemoteFiles:
    """The files of one source. Thread-safe.

    All methods raise SourceRefused (permission, no such bucket, a package that the scheme needs isn't installed) and
    SourceUnavailable (after all tries).
    """

    def __init__(self, storage: StorageOptions, pacing: Pacing | None = None) -> None:
        self._storage = storage
        self._pacing = pacing or Pacing()
        self._budget = RetryBudget()
        self._lock = threading.Lock()
        self._by_scheme: dict[str, HttpFiles | HdfsFiles] = {}

    def stat(self, path: str) -> Found | None:
        """Size and version, by one request; None if there is no such file."""
        return self._files(path).stat(path)

    def list(self, prefix: str) -> Iterator[Found]:
        """The files of an object store whose paths begin with `prefix`, in the order of their names.

        What the store lists is the input: a file that it lists late is not read, and one that it lists and hasn't got
        is InputChanged, once it was asked for a few times.
        """
        files = self._files(prefix)
        if not isinstance(files, HttpFiles):
            return files.list(prefix)
        from headrace.s3_urls import list_objects, split_path

        return list_objects(files, *split_path(prefix))

    def tail(self, path: str, nbytes: int) -> Tail:
        """The last `nbytes` bytes and what the whole file is, by one request.

        Raises:
            InputChanged: there is no such file.
        """
        return self._files(path).tail(path, nbytes)

    def range(self, path: str, begin: int, end: int, *, size: int, version: str) -> bytes:
        """Bytes ``[begin, end)`` of a file that was found with `size` and `version`, by one request.

        Raises:
            InputChanged: it has others, or is gone.
        """
        return self._files(path).range(path, begin, end, size=size, version=version)

    def _files(self, path: str) -> "HttpFiles | HdfsFiles":
        scheme = path.partition("://")[0]
        with self._lock:
            if scheme not in self._by_scheme:
                if scheme == "s3":
                    from headrace.s3_urls import s3_files

                    self._by_scheme[scheme] = s3_files(self._storage, self._pacing, self._budget)
                elif scheme == "hdfs":
                    from headrace.hdfs_files import HdfsFiles

                    self._by_scheme[scheme] = HdfsFiles(self._storage, self._pacing, self._budget)
                else:
                    self._by_scheme[scheme] = HttpFiles(PlainUrls(), self._pacing, self._budget)
            return self._by_scheme[scheme]
