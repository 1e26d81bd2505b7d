"""What a path of an input file says about how it is reached, and that it holds no credentials.

A URL is printed, journaled and written into manifests, so one that holds a password is refused where it is first read.
"""

import re

_USER = re.compile(r"(?<=://)[^/?#\s'\"]*(?=@)|(?<=://)[^/?#\s@:'\"\[]*:(?!\d*(?:[/?#\s'\"]|$))[^\s'\"]*(?=@)")
"""What stands before the @ of a host; also a password in which a / or ? isn't written as %2F or %3F."""


def has_credentials(uri: str) -> bool:
    """Whether a URL names a user, with a password or without."""
    return _USER.search(uri) is not None


def without_credentials(text: str) -> str:
    """`text` with stars for the user and password of every URL in it."""
    return _USER.sub("***", text)


def is_remote(path: str) -> bool:
    """Whether `path` is a URI that is read over the network (`headrace.remote_files`)."""
    return path.startswith(("http://", "https://", "s3://"))


def store_of(path: str) -> str:
    """The store that holds a remote file, as people name it: its bucket or web server."""
    return "/".join(path.split("/", 3)[:3])
