"""What a path of an input file says about how it is reached."""


def is_remote(path: str) -> bool:
    """Whether `path` is a URL that is read over HTTP (`headrace.httpfile`)."""
    return path.startswith(("http://", "https://"))
