"""Stores that outputs lie in: local folders, S3 and HDFS, behind one port (`headrace.stores.port`).

What a store needs beyond this project is imported when an output lies in one.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import BadJob, Fault
from headrace.program import StorageOptions
from headrace.stores.local import LocalStore

if TYPE_CHECKING:
    from headrace.stores.port import OutputStore

__all__ = ["is_object_store", "open_store"]


def is_object_store(uri: str) -> bool:
    """Whether an output of this URI lies in a store behind a network, not in a local folder."""
    return uri.startswith(("s3://", "hdfs://"))


def open_store(uri: str, uid: str = "", storage: StorageOptions | None = None, staging: str = "") -> "OutputStore":
    """The store of one output.

    Args:
        uri: an absolute path, ``s3://BUCKET/PREFIX`` or ``hdfs://HOST/PATH``.
        uid: the job's whose output it is; "" to read only.
        storage: how an object store is reached.
        staging: the staging folder that the coordinator names.

    Raises:
        BadJob: it needs what isn't installed, or can't be reached as it is described.
    """
    if not is_object_store(uri):
        return LocalStore(Path(uri), uid, Path(staging) if staging else None)
    if uri.startswith("hdfs://"):
        from headrace.stores.hdfs import HdfsStore

        try:
            return HdfsStore(uri, uid, storage or StorageOptions())
        except OSError as error:
            raise BadJob([Fault("spec.sink.storage", str(error))]) from error
    try:
        from headrace.stores.s3 import S3Store
    except ImportError as error:
        raise BadJob(
            [Fault("spec.sink.uri", f"{uri} needs a package that isn't installed: {error}", _INSTALL)]
        ) from error
    try:
        return S3Store(uri, uid, storage or StorageOptions())
    except OSError as error:
        raise BadJob([Fault("spec.sink.storage", str(error))]) from error


_INSTALL = "pip install 'headrace[s3]'"
