"""Errors of our own, split by whose fault they are; each adapter raises one with the original chained."""

from collections.abc import Sequence
from dataclasses import dataclass


class HeadraceError(Exception):
    """Root of the errors that a user may see; its text is a full sentence for them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a job: where, what was found, what would be right.

    `field` is a path such as ``spec.pipeline[0].inputs.x``, or a file's path, with ``:line`` where known.
    """

    field: str
    found: str
    expected: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.found}" + (f"; {self.expected}" if self.expected else "")


class BadJob(HeadraceError):
    """The job can't run as it is written (exit 42): all faults found, not only the first."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class InputError(HeadraceError):
    """The input's fault, found while running. `kind` is the class word of the failure table."""

    kind = "CorruptInput"


class InputChanged(InputError):
    """A file is no longer the one that was planned."""

    kind = "InputChanged"


class CorruptInput(InputError):
    """A file, or a range of it, can't be read; the text names the file and the range or row."""


class InferredWrong(InputError):
    """A good value doesn't fit the type or shape that was inferred for its column: the job must say which it is."""

    kind = "SchemaMismatch"


class SourceUnavailable(InputError):
    """A store that holds the input can't be reached or is overloaded: nobody's row is at fault, and later it works."""

    kind = "SourceUnavailable"


class SourceRefused(InputError):
    """A store refuses to give the input (permission, no such bucket): another try changes nothing, whoever may does."""

    kind = "SourceRefused"


class SinkError(HeadraceError):
    """The output can't be written (disk full, permission): the platform's fault, worth another try later."""

    kind = "SinkFailed"


class SinkUnavailable(SinkError):
    """The store of the output can't be reached or is overloaded: nobody's row is at fault, and later it works."""

    kind = "SinkUnavailable"


class ConfigError(HeadraceError):
    """A process was started with settings that can't work (exit 78)."""
