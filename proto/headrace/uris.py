"""What a path of an input file or of an output says about how it is reached, and that it names no user.

A URL is printed, journaled and written into manifests, so one with a user name or password before its host is refused
where it is first read. Its query is part of the path: what is secret in a presigned URL (``?X-Amz-Signature=...``,
``?sig=...``) isn't seen here, and stands in plans, ledgers and manifests.
"""

import re

_USER = re.compile(
    r"(?<=://)[^/?#\s'\"]*(?=@)|"
    r"(?<=://)(?!arn:[\w-]+:s3)[^/?#\s@:'\"\[]*:(?!\d*(?:[/?#\s'\"]|$))[^\s'\"]*(?=@)"
)
"""What stands before the @ of a host; also a password in which a / or ? isn't written as %2F or %3F.

An access point's ARN has colons before its / too, and the @ in a key behind it is none of a host.
"""
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_OF_AZURE = ("abfs", "abfss", "wasb", "wasbs")
_CONTAINER = re.compile(r"[$\w.-]{0,63}", re.ASCII)
"""Also of names that Azure takes for none: they are no secret, and what is wrong with them is told elsewhere."""


def has_credentials(uri: str) -> bool:
    """Whether a URL names a user, with a password or without; the container of ``abfss://CONTAINER@...`` is none.

    A local path may have a URL's letters in it. Of several URLs in one text all are looked at.
    """
    return _URL.match(uri) is not None and any(not _is_container(found) for found in _USER.finditer(uri))


def without_credentials(text: str) -> str:
    """`text` with stars for the user and password of every URL in it."""
    return _USER.sub(lambda found: found[0] if _is_container(found) else "***", text)


def credentials_hint(uri: str) -> str:
    """What to write for a URL that names a user, and where users and keys belong instead."""
    match scheme_of(uri.strip()).lower():
        case "hdfs":
            where = "HADOOP_USER_NAME in the environment names the user"
        case "http" | "https":
            where = "web servers are read without; a store's keys belong in the environment, a profile or a role"
        case _:
            where = "keys belong in the environment, a profile or a role"
    return f"the URL without them: {where}"


def _is_container(found: re.Match[str]) -> bool:
    before = found.string[: found.start()].lower()
    return before.endswith(tuple(f"{scheme}://" for scheme in _OF_AZURE)) and _CONTAINER.fullmatch(found[0]) is not None


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
