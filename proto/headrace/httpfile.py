"""Ranged reads over HTTP: bytes of a path, with retries, and its version checked on every answer.

Where a path is asked for (a web server, or a bucket's signed URL) its `Urls` say. What an answer means:

* 408, 429, 5xx, resets, time-outs, bodies that end early: tried again (`headrace.retries`), then SourceUnavailable.
* 404 of a file that was listed: a listing may be ahead of the files, so it is tried again shortly, then InputChanged.
* Another ETag, date or size than planned: InputChanged, at once; where the ETag is strong, the server itself compares.
* 401, 403, a missing bucket and any other answer: SourceRefused, at once.
"""

import http.client
import io
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

from headrace.connections import Connections, Unaskable, ask
from headrace.errors import InputChanged, SourceRefused, SourceUnavailable
from headrace.retries import Patience, RetryBudget
from headrace.uris import has_credentials, store_of
from headrace.versions import identity_of

REDIRECTS_MAX = 5
LAG_TRIES = 3
"""Requests for a listed file before its absence is believed."""
RETRY_AFTER_MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class Tail:
    """The last bytes of a file, and what the server says of the whole."""

    size: int
    version: str  # ETag, else the date of the last change, else ""
    data: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """A file as its store tells of it."""

    path: str
    size: int
    version: str
    modified_ns: int | None  # since 1970; None where the store doesn't tell


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the body of an answer says of why: a word of the store's and a sentence; empty where it doesn't."""

    code: str = ""
    message: str = ""


class Urls(Protocol):
    """Where the bytes of paths are asked for."""

    has_suffix_ranges: bool  # whether "the last n bytes" can be asked for

    def url(self, path: str, page: str | None) -> str:
        """The URL of a GET for the path's bytes, good for one request made at once.

        With a `page`, of the listing of what begins with the path: "" is the first page, others are named by it.
        """

    def headers(self, path: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """All headers of a GET of what `url` gave, never sent elsewhere; SourceRefused: there are no credentials."""

    def version(self, headers: Mapping[str, str]) -> str:
        """The version of the bytes that an answer with these headers is of, as a listing has it; "" : its ETag."""

    def is_moved(self, path: str, headers: Mapping[str, str]) -> bool:
        """Whether the headers of a refusal say that the path lies elsewhere; `url` points there from then on."""

    def refusal(self, body: bytes) -> Refusal:
        """What the body of a refusal says."""


class PlainUrls:
    """Paths that are URLs themselves."""

    has_suffix_ranges = True

    def url(self, path: str, page: str | None) -> str:
        """The path; a web server has no listing."""
        assert page is None
        return path

    def headers(self, path: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Those that are needed anyway."""
        return headers

    def version(self, headers: Mapping[str, str]) -> str:
        """The ETag."""
        return ""

    def is_moved(self, path: str, headers: Mapping[str, str]) -> bool:
        """False: web servers say so with redirects."""
        return False

    def refusal(self, body: bytes) -> Refusal:
        """Nothing: the status says it."""
        return Refusal()


@dataclass(frozen=True, slots=True)
class Pacing:
    """Clock, sleep and dice of the retries."""

    patience: Patience = field(default_factory=Patience)
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random


