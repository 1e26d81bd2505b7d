"""Requests to one bucket of an S3 store: retries, and failures as OSErrors.

    FileNotFoundError   no such object         FileExistsError   the name is taken (If-None-Match)
    NoSuchUpload        no such upload         PermissionError   refused, or no credentials
    BadUpload           it can't be completed
    StoreUnavailable    throttled, failing or silent, after all tries
    OSError             anything else

A request whose answer was lost is sent again, so its effect may be there twice: callers say what that means.

Not here: outputs (`headrace.stores.s3`), uploads (`headrace.stores.s3_upload`).
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import botocore.config
import botocore.exceptions
import botocore.session
from botocore import UNSIGNED

from headrace.httpfile import Pacing
from headrace.program import StorageOptions
from headrace.retries import RetryBudget
from headrace.stores.bucket_store import TOKEN, Head
from headrace.stores.port import StoreUnavailable
from headrace.stores.writing import PATIENCE
from headrace.uris import without_credentials

T = TypeVar("T")

CONNECTIONS = 32
"""Of one process to one store."""
CONNECT_S = 5.0
"""A store that is there takes a connection in far less."""

_TRANSIENT_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
}
_LOST = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ResponseStreamingError,
)


class NoSuchUpload(OSError):
    """The store knows no such multipart upload: it was completed, aborted, or never was."""


class BadUpload(OSError):
    """The store will never complete this upload: it has lost or changed parts."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that isn't complete."""

    key: str
    id: str


