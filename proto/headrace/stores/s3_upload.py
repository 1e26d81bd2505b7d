"""Files on their way to S3: multipart uploads that are completed only when the file is published.

    Staging ──append──▶ parts ──finish──▶ Parked, as text ──(commit)──▶ complete ──▶ the object

The parts are invisible and durable. An upload writes a token of its own into the object's metadata; an object with it
is this upload's, whose bytes the list of parts fixes. So an object found under the final name counts as published by
its token and size: a store wants metadata when an upload begins, and then nobody knows the digest.

Not here: requests and their retries (`headrace.stores.s3_client`).
"""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Any

from headrace.errors import SinkError
from headrace.publish import StagingGone
from headrace.stores.bucket_store import TOKEN, is_made
from headrace.stores.parts import Parts
from headrace.stores.s3_client import Bucket, NoSuchUpload

PARTS_GROW = 1000
"""After so many parts their size doubles: S3 takes 10,000 of them, and 5 TB."""
ABORTS_MAX = 20
"""Requests until the store must have forgotten an upload: parts that were under way can outlive one."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A finished upload that isn't completed."""

    id: str
    token: str
    parts: tuple[str, ...]  # ETags, in order

    def to_text(self) -> str:
        """As it stands in a commit."""
        return json.dumps([self.id, self.token, *self.parts], separators=(",", ":"))


def parked_from(text: str) -> Parked:
    """Reads what `to_text` wrote.

    Raises:
        SinkError: it isn't that.
    """
    try:
        upload, token, *parts = json.loads(text)
    except (ValueError, TypeError) as error:
        raise SinkError(f"{text[:80]!r} says of no upload where it is staged.") from error
    if not parts or not all(isinstance(item, str) and item for item in (upload, token, *parts)):
        raise SinkError(f"{text[:80]!r} says of no upload where it is staged.")
    return Parked(upload, token, tuple(parts))


class Staging(Parts):
    """One file being uploaded. Used by one thread at a time; parts go out in others."""

    def __init__(self, bucket: Bucket, key: str, part_bytes: int) -> None:
        """`part_bytes` is the size of the first parts."""
        super().__init__(part_bytes)
        self._bucket = bucket
        self._key = key
        self._token = secrets.token_hex(16)
        self._upload = ""  # its id, once there is one
        self._etags: list[str] = []

    def finish(self) -> str:
        """Waits until the store has all parts."""
        self._flush()
        return Parked(self._upload, self._token, tuple(self._etags)).to_text()

    def discard(self) -> None:
        """Aborts the upload."""
        self._cancel()
        if self._upload:
            self._bucket.attempt("abort_multipart_upload", self._key, UploadId=self._upload)
            self._upload = ""

    def _begin(self) -> None:
        made = self._bucket.call("create_multipart_upload", self._key, Metadata={TOKEN: self._token})
        self._upload = made["UploadId"]

    def _size_of(self, number: int) -> int:
        return part_size(self._part_bytes, number)

    def _put(self, number: int, body: bytes) -> str:
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        answer = self._bucket.call(
            "upload_part", self._key, UploadId=self._upload, PartNumber=number + 1, Body=body, ContentMD5=digest
        )
        return str(answer["ETag"])

    def _arrived(self, number: int, called: str) -> None:
        self._etags.append(called)


def complete(bucket: Bucket, key: str, parked: Parked, size: int) -> None:
    """Makes an upload the object `key`; again, or after another party did, changes nothing.

    Raises:
        StagingGone: there is neither the upload nor its object.
        NameTaken: the object is another upload's.
        OSError: the store fails or refuses.
    """
    parts = [{"PartNumber": i + 1, "ETag": etag} for i, etag in enumerate(parked.parts)]
    try:
        bucket.call(
            "complete_multipart_upload",
            key,
            UploadId=parked.id,
            MultipartUpload={"Parts": parts},
            IfNoneMatch="*",
        )
    except (NoSuchUpload, FileExistsError) as error:
        # Also when this very request was sent twice, for want of an answer. Looked at only now: an upload that is gone
        # has either become the object before or never will.
        if not is_made(bucket, key, parked.token, size):
            raise StagingGone(f"s3://{bucket.name}/{key} isn't published and its upload is gone.") from error


def is_parked(bucket: Bucket, key: str, parked: Parked, size: int) -> bool:
    """Whether the store still holds all parts of an upload."""
    found: list[tuple[str, int]] = []
    params: dict[str, Any] = {"UploadId": parked.id}
    try:
        while True:
            page = bucket.call("list_parts", key, **params)
            found += [(part["ETag"], int(part["Size"])) for part in page.get("Parts", ())]
            if not page.get("IsTruncated"):
                break
            params["PartNumberMarker"] = page["NextPartNumberMarker"]
    except NoSuchUpload:
        return False
    return tuple(etag for etag, _ in found) == parked.parts and sum(nbytes for _, nbytes in found) == size


def abort(bucket: Bucket, key: str, upload: str) -> None:
    """Aborts an upload until the store knows it no more; one that is gone is fine.

    Raises:
        OSError: the store fails, or goes on knowing it.
    """
    for _ in range(ABORTS_MAX):
        try:
            bucket.call("abort_multipart_upload", key, UploadId=upload)
            bucket.call("list_parts", key, UploadId=upload)
        except NoSuchUpload:
            return
    raise OSError(f"s3://{bucket.name}/{key}: its upload {upload} is there after {ABORTS_MAX} requests to abort it")


def part_size(first: int, number: int) -> int:
    """Bytes of the part that `number` others precede, where the first has `first`."""
    return first << (number // PARTS_GROW)