class HttpFiles:
    """Files that are read by GETs. Thread-safe; each thread keeps its connections.

    All methods raise SourceRefused for what another try can't change and SourceUnavailable when the tries are used up.
    """

    def __init__(self, urls: Urls, pacing: Pacing, budget: RetryBudget) -> None:
        self._urls = urls
        self._pacing = pacing
        self._budget = budget
        self._connections = Connections()

    def stat(self, path: str) -> Found | None:
        """Size and version, by one request for the first byte; None if there is no such file."""
        answer = self._request(path, {"Range": "bytes=0-0"}, size_only=True)
        if answer.is_missing:
            return None
        if answer.size is None:
            raise SourceRefused(f"{path}: the server doesn't tell its size")
        return Found(path, answer.size, answer.version, answer.modified_ns)

    def tail(self, path: str, nbytes: int, size: int = -1) -> Tail:
        """One request for the last `nbytes` bytes: all of a file that is shorter, or whose server knows no ranges.

        Where the last bytes can't be asked for, `size` tells where they begin; of another file more or fewer come.

        Raises:
            InputChanged: there is no such file.
        """
        last = f"-{nbytes}" if self._urls.has_suffix_ranges else f"{max(size - nbytes, 0)}-"
        answer = self._request(path, {"Range": f"bytes={last}"})
        if answer.is_missing:
            raise InputChanged(f"{path}: is not there (the server answers {answer.status})")
        if answer.size is None:
            raise SourceRefused(f"{path}: the server doesn't tell its size")
        return Tail(answer.size, answer.version, answer.body)

    def range(self, path: str, begin: int, end: int, *, size: int, version: str) -> bytes:
        """One request for bytes ``[begin, end)`` of a file that is known to have `size` and `version`.

        Raises:
            InputChanged: it has others, or is gone.
        """
        if end <= begin:
            return b""
        known = identity_of(version)
        headers = {"Range": f"bytes={begin}-{end - 1}"}
        if known.startswith('"'):  # weak ETags and dates never match
            headers["If-Match"] = known
        answer = self._request(path, headers, tries_missing=LAG_TRIES, nbytes=end - begin)
        if answer.is_missing:
            raise InputChanged(f"{path}: is not there (the server answers {answer.status})")
        if answer.status == 412 or (answer.size, answer.version) != (size, known):
            raise InputChanged(f"{path}: has changed since it was planned")
        return answer.body if answer.status == 206 else answer.body[begin:end]

    def page(self, path: str, page: str) -> bytes:
        """A page of the listing of what begins with `path`; the first is named ""."""
        answer = self._request(path, {}, page=page)
        if answer.is_missing:
            raise SourceRefused(f"{path}: is not there (the server answers {answer.status})")
        return answer.body

    # ------------------------------------------------------------ tries

    def _request(
        self,
        path: str,
        headers: Mapping[str, str],
        *,
        size_only: bool = False,
        tries_missing: int = 1,
        nbytes: int | None = None,
        page: str | None = None,
    ) -> "_Answer":
        pacing = self._pacing
        begun = pacing.now()
        failures = missing = 0
        while True:
            asked_s = 0.0
            text = ""
            cause: Exception | None = None
            try:
                answer = self._follow(path, page, headers, size_only, nbytes)
                if not answer.is_missing:
                    self._budget.answered(failures)
                    return answer
                missing += 1
                if missing >= tries_missing:
                    return answer
            except Unaskable as error:
                raise SourceRefused(f"{path}: {error}") from None
            except (OSError, http.client.HTTPException) as error:
                text, cause = str(error) or type(error).__name__, error
            except _TryAgain as error:
                text, asked_s = str(error), error.asked_s
            failures += 1
            wait_s = pacing.patience.wait(failures, pacing.now() - begun, pacing.draw(), asked_s)
            if wait_s is None or not self._budget.take():
                tries = "1 try" if failures == 1 else f"{failures} tries"
                raise SourceUnavailable(
                    f"{store_of(path)} can't be read: {text or 'not there'} (after {tries} for {path})"
                ) from cause
            # The first failure is mostly a kept connection that the server has closed meanwhile: no wait.
            if failures > 1 or asked_s or cause is None:
                pacing.sleep(wait_s)

    def _follow(
        self, path: str, page: str | None, headers: Mapping[str, str], size_only: bool, nbytes: int | None
    ) -> "_Answer":
        target = self._urls.url(path, page)
        asked = self._urls.headers(path, target, headers)
        for _ in range(REDIRECTS_MAX + 1):
            status, found, body = self._once(target, asked, size_only)
            version = self._urls.version(found)
            match status:
                case 200 | 206:
                    answer = _Answer.of(status, found, body, version)
                    if status == 206 and nbytes is not None and answer.size and len(body) != nbytes:
                        first, _, _ = found["content-range"].partition("/")
                        raise _TryAgain(f"{len(body)} bytes came for {first}")
                    return answer
                case 412 | 416:  # an empty file has no range; a shorter one than planned has changed
                    return _Answer.of(status, found, b"", version)
            refusal = self._urls.refusal(body)
            told = f"the server answers {status}" + "".join(f" {word}" for word in _words(refusal))
            if self._urls.is_moved(path, found):
                target = self._urls.url(path, page)
                asked = self._urls.headers(path, target, headers)
                continue
            match status:
                case 301 | 302 | 303 | 307 | 308 if "location" in found:
                    target, asked = urljoin(target, found["location"]), headers
                    if has_credentials(target):
                        raise SourceRefused(f"{path}: is redirected to a URL with credentials in it")
                case 404 | 410 if refusal.code not in _GONE_CODES:
                    return _Answer.of(status, found, b"", version)
                case 408 | 429 | 500 | 502 | 503 | 504:
                    raise _TryAgain(told, seconds_asked(found.get("retry-after", "")))
                case _ if refusal.code in _PASSING_CODES:
                    raise _TryAgain(told)
                case _:
                    raise SourceRefused(f"{path}: {told}")
        raise SourceRefused(f"{path}: redirected more than {REDIRECTS_MAX} times")

    def _once(self, target: str, headers: Mapping[str, str], size_only: bool) -> tuple[int, Mapping[str, str], bytes]:
        parts = urlsplit(target)
        connections = self._connections
        connection = connections.get(parts.scheme, parts.netloc, self._pacing.patience.timeout_s)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            ask(connection, "GET", path, {"Accept-Encoding": "identity", **headers}, None)
            response = connection.getresponse()
            # A server without ranges sends all of the file, where only its size is asked for.
            is_read = not (size_only and response.status == 200)
            body = response.read() if is_read else b""
        except BaseException:
            connections.drop(parts.scheme, parts.netloc)
            raise
        if response.will_close or not is_read:
            connections.drop(parts.scheme, parts.netloc)
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body


