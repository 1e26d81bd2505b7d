"""What a path of an input file says about how it is reached."""

_LISTED = ("s3://", "hdfs://")


def is_remote(path: str) -> bool:
    """Whether `path` is a URI that is read over the network (`headrace.remote_files`)."""
    return path.startswith(("http://", "https://", *_LISTED))


def is_listed(path: str) -> bool:
    """Whether the store that holds a remote file can be asked which others it has."""
    return path.startswith(_LISTED)


def store_of(path: str) -> str:
    """The store that holds a remote file, as people name it: its bucket or web server."""
    return "/".join(path.split("/", 3)[:3])
