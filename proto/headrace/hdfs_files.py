"""Input files in HDFS: listed, looked at, and read by ranges.

HDFS answers a read without telling of which version its bytes are, so every range is followed by a question for the
file's status: a file that is the planned one afterwards was it before.

Not here: requests (`headrace.webhdfs`).
"""

import contextlib
import threading
from collections.abc import Iterator

from headrace.errors import InputChanged, SourceRefused, SourceUnavailable
from headrace.httpfile import Found, Pacing, Tail
from headrace.program import StorageOptions
from headrace.retries import RetryBudget
from headrace.stores.port import StoreUnavailable
from headrace.uris import store_of
from headrace.versions import identity_of
from headrace.webhdfs import Status, WebHdfs, split_uri


class HdfsFiles:
    """The HDFS files of one source. Thread-safe. Methods raise as those of `headrace.remote_files.RemoteFiles`."""

    def __init__(self, storage: StorageOptions, pacing: Pacing, budget: RetryBudget) -> None:
        self._storage = storage
        self._pacing = pacing
        self._budget = budget
        self._lock = threading.Lock()
        self._clients: dict[str, WebHdfs] = {}

    def stat(self, path: str) -> Found | None:
        """Size and version, by one request; None if there is no such file."""
        with _source_errors(path):
            client, there = self._client(path)
            found = client.status(there)
            return None if found is None or found.is_folder else _found(path, found)

    def list(self, prefix: str) -> Iterator[Found]:
        """Files whose paths begin with `prefix`, which ends with ``/`` or a name's beginning."""
        folder, _, start = prefix.rpartition("/")
        with _source_errors(prefix):
            client, there = self._client(folder)
            for path, found in client.files(there, start):
                yield _found(client.place + path, found)

    def tail(self, path: str, nbytes: int, size: int = -1) -> Tail:
        """The last bytes of a file: its status, which tells the size, and a range."""
        found = self.stat(path)
        if found is None:
            raise InputChanged(f"{path}: is not there")
        begin = max(found.size - nbytes, 0)
        data = self.range(path, begin, found.size, size=found.size, version=found.version)
        return Tail(found.size, found.version, data)

    def range(self, path: str, begin: int, end: int, *, size: int, version: str) -> bytes:
        """Bytes ``[begin, end)`` of a file that is known to have `size` and `version`."""
        known = (size, identity_of(version))

        def is_known(found: Status | None) -> None:
            if found is None:
                raise InputChanged(f"{path}: is not there")
            if (found.size, found.version) != known:
                raise InputChanged(f"{path}: has changed since it was planned")

        with _source_errors(path):
            client, there = self._client(path)
            return client.read(there, begin, end, is_known)

    def _client(self, path: str) -> tuple[WebHdfs, str]:
        authority, there = split_uri(path)
        with self._lock:
            if authority not in self._clients:
                self._clients[authority] = WebHdfs(authority, self._storage, self._pacing, self._budget)
            return self._clients[authority], there


def _found(path: str, status: Status) -> Found:
    return Found(path, status.size, status.version, status.changed_ms * 1_000_000)


@contextlib.contextmanager
def _source_errors(path: str) -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise SourceUnavailable(f"{store_of(path)} can't be read: {error}") from error
    except OSError as error:
        raise SourceRefused(str(error)) from error
