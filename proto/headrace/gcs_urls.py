"""Objects of Google Cloud Storage as URLs of its JSON API; `headrace.httpfile` fetches.

Paths are ``gs://BUCKET/KEY``, the key as it is (not percent-encoded). The version of an object is its generation: ETags
of the listing and of the bytes aren't the same.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from headrace.errors import SourceRefused
from headrace.google_auth import google_signer, object_url, objects_url
from headrace.httpfile import Found, HttpFiles, Pacing, Refusal
from headrace.program import StorageOptions
from headrace.retries import RetryBudget

PAGE_KEYS = 1_000
"""Keys of one page of a listing, as many as the store gives."""
_FIELDS = "nextPageToken,items(name,size,generation,updated)"


class GcsUrls:
    """GETs of objects with a token. Thread-safe."""

    has_suffix_ranges = True

    def __init__(self, storage: StorageOptions, page_keys: int = PAGE_KEYS) -> None:
        """Raises ImportError where google-auth isn't installed."""
        self._endpoint = storage.endpoint
        self._page_keys = page_keys
        self._signer = google_signer(anonymous=storage.anonymous)

    def url(self, path: str, page: str | None) -> str:
        """The URL of an object's bytes, or of a page of the listing of keys that begin with the path's."""
        bucket, key = split_path(path)
        if page is None:
            return object_url(self._endpoint, bucket, key, kind="download/storage/v1") + "?alt=media"
        query = {"prefix": key, "maxResults": str(self._page_keys), "fields": _FIELDS, "pageToken": page}
        return f"{objects_url(self._endpoint, bucket)}?{urlencode({k: v for k, v in query.items() if v})}"

    def headers(self, path: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """With a token; and bytes are wanted as they are stored, also those that are stored compressed."""
        as_stored = {"Accept-Encoding": "gzip"} if "alt=media" in url else {}
        try:
            return self._signer.headers("GET", url, {**headers, **as_stored}, 0)
        except PermissionError as error:
            raise SourceRefused(f"gs://: {error}") from error

    def version(self, headers: Mapping[str, str]) -> str:
        """The generation."""
        return headers.get("x-goog-generation", "")

    def is_moved(self, path: str, headers: Mapping[str, str]) -> bool:
        """False: all buckets are reached alike."""
        return False

    def refusal(self, body: bytes) -> Refusal:
        """The reason and message of the store's JSON."""
        return refusal_of(body)


def refusal_of(body: bytes) -> Refusal:
    """Why the store refuses: ``NoSuchBucket``, or its own word."""
    try:
        error = json.loads(body)["error"]
        message = str(error.get("message", ""))
        reasons = [str(each.get("reason", "")) for each in error.get("errors", ())]
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refusal()
    if "bucket does not exist" in message:
        return Refusal("NoSuchBucket", message)
    return Refusal(reasons[0] if reasons else "", message)


def gcs_files(storage: StorageOptions, pacing: Pacing, budget: RetryBudget) -> HttpFiles:
    """Objects as files.

    Raises:
        SourceRefused: google-auth isn't installed.
    """
    try:
        return HttpFiles(GcsUrls(storage), pacing, budget)
    except ImportError as error:
        raise SourceRefused("gs:// needs google-auth: pip install 'headrace[gcs]'") from error


def list_gcs(files: HttpFiles, path: str) -> Iterator[Found]:
    """Objects whose paths begin with `path`, in the order of their keys, one request per PAGE_KEYS.

    Raises:
        SourceRefused, SourceUnavailable: as `HttpFiles`.
    """
    bucket, _ = split_path(path)
    token = ""
    while True:
        page: dict[str, Any] = json.loads(files.page(path, token))
        for item in page.get("items", ()):
            changed = datetime.fromisoformat(item.get("updated", "1970-01-01T00:00:00Z"))
            yield Found(
                path=f"gs://{bucket}/{item['name']}",
                size=int(item.get("size", 0)),
                version=str(item["generation"]),
                modified_ns=int(changed.timestamp()) * 1_000_000_000,  # as its headers tell it
            )
        token = page.get("nextPageToken", "")
        if not token:
            return


def split_path(path: str) -> tuple[str, str]:
    """Bucket and key of ``gs://BUCKET/KEY``."""
    bucket, _, key = path.removeprefix("gs://").partition("/")
    return bucket, key
