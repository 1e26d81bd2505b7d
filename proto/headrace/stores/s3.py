"""An output in an S3 bucket: its files are multipart uploads, completed when they are published.

Staging is the uploads themselves: their parts lie in the bucket and no reader sees them. So taking a commit away from
its worker means completing its uploads, or finding that they are gone.

Not here: what outputs in all object stores share (`headrace.stores.bucket_store`), requests
(`headrace.stores.s3_client`), uploads (`headrace.stores.s3_upload`).
"""

from collections.abc import Iterable, Iterator

from headrace.httpfile import Pacing
from headrace.program import StorageOptions
from headrace.publish import HIDDEN, StagingGone, parse_part_name
from headrace.stores.bucket_store import PART_BYTES, BucketStore
from headrace.stores.port import Committed
from headrace.stores.s3_client import BadUpload, Bucket
from headrace.stores.s3_upload import Staging, abort, complete, is_parked, parked_from
from headrace.stores.writing import each, sink_errors


class S3Store(BucketStore):
    """One output below a prefix of a bucket."""

    def __init__(
        self,
        uri: str,
        uid: str,
        storage: StorageOptions,
        pacing: Pacing | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        """Sends nothing.

        Args:
            uri: ``s3://BUCKET/PREFIX``.
            uid: the job's, whose files these are; "" to read only.
            storage: how the store is reached.
            pacing: of requests and their retries.
            part_bytes: size of a file's first parts; AWS takes 5 MiB and more.
        """
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._bucket = Bucket(bucket, storage, pacing)
        self._part_bytes = part_bytes
        super().__init__(self._bucket, prefix, uid)

    def publish_taken(self, files: Iterable[Committed]) -> None:
        """Completes the files' uploads, several at once; one that can't ever be completed is aborted for good."""
        each(self._publish_or_abort, files)

    def staged_names(self) -> Iterator[str]:
        """Of the uploads with this job's uid."""
        for upload in self._bucket.uploads(self._prefix):
            if self._is_own(upload.key):
                yield upload.key.rpartition("/")[2]

    def drop_staged(self) -> None:
        """Aborts every upload with this job's uid, so that no worker, however late it wakes, completes one.

        And uploads of manifests: who may write here, writes none now.
        """
        manifests = self._key(f"{HIDDEN}/manifest-")
        found = list(self._bucket.uploads(self._prefix))
        own = [upload for upload in found if self._is_own(upload.key) or upload.key.startswith(manifests)]
        each(lambda upload: abort(self._bucket, upload.key, upload.id), own)

    # ------------------------------------------------------------------ inside

    def _growing(self, name: str) -> Staging:
        return Staging(self._bucket, self._key(name), self._part_bytes)

    def _complete(self, name: str, staged: str, size: int) -> None:
        complete(self._bucket, self._key(name), parked_from(staged), size)

    def _is_there(self, name: str, staged: str, size: int) -> bool:
        parked, key = parked_from(staged), self._key(name)
        return is_parked(self._bucket, key, parked, size) or self._is_completed(name, parked.token, size)

    def _publish_or_abort(self, file: Committed) -> None:
        parked, key = parked_from(file.staged), self._key(file.name)
        with sink_errors(f"{self.place_of(file.name)} can't be published"):
            try:
                complete(self._bucket, key, parked, file.size)
            except BadUpload as error:
                abort(self._bucket, key, parked.id)
                if not self._is_completed(file.name, parked.token, file.size):
                    raise StagingGone(str(error)) from error

    def _is_own(self, key: str) -> bool:
        parsed = parse_part_name(key.rpartition("/")[2])
        return parsed is not None and parsed[1] == self._uid[:8]
