"""Objects of S3 as signed URLs: botocore finds credentials, region and endpoint and signs; `headrace.httpfile` fetches.

Paths are ``s3://BUCKET/KEY``, the key as it is (not percent-encoded). Keys are never part of a job: the credential
chain of the SDK is asked (environment, profile, container or machine identity), and again whenever they run out.
"""

import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from headrace.errors import SourceRefused
from headrace.httpfile import Found, HttpFiles, Pacing, Refusal, quoted
from headrace.program import StorageOptions
from headrace.retries import RetryBudget
from headrace.uris import without_credentials

URL_LIFE_S = 900
"""A URL is used at once; its life covers clocks that differ."""
PAGE_KEYS = 1_000
"""Keys of one page of a listing, as many as S3 gives."""


class S3Urls:
    """Signed GETs for objects. Thread-safe."""

    has_suffix_ranges = True

    def __init__(self, storage: StorageOptions, page_keys: int = PAGE_KEYS) -> None:
        self._storage = storage
        self._page_keys = page_keys
        self._lock = threading.Lock()
        self._regions: dict[str, str] = {}  # of buckets that lie elsewhere

    def url(self, path: str, page: str | None) -> str:
        """The signed URL of an object, or of a page of the listing of keys that begin with the path's."""
        bucket, key = split_path(path)
        if page is None:
            return self._signed("get_object", bucket, {"Bucket": bucket, "Key": key})
        token = {"ContinuationToken": page} if page else {}
        return self._signed(
            "list_objects_v2", bucket, {"Bucket": bucket, "Prefix": key, "MaxKeys": self._page_keys, **token}
        )

    def headers(self, path: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Those that are needed anyway: the URL is what is signed."""
        return headers

    def version(self, headers: Mapping[str, str]) -> str:
        """The ETag."""
        return ""

    def is_moved(self, path: str, headers: Mapping[str, str]) -> bool:
        """Whether the bucket lies in another region than it was asked for in."""
        bucket, _ = split_path(path)
        region = headers.get("x-amz-bucket-region", "")
        with self._lock:
            if not region or region in (self._regions.get(bucket), self._client("").meta.region_name):
                return False
            self._regions[bucket] = region
            return True

    def refusal(self, body: bytes) -> Refusal:
        """The code and message of S3's XML."""
        try:
            found = ElementTree.fromstring(body)
        except ElementTree.ParseError:
            return Refusal()
        return Refusal(found.findtext("{*}Code") or "", found.findtext("{*}Message") or "")

    def _signed(self, operation: str, bucket: str, params: Mapping[str, Any]) -> str:
        from botocore.exceptions import BotoCoreError, CredentialRetrievalError, MetadataRetrievalError

        try:
            client = self._client(self._regions.get(bucket, ""))
            url: str = client.generate_presigned_url(operation, Params=dict(params), ExpiresIn=URL_LIFE_S)
        except (CredentialRetrievalError, MetadataRetrievalError) as error:
            raise OSError(f"no credentials: {error}") from error  # what gives them may answer later
        except (BotoCoreError, ValueError) as error:
            hint = "; storage: {anonymous: true} reads a public bucket" if "credentials" in str(error) else ""
            raise SourceRefused(f"s3://{bucket}: {without_credentials(str(error))}{hint}") from error
        return url

    def _client(self, region: str) -> Any:
        """For a region; "" is that of the job or of the environment."""
        with _making:
            return _client(self._storage, region or self._storage.region)


_making = threading.Lock()  # what finds the configuration isn't thread-safe; clients are


@cache
def _client(storage: StorageOptions, region: str) -> Any:
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    session = botocore.session.Session()

    def made(style: str) -> Any:
        return session.create_client(
            "s3",
            region_name=region or None,
            endpoint_url=storage.endpoint or None,
            config=Config(signature_version=UNSIGNED if storage.anonymous else "s3v4", s3={"addressing_style": style}),
        )

    client = made("path" if storage.endpoint else "auto")
    # Else AWS' URLs name no region, and those that they are redirected to aren't signed for.
    return made("virtual") if ".amazonaws.com" in client.meta.endpoint_url else client


def s3_files(storage: StorageOptions, pacing: Pacing, budget: RetryBudget) -> HttpFiles:
    """Objects as files.

    Raises:
        SourceRefused: botocore isn't installed.
    """
    try:
        import botocore  # noqa: F401
    except ImportError as error:
        raise SourceRefused("s3:// needs botocore: pip install 'headrace[s3]'") from error
    return HttpFiles(S3Urls(storage), pacing, budget)


def list_objects(files: HttpFiles, bucket: str, prefix: str) -> Iterator[Found]:
    """Objects whose keys begin with `prefix`, in the order of their keys, one request per PAGE_KEYS.

    Raises:
        SourceRefused, SourceUnavailable: as `HttpFiles`.
    """
    token = ""
    while True:
        page = ElementTree.fromstring(files.page(f"s3://{bucket}/{prefix}", token))
        encoded = page.findtext("{*}EncodingType") == "url"
        for item in page.iterfind("{*}Contents"):
            text = item.findtext("{*}Key") or ""
            changed = datetime.fromisoformat(item.findtext("{*}LastModified") or "1970-01-01T00:00:00Z")
            yield Found(
                path=f"s3://{bucket}/{unquote_plus(text) if encoded else text}",
                size=int(item.findtext("{*}Size") or 0),
                version=quoted(item.findtext("{*}ETag") or ""),
                modified_ns=int(changed.timestamp() * 1_000) * 1_000_000,
            )
        token = page.findtext("{*}NextContinuationToken") or ""
        if not token:
            return


def split_path(path: str) -> tuple[str, str]:
    """Bucket and key of ``s3://BUCKET/KEY``."""
    bucket, _, key = path.removeprefix("s3://").partition("/")
    return bucket, key
