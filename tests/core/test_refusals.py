"""Faults survive the way through a gRPC status, or say how many didn't fit."""

import json

from headrace.errors import BadJob, Fault
from headrace.refusals import TEXT_MAX, faults_from_text, faults_to_text


def test_faults_are_rebuilt_as_they_were() -> None:
    faults = [Fault("spec.sorce", "unknown field", "did you mean source?"), Fault("ünïcode:3", "☃")]
    rebuilt = faults_from_text(faults_to_text(BadJob(faults)))
    assert rebuilt is not None
    assert list(rebuilt.faults) == faults


def test_many_or_long_faults_stay_within_a_header() -> None:
    many = [Fault(f"field{i}", "☃" * 50) for i in range(500)]
    for faults, last in ((many, "more faults"), ([Fault("x", "☃" * 100_000)], "☃☃☃")):
        text = faults_to_text(BadJob(faults))
        assert len(text.encode()) <= TEXT_MAX
        rebuilt = faults_from_text(text)
        assert rebuilt is not None
        assert rebuilt.faults[-1].found.endswith(last)


def test_other_texts_are_no_faults() -> None:
    for text in (None, "", "not found", "[]", '{"faults": 3}', json.dumps({"faults": [["a"]]})):
        assert faults_from_text(text) is None