_GONE_CODES = ("NoSuchBucket", "ContainerNotFound")
_PASSING_CODES = (
    "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "ExpiredToken", "InternalError",
    "rateLimitExceeded", "userRateLimitExceeded",
)  # fmt: skip
"""Words of object stores for what another try may change, whatever the status; an expired token is fetched anew."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    size: int | None  # of the whole file; None: not told
    version: str
    modified_ns: int | None

    @property
    def is_missing(self) -> bool:
        return self.status in (404, 410)

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes, version: str) -> "_Answer":
        told = headers.get("content-range", "").rpartition("/")[2]
        if status == 200:
            told = headers.get("content-length", str(len(body)) if body else "")
        elif status == 416 and not told.isdigit():  # object stores leave the size of an empty object out
            told = "0"
        size = int(told) if told.isdigit() else None
        version = version or quoted(headers.get("etag", ""))
        changed = headers.get("last-modified", "")
        return cls(status, body, size, version or changed, _time_ns(changed))


class _TryAgain(Exception):
    """An answer that may be another one a moment later."""

    def __init__(self, text: str, asked_s: float = 0.0) -> None:
        super().__init__(text)
        self.asked_s = asked_s


def quoted(etag: str) -> str:
    """An ETag in the form of the standard; some stores leave its quotes out."""
    return etag if not etag or etag.startswith(('"', "W/")) else f'"{etag}"'


def _words(refusal: Refusal) -> Sequence[str]:
    return [word for word in (refusal.code, f"({refusal.message})" if refusal.message else "") if word]


def seconds_asked(text: str) -> float:
    """What Retry-After asks for, within bounds."""
    return min(float(text), RETRY_AFTER_MAX_S) if text.isdigit() else 0.0


def _time_ns(date: str) -> int | None:
    try:
        return int(parsedate_to_datetime(date).timestamp()) * 1_000_000_000 if date else None
    except ValueError:
        return None


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
        """Up to `nbytes` bytes; raises what `fetch` does, and then the next read begins where this one did."""
        begin = min(self._at, self._size)
        end = self._size if nbytes is None or nbytes < 0 else min(begin + nbytes, self._size)
        found = self._bytes(begin, end)
        self._at += end - begin
        return found

    def readall(self) -> bytes:
        """The rest, by one `fetch`."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """Fills `buffer` as far as the file goes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _bytes(self, begin: int, end: int) -> bytes:
        for start, data in self._segments:
            if start <= begin and end <= start + len(data):
                return data[begin - start : end - start]
        return self._fetch(begin, end)
