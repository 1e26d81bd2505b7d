"""Ranged reads over HTTP: bytes of a URL, with retries, and its version checked on every answer."""

import http.client
import io
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from headrace.errors import InputChanged, SourceUnavailable

TRIES = 5
"""Requests for one range before the store counts as unreachable."""
WAIT_FIRST_S, WAIT_MAX_S = 0.2, 3.0
"""Full-jitter backoff between tries."""
TIMEOUT_S = 30.0
"""Silence of a server that ends a try."""
REDIRECTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Tail:
    """The last bytes of a file, and what the server says of the whole."""

    size: int
    version: str  # ETag, else the date of the last change, else ""
    data: bytes


def fetch_tail(url: str, nbytes: int) -> Tail:
    """One request for the last `nbytes` bytes: all of a file that is shorter, or whose server knows no ranges.

    Raises:
        InputChanged: there is no such file.
        SourceUnavailable: the server can't be reached, or refuses, after all tries.
    """
    answer = _request(url, f"bytes=-{nbytes}")
    return Tail(answer.size, answer.version, answer.body)


def fetch_range(url: str, begin: int, end: int, *, size: int, version: str) -> bytes:
    """One request for bytes ``[begin, end)`` of a file that is known to have `size` and `version`.

    Raises:
        InputChanged: it has others now, or is gone.
        SourceUnavailable: the server can't be reached, or refuses, after all tries.
    """
    if end <= begin:
        return b""
    answer = _request(url, f"bytes={begin}-{end - 1}")
    if (answer.size, answer.version) != (size, version):
        raise InputChanged(f"{url}: has changed since it was planned")
    return answer.body if answer.is_part else answer.body[begin:end]


class RangedFile(io.RawIOBase):
    """A file of `size` bytes over `fetch(begin, end)`; what lies in `segments` (offset, bytes) is not fetched."""

    def __init__(
        self, size: int, fetch: Callable[[int, int], bytes], segments: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        super().__init__()
        self._size = size
        self._fetch = fetch
        self._segments = segments
        self._at = 0

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
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def read(self, nbytes: int | None = -1) -> bytes:
        """Up to `nbytes` bytes; raises what `fetch` does."""
        begin = min(self._at, self._size)
        end = self._size if nbytes is None or nbytes < 0 else min(begin + nbytes, self._size)
        self._at = end
        for start, data in self._segments:
            if start <= begin and end <= start + len(data):
                return data[begin - start : end - start]
        return self._fetch(begin, end)


# ---------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    is_part: bool
    size: int
    version: str


class _TryAgain(Exception):
    """An answer that may be another one a moment later."""


def _request(url: str, byte_range: str) -> _Answer:
    for attempt in range(TRIES):
        try:
            return _follow(url, byte_range)
        except (OSError, http.client.HTTPException, _TryAgain) as error:
            if attempt == TRIES - 1:
                text = str(error) or type(error).__name__
                raise SourceUnavailable(f"{url}: {text} (after {TRIES} tries)") from error
            # The first failure is mostly a kept connection that the server has closed meanwhile: no wait.
            if attempt:
                time.sleep(random.uniform(0, min(WAIT_MAX_S, WAIT_FIRST_S * 2**attempt)))
    raise AssertionError("the last try returns or raises")


def _follow(url: str, byte_range: str) -> _Answer:
    target = url
    for _ in range(REDIRECTS_MAX + 1):
        status, headers, body = _once(target, byte_range)
        version = headers.get("etag") or headers.get("last-modified", "")
        match status:
            case 200:
                return _Answer(body, False, len(body), version)
            case 206:
                return _Answer(body, True, int(headers["content-range"].rsplit("/", 1)[1]), version)
            case 416:  # an empty file has no range; a shorter one than planned has changed
                total = headers.get("content-range", "").rpartition("/")[2]
                return _Answer(b"", True, int(total) if total.isdigit() else 0, version)
            case 301 | 302 | 303 | 307 | 308 if "location" in headers:
                target = urljoin(target, headers["location"])
            case 404 | 410:
                raise InputChanged(f"{url}: is not there (the server answers {status})")
            case 408 | 429 | 500 | 502 | 503 | 504:
                raise _TryAgain(f"the server answers {status}")
            case _:
                raise SourceUnavailable(f"{url}: the server answers {status}")
    raise SourceUnavailable(f"{url}: redirected more than {REDIRECTS_MAX} times")


def _once(url: str, byte_range: str) -> tuple[int, Mapping[str, str], bytes]:
    parts = urlsplit(url)
    connection = _connection(parts.scheme, parts.netloc)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", path, headers={"Range": byte_range, "Accept-Encoding": "identity"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        _drop(parts.scheme, parts.netloc)
        raise
    if response.will_close:
        _drop(parts.scheme, parts.netloc)
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body


class _Connections(threading.local):
    """A thread's open connections, by scheme and host: a new one costs a round trip, or three with TLS."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], http.client.HTTPConnection] = {}


_connections = _Connections()


def _connection(scheme: str, netloc: str) -> http.client.HTTPConnection:
    kept = _connections.kept
    if (scheme, netloc) not in kept:
        make = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        kept[scheme, netloc] = make(netloc, timeout=TIMEOUT_S)
    return kept[scheme, netloc]


def _drop(scheme: str, netloc: str) -> None:
    connection = _connections.kept.pop((scheme, netloc), None)
    if connection is not None:
        connection.close()
