"""Job files and manifests to checked jobs.

A job file is YAML (or JSON, which is YAML), a manifest is JSON. Everything that one file can say wrong by itself is
found here, all of it; what needs the input, the models or the user's code is found by `coordinator.planning`.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.spec.check import Checked, checked
from coordinator.spec.document import Document, nearest, parse
from coordinator.spec.job import InferenceJob
from headrace.errors import BadJob, Fault

FILE_BYTES_MAX = 4 * 2**20
"""A job file is written by hand; something larger is another file."""

_WORD = re.compile(r"\W")
_OF_THE_FILE = ("this", "line", "apiVersion", "kind", "metadata", "spec")
"""First words of faults about the job file itself; others name input files or models."""


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job, its local paths absolute, and where it came from."""

    job: InferenceJob
    path: Path
    folder: Path  # absolute
    document: Document
    faults: tuple[Fault, ...] = ()  # of the file itself, their fields not located; `job` is without what is wrong
    blank: frozenset[str] = frozenset()  # sections of `job` that are but stand-ins

    def located(self, error: BadJob) -> BadJob:
        """`error` with ``file:line:`` before the fields that the job file has."""
        return BadJob(_located(error.faults, self.path, self.document))


def examine_job(path: Path, sets: Mapping[str, str], environ: Mapping[str, str]) -> LoadedJob:
    """Reads a job file; ``${NAME}`` is taken from `sets`, whose names must all stand there, then from `environ`.

    A job with faults comes without what is wrong, so that the rest of it can be examined.

    Raises:
        BadJob: too little of it is a job for that; all faults, each field with file and line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadJob([Fault(str(path), error.strerror or str(error), "a job file that can be read")]) from error
    if len(raw) > FILE_BYTES_MAX:
        raise BadJob([Fault(str(path), f"{len(raw)} bytes", "a job file, which is YAML written by hand")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadJob([Fault(str(path), f"byte {error.start} isn't UTF-8", "YAML text in UTF-8")]) from error
    document = parse(text, {**environ, **sets})
    if document.value is None and not document.faults:
        document.faults.append(Fault("this file", "empty", "an InferenceJob, as README.md shows one"))
    found = checked(document.value) if document.value is not None else Checked(None)
    if document.value is not None:
        document.faults += _unknown_sets(sets, document)
    faults = (*document.faults, *found.faults)
    if found.job is None:
        raise BadJob(_located(faults, path, document))
    folder = path.absolute().parent
    return LoadedJob(found.job.absolute(folder), path, folder, document, faults, found.blank)


def _unknown_sets(sets: Mapping[str, str], document: Document) -> list[Fault]:
    known = sorted(document.variables)
    there = f"there are: {', '.join(known)}" if known else "it has none"
    faults = []
    for name in sets:
        if name not in document.variables:
            close = nearest(name, known)
            expected = f"did you mean {close}? {there}" if close else there
            faults.append(Fault(f"--set {name}", f"no ${{{name}}} stands in the job file", expected))
    return faults


def parse_json(text: str) -> Any:
    """The plain value of a manifest.

    Raises:
        BadJob: the text isn't JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadJob([Fault("manifest", f"not JSON: {error}")]) from error


def job_from_plain(value: Any) -> InferenceJob:
    """The job that `value`, plain dicts and lists, describes.

    Raises:
        BadJob: all faults.
    """
    found = checked(value)
    if found.job is None or found.faults:
        raise BadJob(found.faults)
    return found.job


def _located(faults: Sequence[Fault], path: Path, document: Document) -> list[Fault]:
    """`faults` in the order of the file, those last that have no line."""
    made: list[tuple[float, Fault]] = []
    for fault in faults:
        line = document.line(fault.field)
        if line is not None:
            made.append((line, Fault(f"{path}:{line}: {fault.field}", fault.found, fault.expected)))
        elif _WORD.split(fault.field, maxsplit=1)[0] in _OF_THE_FILE:
            made.append((math.inf, Fault(f"{path}: {fault.field}", fault.found, fault.expected)))
        else:
            made.append((math.inf, fault))
    return [fault for _, fault in sorted(made, key=lambda item: item[0])]
