"""Stores that outputs lie in: local folders, object stores and HDFS, behind one port (`headrace.stores.port`).

What a store needs beyond this project is imported when an output lies in one.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import BadJob, Fault
from headrace.program import StorageOptions
from headrace.stores.local import LocalStore
from headrace.uris import credentials_hint, has_credentials, scheme_of

if TYPE_CHECKING:
    from headrace.stores.port import OutputStore

__all__ = ["QUERY_FOUND", "QUERY_HINT", "check_plain", "has_query", "open_store"]

QUERY_FOUND = "a URL with a query or fragment in it"
QUERY_HINT = "the URL without them: tokens belong in the environment"


def open_store(uri: str, uid: str = "", storage: StorageOptions | None = None, staging: str = "") -> "OutputStore":
    """The store of one output.

    Args:
        uri: an absolute path, ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX``,
            ``abfss://CONTAINER@ACCOUNT.../PREFIX`` or ``hdfs://HOST/PATH``.
        uid: the job's whose output it is; "" to read only.
        storage: how a store behind a network is reached.
        staging: the staging folder that the coordinator names.

    Raises:
        BadJob: it needs what isn't installed, or can't be reached as it is described.
    """
    check_plain("the output", uri)
    check_plain("the endpoint", storage.endpoint if storage else "")
    if storage and has_query(storage.endpoint):
        raise BadJob([Fault("the endpoint", QUERY_FOUND, QUERY_HINT)])
    scheme = scheme_of(uri)
    try:
        match scheme:
            case "s3":
                from headrace.stores.s3 import S3Store

                return S3Store(uri, uid, storage or StorageOptions())
            case "gs":
                from headrace.stores.gcs import GcsStore

                return GcsStore(uri, uid, storage or StorageOptions())
            case "abfs" | "abfss":
                from headrace.stores.azure import AzureStore

                return AzureStore(uri, uid, storage or StorageOptions())
            case "hdfs":
                from headrace.stores.hdfs import HdfsStore

                return HdfsStore(uri, uid, storage or StorageOptions())
            case _:
                return LocalStore(Path(uri), uid, Path(staging) if staging else None)
    except ImportError as error:
        extra = "azure" if scheme.startswith("abfs") else {"gs": "gcs"}.get(scheme, scheme)
        found = f"{uri} needs a package that isn't installed: {error}"
        raise BadJob([Fault("spec.sink.uri", found, f"pip install 'headrace[{extra}]'")]) from error
    except OSError as error:
        raise BadJob([Fault("spec.sink.storage", str(error))]) from error


def has_query(endpoint: str) -> bool:
    """Whether more than a place stands in the URL of a store: maybe a token, as in Azure's URLs."""
    return "?" in endpoint or "#" in endpoint


def check_plain(field: str, url: str) -> None:
    """Checks that a URL can be printed.

    Raises:
        BadJob: it holds a user name or password.
    """
    if has_credentials(url):
        raise BadJob([Fault(field, "a URL with a user name or password in it", credentials_hint(url))])
