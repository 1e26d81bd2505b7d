"""Requests to stores that speak plain HTTP (Google, Azure): signed, and tried again while the store is to blame.

What an answer means is the caller's to say; here only 408, 429, 5xx, resets, time-outs and bodies that end early are
told apart: they are tried again with full jitter and a budget, then `StoreUnavailable`. A request whose answer was lost
is sent again, so its effect may be there twice: callers say what that means.

Not here: reading input (`headrace.httpfile`), which knows versions and ranges.
"""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from headrace.connections import Connections, Unaskable, ask
from headrace.httpfile import Pacing, seconds_asked
from headrace.retries import RetryBudget
from headrace.stores.port import StoreUnavailable

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class Signer(Protocol):
    """Who asks. Thread-safe."""

    def url(self, url: str) -> str:
        """The URL with what it must carry."""

    def headers(self, method: str, url: str, headers: Mapping[str, str], nbytes: int) -> Mapping[str, str]:
        """All headers of a request whose body has `nbytes` bytes.

        Raises:
            PermissionError: there are no credentials, or those that give them refuse.
            OSError: those that give them don't answer.
        """


@dataclass(frozen=True, slots=True)
class Answer:
    """What a store said."""

    status: int
    headers: Mapping[str, str]  # names in small letters
    body: bytes


class Rest:
    """One client of one store. Thread-safe; each thread keeps its connections."""

    def __init__(self, signer: Signer, pacing: Pacing, budget: RetryBudget) -> None:
        self._signer = signer
        self._pacing = pacing
        self._budget = budget
        self._connections = Connections()

    def send(
        self, place: str, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """One request, tried again while the store is to blame; any other answer is given back.

        Args:
            place: what errors call it.

        Raises:
            StoreUnavailable: after all tries.
            PermissionError: there are no credentials.
            OSError: HTTP can't carry it.
        """
        pacing, began, failures = self._pacing, self._pacing.now(), 0
        while True:
            asked_s = 0.0
            cause: Exception | None = None
            try:
                answer = self._once(method, url, headers or {}, body)
                if answer.status not in TRANSIENT:
                    self._budget.answered(failures)
                    return answer
                text = f"the store answers {answer.status}"
                asked_s = seconds_asked(answer.headers.get("retry-after", ""))
            except PermissionError:
                raise
            except Unaskable as error:
                raise OSError(f"{place}: {error}") from None
            except (OSError, http.client.HTTPException) as error:
                text, cause = str(error) or type(error).__name__, error
            failures += 1
            wait_s = pacing.patience.wait(failures, pacing.now() - began, pacing.draw(), asked_s)
            if wait_s is None or not self._budget.take():
                raise StoreUnavailable(f"{place}: {text} (tries: {failures})") from cause
            pacing.sleep(wait_s)

    def attempt(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer | None:
        """One request that is made once; None where no answer came."""
        try:
            return self._once(method, url, headers or {}, body)
        except (OSError, http.client.HTTPException, Unaskable):
            return None

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        target = self._signer.url(url)
        parts = urlsplit(target)
        signed = self._signer.headers(method, target, headers, len(body))
        connections = self._connections
        connection = connections.get(parts.scheme, parts.netloc, self._pacing.patience.timeout_s)
        try:
            ask(
                connection,
                method,
                parts.path + (f"?{parts.query}" if parts.query else ""),
                {**signed, "Accept-Encoding": signed.get("Accept-Encoding", "identity")},
                body if body or method in ("PUT", "POST") else None,
            )
            response = connection.getresponse()
            data = response.read()
        except BaseException:
            connections.drop(parts.scheme, parts.netloc)
            raise
        if response.will_close:
            connections.drop(parts.scheme, parts.netloc)
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, data)