class Bucket:
    """One bucket. Thread-safe; making it sends nothing."""

    def __init__(self, name: str, storage: StorageOptions, pacing: Pacing | None = None) -> None:
        """Raises OSError where the store's own configuration is no good."""
        self.name = name
        self._pacing = pacing or Pacing(PATIENCE)
        self._budget = _budget(storage)
        try:
            self._client = _client(storage, self._pacing.patience.timeout_s)
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise OSError(f"s3://{name}: {error}") from error

    @property
    def place(self) -> str:
        """Its URI."""
        return f"s3://{self.name}"

    def call(self, operation: str, key: str = "", **params: Any) -> dict[str, Any]:
        """One request, tried again while the store is to blame. Bodies of answers aren't read."""
        return self._answered(lambda: getattr(self._client, operation)(**self._params(key, params)), key)

    def attempt(self, operation: str, key: str, **params: Any) -> None:
        """One request that is made once and may fail."""
        with contextlib.suppress(botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
            getattr(self._client, operation)(**self._params(key, params))

    def get(self, key: str, begin: int, end: int, version: str) -> bytes:
        """Bytes ``[begin, end)`` of an object; fewer than asked for count as a lost answer.

        Raises:
            OSError: also where it isn't of that version.
        """
        if end <= begin:
            return b""
        params = self._params(key, {"Range": f"bytes={begin}-{end - 1}", "IfMatch": version})

        def work() -> bytes:
            body = self._client.get_object(**params)["Body"]
            try:
                data: bytes = body.read()
            finally:
                body.close()
            if len(data) != end - begin:
                raise botocore.exceptions.IncompleteReadError(actual_bytes=len(data), expected_bytes=end - begin)
            return data

        return self._answered(work, key)

    def head(self, key: str) -> Head | None:
        """What is known of an object, None where there is none."""
        try:
            found = self.call("head_object", key)
        except FileNotFoundError:
            return None
        return Head(int(found["ContentLength"]), found["ETag"], found.get("Metadata", {}).get(TOKEN, ""))

    def put(self, key: str, body: bytes, token: str) -> None:
        """Creates an object; FileExistsError: there is one, maybe this, when an answer was lost."""
        self.call("put_object", key, Body=body, IfNoneMatch="*", Metadata={TOKEN: token})

    def keys(self, prefix: str, *, deep: bool = True) -> Iterator[str]:
        """Keys that begin with `prefix`; not `deep`: without those that have a further ``/``."""
        params: dict[str, Any] = {"Prefix": prefix} | ({} if deep else {"Delimiter": "/"})
        while True:
            page = self.call("list_objects_v2", **params)
            for item in page.get("Contents", ()):
                yield item["Key"]
            if not page.get("IsTruncated"):
                return
            params["ContinuationToken"] = page["NextContinuationToken"]

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Multipart uploads to keys that begin with `prefix` and that are neither complete nor aborted."""
        params: dict[str, Any] = {"Prefix": prefix}
        while True:
            page = self.call("list_multipart_uploads", **params)
            for item in page.get("Uploads", ()):
                if item["Key"].startswith(prefix):
                    yield Upload(item["Key"], item["UploadId"])
            if not page.get("IsTruncated"):
                return
            params |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}

    def delete(self, keys: list[str]) -> None:
        """Deletes up to 1,000 objects; those that are gone already are fine."""
        found = self.call("delete_objects", Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
        for error in found.get("Errors", ()):
            raise OSError(f"s3://{self.name}/{error['Key']} can't be deleted: {error.get('Message', error['Code'])}")

    def _params(self, key: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"Bucket": self.name, **({"Key": key} if key else {}), **params}

    def _answered(self, work: Callable[[], T], key: str) -> T:
        place = f"s3://{self.name}/{key}" if key else f"s3://{self.name}"
        pacing, began, failures = self._pacing, self._pacing.now(), 0
        while True:
            try:
                answer = work()
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
                failures += 1
                wait_s = pacing.patience.wait(failures, pacing.now() - began, pacing.draw())
                if wait_s is None or not _is_transient(error) or not self._budget.take():
                    raise _os_error(place, error) from error
            else:
                self._budget.answered(failures)
                return answer
            pacing.sleep(wait_s)


_making = threading.Lock()  # a session isn't thread-safe, its clients are


@cache
def _session() -> Any:
    return botocore.session.get_session()


@cache
def _budget(storage: StorageOptions) -> RetryBudget:
    return RetryBudget()  # one for all buckets of a store: they throttle and fail together


@cache
def _cached_client(storage: StorageOptions, timeout_s: float) -> Any:
    config = botocore.config.Config(
        connect_timeout=min(CONNECT_S, timeout_s),
        read_timeout=timeout_s,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1},  # tried again here, with a budget
        # Checksums in trailers are AWS' own; Content-MD5, which uploads send, is known to every store.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **({"signature_version": UNSIGNED} if storage.anonymous else {}),
        **({"s3": {"addressing_style": "path"}} if storage.endpoint else {}),
    )
    region = storage.region or _session().get_config_variable("region") or "us-east-1"
    made = _session().create_client("s3", region_name=region, endpoint_url=storage.endpoint or None, config=config)
    made.meta.events.register("before-parse.s3", _refuse_half)
    return made


def _refuse_half(response_dict: dict[str, Any], **_: object) -> None:
    """A body shorter than its header says is a lost answer; of half an error the SDK makes one without its code."""
    body, nbytes = response_dict["body"], response_dict["headers"].get("content-length")
    has_body = isinstance(body, bytes) and not response_dict["context"]["operation_name"].startswith("Head")
    if has_body and nbytes and response_dict["status_code"] not in (204, 304) and len(body) < int(nbytes):
        raise botocore.exceptions.IncompleteReadError(actual_bytes=len(body), expected_bytes=int(nbytes))


def _client(storage: StorageOptions, timeout_s: float) -> Any:
    with _making:
        return _cached_client(storage, timeout_s)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, botocore.exceptions.ClientError):
        return _status(error) in _TRANSIENT_STATUS or _code(error) in _TRANSIENT_CODES
    if type(error) is botocore.exceptions.HTTPClientError:  # stands for whatever the sending raised
        return isinstance(error.__cause__ or error.__context__, OSError)
    return isinstance(error, _LOST) and not isinstance(error, botocore.exceptions.SSLError)


def _os_error(place: str, error: Exception) -> OSError:
    if not isinstance(error, botocore.exceptions.ClientError):
        told = without_credentials(str(error))  # of an endpoint that the environment names
        if isinstance(error, botocore.exceptions.NoCredentialsError | botocore.exceptions.CredentialRetrievalError):
            return PermissionError(f"{place}: {told} (environment, profile or role; or storage.anonymous)")
        return StoreUnavailable(f"{place}: {told}") if _is_transient(error) else OSError(f"{place}: {told}")
    status, code = _status(error), _code(error)
    text = f"{place}: {error.response.get('Error', {}).get('Message') or code} ({code})"
    if _is_transient(error):
        return StoreUnavailable(text)
    if code == "NoSuchUpload":
        return NoSuchUpload(text)
    if code in {"EntityTooSmall", "InvalidPart", "InvalidPartOrder"}:
        return BadUpload(text)
    if code == "NoSuchBucket":
        return OSError(text)
    if status == 404:
        return FileNotFoundError(text)
    if status == 412:
        return FileExistsError(text)
    return PermissionError(text) if status in {401, 403} else OSError(text)


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
