"""Requests to HDFS over HTTP (WebHDFS of its NameNodes, or an HttpFS): retries, and failures as OSErrors.

    FileNotFoundError   no such file or folder    FileExistsError   the name is taken
    PermissionError     refused                   NotEmpty          a folder that has something in it
    StoreUnavailable    away, starting, on standby or failing, after all tries
    OSError             anything else

A request whose answer was lost is sent again, so its effect may be there before: callers say what that means. Bytes go
to and come from DataNodes, whose addresses the NameNode names. No URL stands in an error: it may hold a token.

Not here: outputs (`headrace.stores.hdfs`), input files (`headrace.hdfs_files`), who asks (`headrace.hdfs_identity`).
"""

import contextlib
import errno
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit

from headrace.connections import Connections, Unaskable
from headrace.hdfs_identity import TOKEN, identity
from headrace.httpfile import Pacing
from headrace.program import StorageOptions
from headrace.retries import RetryBudget
from headrace.stores.port import StoreUnavailable

T = TypeVar("T")

PORT = 9870
"""Of a NameNode's HTTP server, where the job names none."""
REDIRECTS_MAX = 5
CONCAT_NAMES = 16
"""Files that one request appends to another: their names stand in its URL."""

_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_PASSING_NAMES = {
    "BlockMissingException",
    "ConnectException",
    "EOFException",
    "IOException",  # no DataNode to be found, a pipeline that broke, a NameNode that starts
    "LeaseExpiredException",
    "NoRouteToHostException",
    "NotReplicatedYetException",
    "RecoveryInProgressException",
    "RetriableException",
    "SafeModeException",
    "SocketTimeoutException",
    "StandbyException",
}
"""Exceptions of Hadoop that may be gone a moment later; HTTP's status is 403 for most of them."""


class NotEmpty(OSError):
    """A folder isn't empty."""


class _TryAgain(Exception):
    """A try that failed and may succeed a moment later."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the NameNode says of a file or folder."""

    name: str  # within the folder that was listed; "" where it was asked for itself
    size: int
    is_folder: bool
    changed_ms: int  # since 1970
    id: int  # kept when it is renamed, never given again; 0: not told

    @property
    def version(self) -> str:
        """Differs whenever the bytes do."""
        return f"{self.changed_ms}-{self.id}"


