"""Input files on web servers, in object stores and in HDFS: listed, looked at, and read by ranges, whatever the scheme.

What a scheme needs is imported with its first path.
"""

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from headrace.httpfile import Found, HttpFiles, Pacing, PlainUrls, Tail
from headrace.program import StorageOptions
from headrace.retries import RetryBudget
from headrace.uris import scheme_of

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
        """The files of a store whose paths begin with `prefix`, in the order of their names.

        What the store lists is the input: a file that it lists late is not read, and one that it lists and hasn't got
        is InputChanged, once it was asked for a few times.
        """
        return _lister(scheme_of(prefix))(self._files(prefix), prefix)

    def tail(self, path: str, nbytes: int, size: int = -1) -> Tail:
        """The last `nbytes` bytes and what the whole file is, which is thought to have `size`, by one request.

        Raises:
            InputChanged: there is no such file.
        """
        return self._files(path).tail(path, nbytes, size)

    def range(self, path: str, begin: int, end: int, *, size: int, version: str) -> bytes:
        """Bytes ``[begin, end)`` of a file that was found with `size` and `version`, by one request.

        Raises:
            InputChanged: it has others, or is gone.
        """
        return self._files(path).range(path, begin, end, size=size, version=version)

    def _files(self, path: str) -> "HttpFiles | HdfsFiles":
        scheme = scheme_of(path)
        with self._lock:
            if scheme not in self._by_scheme:
                self._by_scheme[scheme] = _made(scheme)(self._storage, self._pacing, self._budget)
            return self._by_scheme[scheme]


def _made(scheme: str) -> "Callable[[StorageOptions, Pacing, RetryBudget], HttpFiles | HdfsFiles]":
    match scheme:
        case "s3":
            from headrace.s3_urls import s3_files

            return s3_files
        case "gs":
            from headrace.gcs_urls import gcs_files

            return gcs_files
        case "abfs" | "abfss":
            from headrace.azure_urls import azure_files

            return azure_files
        case "hdfs":
            from headrace.hdfs_files import HdfsFiles

            return HdfsFiles
        case _:
            return lambda storage, pacing, budget: HttpFiles(PlainUrls(), pacing, budget)


def _lister(scheme: str) -> Callable[[Any, str], Iterator[Found]]:
    """Lists what `_made` of the same scheme makes."""
    match scheme:
        case "gs":
            from headrace.gcs_urls import list_gcs

            return list_gcs
        case "abfs" | "abfss":
            from headrace.azure_urls import list_blobs

            return list_blobs
        case "hdfs":
            from headrace.hdfs_files import HdfsFiles

            return HdfsFiles.list
        case _:
            from headrace.s3_urls import list_objects, split_path

            return lambda files, prefix: list_objects(files, *split_path(prefix))
