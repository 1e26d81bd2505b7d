"""A bad job's faults as the text of a gRPC status, so that the caller can rebuild them."""

import json

from headrace.errors import BadJob, Fault

TEXT_MAX = 7000
"""Letters of a status' text: it travels in a header, and grpcio's clients take 8 KiB of those."""
_PART_MAX = 1000


def faults_to_text(error: BadJob) -> str:
    """JSON of as many faults as there is room for, with a last one that says how many were left out."""
    plain: list[list[str]] = []
    room = TEXT_MAX - 200
    for i, fault in enumerate(error.faults):
        parts = [fault.field[:_PART_MAX], fault.found[:_PART_MAX], fault.expected[:_PART_MAX]]
        room -= len(json.dumps(parts)) + 1
        if room < 0:
            plain.append(["...", f"{len(error.faults) - i} more faults", ""])
            break
        plain.append(parts)
    return json.dumps({"faults": plain}, separators=(",", ":"))


def faults_from_text(text: str | None) -> BadJob | None:
    """The error that `faults_to_text` wrote, or None where the text is something else."""
    try:
        plain = json.loads(text or "")
        return BadJob([Fault(field, found, expected) for field, found, expected in plain["faults"]])
    except (ValueError, TypeError, KeyError):
        return None
