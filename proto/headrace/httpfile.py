"""A file on a web server, read by ranges: what Parquet needs of HTTP, with the version checked on every answer."""

import http.client
import io
import random
import threading
import time
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from headrace.errors import InputChanged

TAIL_BYTES = 256 << 10
"""Bytes of the first request, from the end: a Parquet footer and, of a small file, all there is."""
TRIES = 5
"""Requests for one range before its error is the caller's."""
WAIT_MAX_S = 2.0
TIMEOUT_S = 30.0
_REDIRECTS_MAX = 5


class HttpFile(io.RawIOBase):
    """Random reads of a URL. The first request asks for the file's end and so learns size and version.

    `tail_bytes` is how much of the end that request takes. One thread at a time.
    """

    def __init__(self, url: str, *, size: int = -1, version: str = "", tail_bytes: int = TAIL_BYTES) -> None:
        super().__init__()
        self.url = url
        self.size = size
        self.version = version
        self._at = 0
        self._segments: list[tuple[int, bytes]] = []
        if size < 0:
            self._fetch_tail(tail_bytes)

    def _fetch_tail(self, nbytes: int) -> None:
        body, headers, status = _request(self.url, f"bytes=-{nbytes}")
        if status == 206:
            self.size = int(headers["content-range"].rsplit("/", 1)[1])
        else:
            self.size = len(body)
        self.version = _version(headers)
        self._segments.append((self.size - len(body), body))

    def prefetch(self, begin: int, end: int) -> None:
        """Fetches ``[begin, end)`` in one request and keeps it until the file is closed."""
        self._segments.append((begin, self._fetch(begin, end)))

    def forget(self) -> None:
        """Drops what was fetched."""
        self._segments.clear()

    def _fetch(self, begin: int, end: int) -> bytes:
        if end <= begin:
            return b""
        body, headers, status = _request(self.url, f"bytes={begin}-{end - 1}")
        size = int(headers["content-range"].rsplit("/", 1)[1]) if status == 206 else len(body)
        if size != self.size or _version(headers) != self.version:
            raise InputChanged(f"{self.url}: has changed since it was planned")
        body = body if status == 206 else body[begin:end]
        if len(body) != end - begin:
            raise OSError(f"{self.url}: {len(body)} of {end - begin} bytes came")
        return body

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The offset of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the next read."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def read(self, nbytes: int = -1) -> bytes:
        """Up to `nbytes` bytes from what was prefetched, else by a request.

        Raises:
            InputChanged: the server has another version than was planned.
            OSError: the server can't be reached, or refuses, after all tries.
        """
        begin = min(self._at, self.size)
        end = self.size if nbytes is None or nbytes < 0 else min(begin + nbytes, self.size)
        self._at = end
        for start, data in self._segments:
            if start <= begin and end <= start + len(data):
                return data[begin - start : end - start]
        return self._fetch(begin, end)


def _version(headers: dict[str, str]) -> str:
    return headers.get("etag") or headers.get("last-modified", "")


_local = threading.local()


def _request(url: str, byte_range: str) -> tuple[bytes, dict[str, str], int]:
    """One ranged GET with retries: (body, headers by lower-case name, status 200 or 206)."""
    for left in range(TRIES - 1, -1, -1):
        try:
            return _once(url, byte_range)
        except _Refused:
            raise
        except (OSError, http.client.HTTPException) as error:
            if not left:
                raise OSError(f"{url}: {error or type(error).__name__}") from error
            if left < TRIES - 1:  # at first it is mostly a kept connection that the server has closed meanwhile
                time.sleep(random.uniform(0, min(WAIT_MAX_S, 0.1 * 2 ** (TRIES - left))))
    raise AssertionError("the last try returns or raises")


class _Refused(OSError):
    """An answer that asking again doesn't change."""


def _once(url: str, byte_range: str) -> tuple[bytes, dict[str, str], int]:
    for _ in range(_REDIRECTS_MAX):
        parts = urlsplit(url)
        connection = _connection(parts.scheme, parts.netloc)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Range": byte_range, "Accept-Encoding": "identity"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            _drop(parts.scheme, parts.netloc)
            raise
        headers = {name.lower(): value for name, value in response.getheaders()}
        if response.will_close:
            _drop(parts.scheme, parts.netloc)
        match response.status:
            case 200 | 206:
                return body, headers, response.status
            case 416 if headers.get("content-range", "").endswith("/0"):
                return b"", headers, 206
            case 301 | 302 | 303 | 307 | 308 if "location" in headers:
                url = urljoin(url, headers["location"])
            case 408 | 429 | 500 | 502 | 503 | 504:
                raise OSError(f"the server answers {response.status} {response.reason}")
            case status:
                raise _Refused(f"{url}: the server answers {status} {response.reason}")
    raise _Refused(f"{url}: redirected more than {_REDIRECTS_MAX} times")


def _connection(scheme: str, netloc: str) -> http.client.HTTPConnection:
    """This thread's connection to a server; connections are kept, as a new one costs a round trip or three."""
    kept: dict[tuple[str, str], http.client.HTTPConnection] = _local.__dict__.setdefault("kept", {})
    connection = kept.get((scheme, netloc))
    if connection is None:
        make: Callable[..., http.client.HTTPConnection] = (
            http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        )
        connection = kept[scheme, netloc] = make(netloc, timeout=TIMEOUT_S)
    return connection


def _drop(scheme: str, netloc: str) -> None:
    connection = _local.__dict__.get("kept", {}).pop((scheme, netloc), None)
    if connection is not None:
        connection.close()
