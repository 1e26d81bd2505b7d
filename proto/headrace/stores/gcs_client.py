"""Requests to one bucket of Google Cloud Storage, by its JSON API; failures as OSErrors.

    FileNotFoundError   no such object         FileExistsError   the name is taken (ifGenerationMatch=0)
    PermissionError     refused, or no credentials
    StoreUnavailable    throttled, failing or silent, after all tries
    OSError             anything else

Not here: outputs and how their files are staged (`headrace.stores.gcs`), tries (`headrace.stores.rest`).
"""

import base64
import contextlib
import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlencode

from headrace.gcs_urls import refusal_of
from headrace.google_auth import google_signer, object_url, objects_url
from headrace.httpfile import Pacing
from headrace.program import StorageOptions
from headrace.retries import RetryBudget
from headrace.stores.bucket_store import TOKEN, Head
from headrace.stores.port import StoreUnavailable
from headrace.stores.rest import Answer, Rest
from headrace.stores.writing import PATIENCE, each

COMPOSED_MAX = 32
"""Objects that one request puts together, as many as the store takes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One generation of one object."""

    key: str
    generation: str
    size: int


class Bucket:
    """One bucket. Thread-safe; making it sends nothing."""

    def __init__(self, name: str, storage: StorageOptions, pacing: Pacing | None = None) -> None:
        """Raises ImportError where google-auth isn't installed."""
        self.name = name
        self._endpoint = storage.endpoint
        signer = google_signer(anonymous=storage.anonymous)
        self._rest = Rest(signer, pacing or Pacing(PATIENCE), _budget(storage.endpoint))

    @property
    def place(self) -> str:
        """Its URI."""
        return f"gs://{self.name}"

    def head(self, key: str) -> Head | None:
        """What is known of an object, None where there is none."""
        try:
            found = json.loads(self._send("GET", key, self._url(key, fields="size,generation,metadata")).body)
        except FileNotFoundError:
            return None
        return Head(int(found["size"]), str(found["generation"]), found.get("metadata", {}).get(TOKEN, ""))

    def get(self, key: str, begin: int, end: int, version: str) -> bytes:
        """Bytes ``[begin, end)`` of one generation of an object, as they are stored."""
        if end <= begin:
            return b""
        url = object_url(self._endpoint, self.name, key, kind="download/storage/v1")
        headers = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "gzip"}
        answer = self._send("GET", key, f"{url}?alt=media&generation={version}", headers)
        data = answer.body if answer.status == 206 else answer.body[begin:end]
        if len(data) != end - begin:
            raise OSError(f"{self.place}/{key}: {len(data)} bytes came for {end - begin}")
        return data

    def put(self, key: str, body: bytes, token: str) -> None:
        """Creates an object; FileExistsError: there is one, maybe this, when an answer was lost."""
        self.insert(key, body, token)

    def insert(self, key: str, body: bytes, token: str) -> str:
        """As `put`; gives the generation."""
        # The MD5 makes the store refuse bytes that changed on their way.
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        about = {"name": key, "contentType": _BYTES, "md5Hash": digest, "metadata": {TOKEN: token}}
        mark = secrets.token_hex(16)
        head = f"--{mark}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(about)}\r\n--{mark}\r\n"
        whole = b"".join(
            (head.encode(), f"Content-Type: {_BYTES}\r\n\r\n".encode(), body, f"\r\n--{mark}--\r\n".encode())
        )
        query = urlencode({"uploadType": "multipart", "name": key, "ifGenerationMatch": "0", "fields": "generation"})
        url = f"{objects_url(self._endpoint, self.name, kind='upload/storage/v1')}?{query}"
        answer = self._send("POST", key, url, {"Content-Type": f"multipart/related; boundary={mark}"}, whole)
        return str(json.loads(answer.body)["generation"])

    def compose(self, key: str, pieces: Sequence[Piece], token: str) -> str:
        """Creates an object of the bytes of others, one after the other; gives the generation.

        Raises:
            FileNotFoundError: one of them isn't there.
            FileExistsError: there is an object `key`, maybe this; or one of them isn't there in that generation.
        """
        assert 0 < len(pieces) <= COMPOSED_MAX
        # As conditions: a generation that is asked for is found where versions are kept, also after it was deleted.
        wanted = [
            {"name": piece.key, "objectPreconditions": {"ifGenerationMatch": piece.generation}} for piece in pieces
        ]
        body = {
            "sourceObjects": wanted,
            "destination": {"contentType": _BYTES, "metadata": {TOKEN: token}},
        }
        url = f"{self._url(key)}/compose?ifGenerationMatch=0&fields=generation"
        answer = self._send("POST", key, url, {"Content-Type": "application/json"}, json.dumps(body).encode())
        return str(json.loads(answer.body)["generation"])

    def keys(self, prefix: str, *, deep: bool = True) -> Iterator[str]:
        """Keys that begin with `prefix`; not `deep`: without those that have a further ``/``."""
        for item in self._listed(prefix, deep, "name"):
            yield item["name"]

    def pieces(self, prefix: str) -> Iterator[Piece]:
        """Objects whose keys begin with `prefix`."""
        for item in self._listed(prefix, True, "name,generation,size"):
            yield Piece(item["name"], str(item["generation"]), int(item["size"]))

    def piece(self, key: str) -> Piece | None:
        """An object, None where there is none."""
        found = self.head(key)
        return None if found is None else Piece(key, found.version, found.size)

    def delete(self, keys: list[str]) -> None:
        """Deletes objects, several at once; those that are gone already are fine."""
        each(self._delete, keys)

    def forget(self, keys: list[str]) -> None:
        """Deletes objects as far as that is possible now, one after the other."""
        for key in keys:
            self._rest.attempt("DELETE", self._url(key))

    # ------------------------------------------------------------------ inside

    def _delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._send("DELETE", key, self._url(key))

    def _listed(self, prefix: str, deep: bool, fields: str) -> Iterator[dict[str, Any]]:
        query = {"prefix": prefix, "fields": f"nextPageToken,items({fields})"} | ({} if deep else {"delimiter": "/"})
        while True:
            answer = self._send("GET", prefix, f"{objects_url(self._endpoint, self.name)}?{urlencode(query)}")
            page = json.loads(answer.body)
            yield from page.get("items", ())
            if not page.get("nextPageToken"):
                return
            query["pageToken"] = page["nextPageToken"]

    def _url(self, key: str, **query: str) -> str:
        return object_url(self._endpoint, self.name, key) + (f"?{urlencode(query)}" if query else "")

    def _send(
        self, method: str, key: str, url: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        place = f"{self.place}/{key}" if key else self.place
        answer = self._rest.send(place, method, url, headers, body)
        if answer.status < 300:
            return answer
        refusal = refusal_of(answer.body)
        raise _os_error(place, answer.status, refusal.code, refusal.message)


_BYTES = "application/octet-stream"


@cache
def _budget(endpoint: str) -> RetryBudget:
    return RetryBudget()  # one for all buckets of a store: they throttle and fail together


def _os_error(place: str, status: int, code: str, message: str) -> OSError:
    text = f"{place}: the store answers {status}" + "".join(f" {word}" for word in (code, message) if word)
    if code in ("rateLimitExceeded", "userRateLimitExceeded"):
        return StoreUnavailable(text)
    match status:
        case 404 if code != "NoSuchBucket":
            return FileNotFoundError(text)
        case 412:
            return FileExistsError(text)
        case 401 | 403:
            return PermissionError(text)
        case _:
            return OSError(text)
