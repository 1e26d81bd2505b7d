"""Who asks Google Cloud Storage: tokens from the credentials that the machine has (Application Default Credentials).

Keys are never part of a job: GOOGLE_APPLICATION_CREDENTIALS, what `gcloud auth application-default login` left, or the
account of the machine, pod or workload are asked, and again before a token runs out.
"""

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote

ENDPOINT = "https://storage.googleapis.com"
_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)


class GoogleSigner:
    """Puts a token on requests (`headrace.stores.rest.Signer`). Thread-safe."""

    def __init__(self) -> None:
        """Raises ImportError where google-auth isn't installed."""
        import google.auth.transport.requests

        self._lock = threading.Lock()
        self._credentials: Any = None
        self._transport = google.auth.transport.requests.Request()

    def url(self, url: str) -> str:
        """As it is."""
        return url

    def headers(self, method: str, url: str, headers: Mapping[str, str], nbytes: int) -> Mapping[str, str]:
        """With a token that is good for a while.

        Raises:
            PermissionError: there are no credentials, or they are refused.
            OSError: whoever gives tokens doesn't answer.
        """
        import google.auth
        from google.auth import exceptions

        signed = dict(headers)
        try:
            with self._lock:
                if self._credentials is None:
                    self._credentials, _ = google.auth.default(scopes=_SCOPES)
                self._credentials.before_request(self._transport, method, url, signed)
        except exceptions.DefaultCredentialsError as error:
            raise PermissionError(f"no credentials: {error} ({_HINT})") from error
        except exceptions.GoogleAuthError as error:
            if isinstance(error, exceptions.TransportError) or getattr(error, "retryable", False):
                raise OSError(f"no token: {error}") from error
            raise PermissionError(f"no token: {error}") from error
        return signed


class Anonymous:
    """Signs nothing."""

    def url(self, url: str) -> str:
        """As it is."""
        return url

    def headers(self, method: str, url: str, headers: Mapping[str, str], nbytes: int) -> Mapping[str, str]:
        """As they are."""
        return headers


_HINT = "GOOGLE_APPLICATION_CREDENTIALS, gcloud's, the machine's; storage: {anonymous: true} reads a public bucket"


@cache
def google_signer(*, anonymous: bool) -> GoogleSigner | Anonymous:
    """One for the process: its token is fetched once. Raises ImportError where google-auth isn't installed."""
    return Anonymous() if anonymous else GoogleSigner()


def object_url(endpoint: str, bucket: str, key: str, *, kind: str = "storage/v1") -> str:
    """Of one object in the JSON API; with `kind` ``download/storage/v1`` of its bytes."""
    return f"{(endpoint or ENDPOINT).rstrip('/')}/{kind}/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"


def objects_url(endpoint: str, bucket: str, *, kind: str = "storage/v1") -> str:
    """Of the objects of a bucket."""
    return f"{(endpoint or ENDPOINT).rstrip('/')}/{kind}/b/{quote(bucket, safe='')}/o"