class WebHdfs:
    """One file system. Paths begin with ``/``. Thread-safe; making it sends nothing."""

    def __init__(
        self, authority: str, storage: StorageOptions, pacing: Pacing | None = None, budget: RetryBudget | None = None
    ) -> None:
        """Raises OSError where nobody can tell which servers to ask, or as whom.

        Args:
            authority: HOST or HOST:PORT of the URI; the port is that of Hadoop's RPC and isn't asked.
            storage: `endpoint` names the HTTP servers instead: one, or several NameNodes with commas between.
            pacing: of requests and their retries.
            budget: of retries.
        """
        self.place = f"hdfs://{authority}"
        host = authority.rpartition("@")[2].partition(":")[0]
        named = storage.endpoint or (f"http://{host}:{PORT}" if host else "")
        self._servers = [server.strip().rstrip("/") for server in named.split(",")]
        for server in self._servers:
            if not server.startswith(("http://", "https://")):
                raise OSError(f"{self.place}: storage.endpoint must name its HTTP server, such as http://HOST:{PORT}")
        self._identity = identity(anonymous=storage.anonymous)
        self._pacing = pacing or Pacing()
        self._budget = budget or RetryBudget()
        self._connections = Connections()
        self._lock = threading.Lock()
        self._turn = 0  # of the servers

    # ------------------------------------------------------------------ names

    def status(self, path: str) -> Status | None:
        """What there is, None where there is nothing."""
        try:
            return _status(self._json("GET", path, "GETFILESTATUS")["FileStatus"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def listing(self, folder: str) -> Iterator[Status]:
        """Files and folders in a folder; nothing where there is none. One request: not all servers give pages."""
        try:
            found = self._json("GET", folder, "LISTSTATUS")["FileStatuses"]["FileStatus"]
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from map(_status, found)

    def files(self, folder: str, start: str = "", *, deep: bool = True) -> Iterator[tuple[str, Status]]:
        """Paths of the files below a folder that begin with its path and `start`; one request for each folder."""
        prefix = f"{folder.rstrip('/')}/{start}"
        for found in list(self.listing(folder)):
            path = f"{folder.rstrip('/')}/{found.name}"
            if found.is_folder and deep and f"{path}/".startswith(prefix):
                yield from self.files(path)
            elif not found.is_folder and found.name and path.startswith(prefix):
                yield path, found

    def make_folder(self, path: str) -> None:
        """Makes a folder and those above it; one that is there is fine."""
        self._json("PUT", path, "MKDIRS")

    def rename(self, path: str, new: str) -> bool:
        """Renames a file or folder to a name that nothing has.

        False: it isn't there, the name is taken, or the folder of the name isn't there; also when an earlier try, whose
        answer was lost, has renamed it.
        """
        return bool(self._json("PUT", path, "RENAME", {"destination": new})["boolean"])

    def delete(self, path: str, *, deep: bool = False, tries: int = 0) -> None:
        """Deletes a file or folder; one that is gone is fine.

        Raises:
            NotEmpty: it is a folder with something in it and not `deep`.
        """
        self._json("DELETE", path, "DELETE", {"recursive": str(deep).lower()}, tries=tries)

    # ------------------------------------------------------------------ bytes

    def read(self, path: str, begin: int, end: int, known: Callable[[Status | None], None]) -> bytes:
        """Bytes ``[begin, end)``. `known` is asked after every try, and raises where the file isn't the one meant."""
        if end <= begin:
            return b""

        def work() -> bytes:
            try:
                data = self._exchange("GET", path, "OPEN", {"offset": str(begin), "length": str(end - begin)})
                if len(data) != end - begin:
                    raise _TryAgain(f"{len(data)} bytes came for {begin}-{end - 1}")
            except (_TryAgain, FileNotFoundError):
                known(self._status_once(path))
                raise
            known(self._status_once(path))
            return data

        return self._answered(work, path)

    def put(self, new_name: Callable[[], str], body: bytes, *, makes_folders: bool) -> str:
        """Writes a new file, replicated and closed; gives its path.

        Every try makes a file of its own: what is left of an earlier one may be half a file, and grow.
        """

        def work() -> str:
            path = new_name()
            params = {"overwrite": "false", "createparent": str(makes_folders).lower()}
            self._exchange("PUT", path, "CREATE", params, body)
            return path

        return self._answered(work, "")

    def concat(self, path: str, others: Sequence[str], size: int) -> Status:
        """Moves the bytes of other files of the same folder to the end of one, which then must have `size` bytes."""
        for i in range(0, len(others), CONCAT_NAMES):
            sources = ",".join(others[i : i + CONCAT_NAMES])
            if "," in path:
                raise OSError(f"{self.place}{path}: HDFS joins parts of files only where no comma stands in their path")
            try:
                self._answered(lambda: self._exchange("POST", path, "CONCAT", {"sources": sources}), path)  # noqa: B023
            except FileNotFoundError:
                if self.status(others[i]) is not None or self.status(path) is None:
                    raise  # else an earlier try has done it, and its answer was lost
        found = self.status(path)
        if found is None or found.size != size:
            raise OSError(f"{self.place}{path}: has {found.size if found else 0} bytes where {size} were written")
        return found

    # ------------------------------------------------------------------ tries

    def _json(
        self, method: str, path: str, op: str, params: Mapping[str, str] | None = None, tries: int = 0
    ) -> dict[str, Any]:
        return self._answered(lambda: _parsed(self._exchange(method, path, op, params or {})), path, tries)

    def _status_once(self, path: str) -> Status | None:
        try:
            return _status(_parsed(self._exchange("GET", path, "GETFILESTATUS", {}))["FileStatus"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _answered(self, work: Callable[[], T], path: str, tries: int = 0) -> T:
        pacing, began, failures = self._pacing, self._pacing.now(), 0
        while True:
            try:
                answer = work()
            except _TryAgain as error:
                failures += 1
                wait_s = pacing.patience.wait(failures, pacing.now() - began, pacing.draw())
                if wait_s is None or failures == tries or not self._budget.take():
                    told = "1 try" if failures == 1 else f"{failures} tries"
                    raise StoreUnavailable(f"{self.place}{path}: {error} (after {told})") from error.__cause__
            else:
                self._budget.answered(failures)
                return answer
            pacing.sleep(wait_s)

    def _exchange(self, method: str, path: str, op: str, params: Mapping[str, str], body: bytes | None = None) -> bytes:
        """One request, and those that it is redirected to. The body goes to the server that redirects no further."""
        server = self._servers[self._turn]
        query = urlencode({"op": op, **params, **self._identity}, quote_via=quote)
        target = f"{server}/webhdfs/v1{quote(path)}?{query}"
        try:
            status, headers, data = self._send(method, target, b"" if method != "GET" else None)
        except _TryAgain:
            self._turn_from(server)
            raise
        for _ in range(REDIRECTS_MAX):
            if status not in {301, 302, 303, 307, 308} or "location" not in headers:
                break
            target = urljoin(target, headers["location"])
            status, headers, data = self._send(method, target, body)
        if status in {200, 201}:
            return data
        told = _told(data)
        if told.name == "StandbyException":
            self._turn_from(server)
        raise self._refusal(path, status, told)

    def _send(self, method: str, target: str, body: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        parts = urlsplit(target)
        try:
            connection = self._connections.get(parts.scheme, parts.netloc, self._pacing.patience.timeout_s)
        except Unaskable as error:
            raise OSError(f"{_name(parts.netloc)}: {error}") from None
        # As it stands in a header: bytes of any name, which must be quoted to stand in a request.
        line = quote(f"{parts.path}?{parts.query}".encode("latin-1"), safe="/?%=&+:,;~!$'()*@[]")
        try:
            if connection.sock is None:
                connection.connect()
            # A DataNode that refuses doesn't wait for the body: what it answered is there to be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, line, body, {"Content-Type": "application/octet-stream"} if body else {})
            response = connection.getresponse()
            data = response.read()
        except http.client.HTTPException as error:
            self._connections.drop(parts.scheme, parts.netloc)
            # Its text may hold the URL.
            raise _TryAgain(f"{_name(parts.netloc)} ended its answer early ({type(error).__name__})") from None
        except OSError as error:
            self._connections.drop(parts.scheme, parts.netloc)
            raise _TryAgain(f"{_name(parts.netloc)} can't be reached: {error}") from error
        except BaseException:
            self._connections.drop(parts.scheme, parts.netloc)
            raise
        if response.will_close:
            self._connections.drop(parts.scheme, parts.netloc)
        return response.status, {name.lower(): value for name, value in response.getheaders()}, data

    def _turn_from(self, server: str) -> None:
        with self._lock:
            if self._servers[self._turn] == server:  # else another thread has turned
                self._turn = (self._turn + 1) % len(self._servers)

    def _refusal(self, path: str, status: int, told: "_Told") -> Exception:
        text = f"the server answers {status}" + (f" {told.name}" if told.name else "")
        text += f" ({told.message})" if told.message else ""
        if told.message.endswith("(is not a directory)"):
            return NotADirectoryError(f"{self.place}{path}: {text}")
        if status in _PASSING_STATUS or told.name in _PASSING_NAMES:
            return _TryAgain(text)
        if status == 401 and not told.name:
            text += f": a cluster with Kerberos takes a delegation token, in the environment's {TOKEN}"
        return _kind(status, told.name)(f"{self.place}{path}: {text}")


def _name(netloc: str) -> str:
    return netloc.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class _Told:
    """The exception in an answer's body; empty where there is none."""

    name: str = ""
    message: str = ""


def _told(data: bytes) -> _Told:
    try:
        found = json.loads(data)["RemoteException"]
        return _Told(str(found["exception"]), str(found.get("message") or "").partition("\n")[0])
    except (ValueError, KeyError, TypeError):
        return _Told()


def _kind(status: int, name: str) -> Callable[[str], OSError]:
    if status in {401, 403} and (not name or name in _REFUSALS):
        return PermissionError
    if name == "FileNotFoundException":
        return FileNotFoundError
    if name == "FileAlreadyExistsException":
        return FileExistsError
    if name == "PathIsNotEmptyDirectoryException":
        return lambda text: NotEmpty(errno.ENOTEMPTY, text)
    return OSError


_REFUSALS = {"AccessControlException", "AuthorizationException", "InvalidToken", "SecurityException"}


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise _TryAgain("an answer isn't JSON") from error
    if not isinstance(found, dict):
        raise _TryAgain("an answer isn't an object")
    return found


def _status(found: Mapping[str, Any]) -> Status:
    return Status(
        name=str(found["pathSuffix"]),
        size=int(found["length"]),
        is_folder=found["type"] == "DIRECTORY",
        changed_ms=int(found["modificationTime"]),
        id=int(found.get("fileId") or 0),
    )


def split_uri(uri: str) -> tuple[str, str]:
    """Authority and path of ``hdfs://AUTHORITY/PATH``; the path begins with ``/`` and ends with none."""
    authority, _, path = uri.removeprefix("hdfs://").partition("/")
    return authority, f"/{path}".rstrip("/") or "/"
