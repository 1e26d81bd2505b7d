"""What a path of an input file says about how it is reached."""

OBJECT_STORES = ("s3", "gs", "abfs", "abfss")
"""Schemes of stores that hold objects below prefixes and can list them."""


def scheme_of(path: str) -> str:
    """``s3`` of ``s3://...``, "" of a local path."""
    scheme, found, _ = path.partition("://")
    return scheme if found else ""


def is_object(path: str) -> bool:
    """Whether `path` is the URI of an object, or of a prefix of some."""
    return scheme_of(path) in OBJECT_STORES


def is_remote(path: str) -> bool:
    """Whether `path` is a URI that is read over the network (`headrace.remote_files`)."""
    return scheme_of(path) in ("http", "https", *OBJECT_STORES)


def bucket_form(path: str) -> str:
    """How a URI of the store of `path` is written, for whoever named no bucket."""
    scheme = scheme_of(path)
    return f"{scheme}://CONTAINER@ACCOUNT.dfs.core.windows.net" if scheme.startswith("abfs") else f"{scheme}://BUCKET"


def store_of(path: str) -> str:
    """The store that holds a remote file, as people name it: its bucket or web server."""
    return "/".join(path.split("/", 3)[:3])
