"""Mode append: whether what a job will write fits what the output holds, as far as planning can tell.

An output's files have one format and one schema. The manifest that the job adds to says which; the job's columns are
known by name, the source's by type too, and a stage's where its model tells. What isn't known here is compared with
the first commit.

Not here: commits (`coordinator.core.leases`), what a manifest is made of (`coordinator.manifest`).
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from coordinator.core.schema import schema_of
from coordinator.manifest import Header, ManifestDamaged, read_header
from coordinator.output import newest_manifest, stored_manifest
from headrace.errors import BadJob, Fault, SinkError
from headrace.program import Program
from headrace.stores import open_store

if TYPE_CHECKING:
    import pyarrow as pa

    from coordinator.planning import Probe


def check_append(program: Program, probes: "Mapping[str, Probe]") -> str:
    """Compares the job's format, columns and known types with those of the output that it adds to.

    Returns:
        The schema of the files there (`coordinator.core.schema`); empty where none is known.

    Raises:
        BadJob: they differ.
        SinkError: the manifest there can't be read.
    """
    header = _base_header(program)
    if header is None or not header.columns:
        return ""
    faults = _format_faults(program, header) or _column_faults(program, probes, header)
    if faults:
        raise BadJob(faults)
    return schema_of(header.columns)


def _base_header(program: Program) -> Header | None:
    if program.sink.mode != "append":
        return None
    store = open_store(program.sink.uri, storage=program.sink.storage)
    try:
        _, name = newest_manifest(store)
        return None if name is None else read_header(stored_manifest(store, name))
    except (OSError, ManifestDamaged) as error:
        raise SinkError(f"The output {store.place} can't be added to: {error}") from error


def _format_faults(program: Program, header: Header) -> list[Fault]:
    if header.format == program.sink.format:
        return []
    expected = f"format: {header.format}, mode: replace, or another folder"
    return [Fault("spec.sink.format", f"{program.sink.format}, and {program.sink.uri} holds {header.format}", expected)]


def _column_faults(program: Program, probes: "Mapping[str, Probe]", header: Header) -> list[Fault]:
    there = f"the files in {program.sink.uri}"
    planned = _planned_types(program, probes)
    expected = dict(header.columns)
    faults = []
    for name, found in planned.items():
        field = f"spec.sink.columns.{name}"
        if name not in expected:
            faults.append(Fault(field, f"{there} have no such column", f"their columns: {', '.join(expected)}"))
        elif found not in ("", expected[name]):
            faults.append(Fault(field, f"{found} here, {expected[name]} in {there}", _WAY_OUT))
    for name, kind in expected.items():
        if name not in planned:
            faults.append(Fault("spec.sink.columns", f"{there} have a column {name!r} ({kind}), this job has not"))
    if not faults and list(planned) != list(expected):
        found = f"the order is {', '.join(planned)}, and in {there} {', '.join(expected)}"
        faults.append(Fault("spec.sink.columns", found, "the same order"))
    return faults


_WAY_OUT = "the same type, mode: replace, or another folder"


def _planned_types(program: Program, probes: "Mapping[str, Probe]") -> dict[str, str]:
    """Each column's type as a reader will find it, empty where only the data tell."""
    from headrace.arrow_types import sink_schema, stored_schema

    outputs = {
        stage: {name: (spec.dtype, spec.shape) for name, spec in (probe.outputs or {}).items()}
        for stage, probe in probes.items()
    }
    stored = stored_schema(sink_schema(program, outputs), program.sink.format)
    return {field.name: "" if _has_null(field.type) else str(field.type) for field in stored}


def _has_null(kind: "pa.DataType") -> bool:
    """Whether a type isn't known to its leaf: of columns without a value, and of outputs that no model declares."""
    return re.search(r"(?<!not )\bnull\b", str(kind)) is not None
