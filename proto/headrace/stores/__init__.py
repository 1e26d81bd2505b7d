"""Stores that outputs lie in: local folders and buckets of S3, behind one port (`headrace.stores.port`).

What a store needs beyond this project is imported when an output lies in one.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import BadJob, Fault
from headrace.program import StorageOptions
from headrace.stores.local import LocalStore
from headrace.uris import has_credentials

if TYPE_CHECKING:
    from headrace.stores.port import OutputStore

__all__ = ["check_plain", "is_object_store", "open_store"]


def is_object_store(uri: str) -> bool:
    """Whether an output of this URI lies in an object store, not in a folder."""
    return uri.startswith("s3://")


def open_store(uri: str, uid: str = "", storage: StorageOptions | None = None, staging: str = "") -> "OutputStore":
    """The store of one output.

    Args:
        uri: an absolute path, or ``s3://BUCKET/PREFIX``.
        uid: the job's whose output it is; "" to read only.
        storage: how an object store is reached.
        staging: the staging folder that the coordinator names.

    Raises:
        BadJob: it needs what isn't installed, or can't be reached as it is described.
    """
    check_plain("the output", uri)
    check_plain("the endpoint", storage.endpoint if storage else "")
    if not is_object_store(uri):
        return LocalStore(Path(uri), uid, Path(staging) if staging else None)
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


def check_plain(field: str, url: str) -> None:
    """Checks that a URL can be printed.

    Raises:
        BadJob: it holds a user name or password.
    """
    if has_credentials(url):
        raise BadJob([Fault(field, "a URL with a user name or password in it", _KEYS)])


_KEYS = "the URL without them: keys belong in the environment, a profile or a role"
_INSTALL = "pip install 'headrace[s3]'"
