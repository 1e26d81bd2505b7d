"""What a path of an input file says about how it is reached, and that it holds no credentials.

A URL is printed, journaled and written into manifests, so one that holds a password is refused where it is first read.
"""

import re

_USER = re.compile(r"(?<=://)[^/?#\s'\"]*(?=@)|(?<=://)[^/?#\s@:'\"\[]*:(?!\d*(?:[/?#\s'\"]|$))[^\s'\"]*(?=@)")
"""What stands before the @ of a host; also a password in which a / or ? isn't written as %2F or %3F."""
_CONTAINER = re.compile(r"[$a-z0-9-]*")


def has_credentials(uri: str) -> bool:
    """Whether a URL names a user, with a password or without; the container of ``abfss://CONTAINER@...`` is none."""
    return any(not _is_container(found) for found in _USER.finditer(uri))


def without_credentials(text: str) -> str:
    """`text` with stars for the user and password of every URL in it."""
    return _USER.sub(lambda found: found[0] if _is_container(found) else "***", text)


def _is_container(found: re.Match[str]) -> bool:
    before = found.string[: found.start()]
    return before.endswith(("abfs://", "abfss://")) and _CONTAINER.fullmatch(found[0]) is not None


STORES = ("s3", "gs", "abfs", "abfss", "hdfs")
"""Schemes of stores behind a network that outputs lie in, and that can list what they have."""


def scheme_of(path: str) -> str:
    """``s3`` of ``s3://...``, "" of a local path."""
    scheme, found, _ = path.partition("://")
    return scheme if found else ""


def is_in_store(path: str) -> bool:
    """Whether `path` is the URI of an object, a prefix or a folder in one of STORES."""
    return scheme_of(path) in STORES


def is_remote(path: str) -> bool:
    """Whether `path` is a URI that is read over the network (`headrace.remote_files`)."""
    return scheme_of(path) in ("http", "https", *STORES)


def bucket_form(path: str) -> str:
    """How a URI of the store of `path` begins, for whoever named no bucket or host."""
    match scheme_of(path):
        case "abfs" | "abfss" as scheme:
            return f"{scheme}://CONTAINER@ACCOUNT.dfs.core.windows.net"
        case "hdfs":
            return "hdfs://HOST"
        case scheme:
            return f"{scheme}://BUCKET"


def store_of(path: str) -> str:
    """The store that holds a remote file, as people name it: its bucket or web server."""
    return "/".join(path.split("/", 3)[:3])
