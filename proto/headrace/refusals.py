"""A bad job's faults as the text of a gRPC status, so that the caller can rebuild them."""

import json

from headrace.errors import BadJob, Fault

FAULTS_MAX = 50
"""A status travels in headers, which have room for some kilobytes."""
_TEXT_MAX = 500


def faults_to_text(error: BadJob) -> str:
    """JSON of the first `FAULTS_MAX` faults."""
    plain = [[fault.field[:_TEXT_MAX], fault.found[:_TEXT_MAX], fault.expected[:_TEXT_MAX]] for fault in error.faults]
    return json.dumps({"faults": plain[:FAULTS_MAX]}, separators=(",", ":"))


def faults_from_text(text: str | None) -> BadJob | None:
    """The error that `faults_to_text` wrote, or None where the text is something else."""
    try:
        plain = json.loads(text or "")
        return BadJob([Fault(field, found, expected) for field, found, expected in plain["faults"]])
    except (ValueError, TypeError, KeyError):
        return None
