"""The rejects dataset: what its columns are called, and which of its rows can be run again.

    _file, _address             where the row is in the input
    _stage, _class, _message    who refused it and why; `_stage` is "source" where reading or converting failed
    the source's columns        errors.onReject: keep; one that has a name of the above is called ``source.NAME``

Written by `sidecar.writer.rejects`; read again by `sidecar.reader.rejected`.
"""

from typing import Final

FILE, ADDRESS, STAGE, CLASS, MESSAGE = "_file", "_address", "_stage", "_class", "_message"
NAMES: Final = (FILE, ADDRESS, STAGE, CLASS, MESSAGE)

BAD_RECORD: Final = "BadRecord"
FILE_TOO_LARGE: Final = "FileTooLarge"
UNREAD: Final = (BAD_RECORD, FILE_TOO_LARGE)
"""Class words of rows that the source could not even read: nothing of them is kept, so they can't be run again."""

JOB_SUFFIX: Final = ".rejected"
"""Ends the name of the job that runs a job's rejects again; no job file can give such a name."""


def kept_name(column: str) -> str:
    """What a source column is called in the rejects dataset."""
    return f"source.{column}" if column in NAMES else column


def kept_column(name: str) -> str:
    """The source column that is called `name` in the rejects dataset, as `kept_name` says."""
    column = name.removeprefix("source.")
    return column if column in NAMES else name
