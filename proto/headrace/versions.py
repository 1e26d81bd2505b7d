"""Versions of input files, as plan and workers compare them.

Of a local file: its time of change in ns. Of a remote one: its ETag, or the date of its last change, else nothing;
followed by ``@`` and that time in ns where the job reads it as a column.
"""

_MODIFIED = " @"


def with_modified(identity: str, modified_ns: int) -> str:
    """A remote file's version that also tells when it was changed."""
    return f"{identity}{_MODIFIED}{modified_ns}"


def identity_of(version: str) -> str:
    """The part of a remote file's version that a store's answers are compared with."""
    return version.partition(_MODIFIED)[0]


def modified_ns(version: str) -> int | None:
    """When the file was changed, in ns since 1970; None where the version doesn't tell."""
    text = version.rpartition(_MODIFIED)[2]
    return int(text) if text.lstrip("-").isdigit() else None
