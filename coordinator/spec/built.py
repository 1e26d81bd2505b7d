"""Refuses what the job format has and this version can't do yet, and URIs that no store has: said, never ignored."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from coordinator.spec.document import Path, field_name
from coordinator.spec.job import InferenceJob, scheme_of
from coordinator.spec.strict import NOT_BUILT
from headrace.errors import Fault
from headrace.uris import STORES, bucket_form, without_credentials

_NOT_YET = "not supported yet"
_HTTP = ("http", "https")
_SHORT = re.compile(rf"({'|'.join(('file', *STORES, *_HTTP))}):(?!//)/*(.*)", re.IGNORECASE)
"""A URI without its two slashes: taken as it stands, it would be a folder here that is called ``s3:``."""
_CONTAINER = re.compile(r"[a-z0-9-]*|\$(root|web|logs)")


def unbuilt(job: InferenceJob) -> list[Fault]:
    """A fault for every field whose feature isn't built."""
    faults = [Fault(field_name(path), _NOT_YET, "leave it out") for path in _unbuilt_fields(job, ())]
    source = job.spec.source
    for i, uri in enumerate(source.uri):
        field = "spec.source.uri" if len(source.uri) == 1 else f"spec.source.uri[{i}]"
        faults += _place(field, uri, ("file", *STORES, *_HTTP))
    faults += _place("spec.sink.uri", job.spec.sink.uri, ("file", *STORES))
    for i, stage in enumerate(job.spec.pipeline):
        if stage.onnx:
            faults += _scheme(f"spec.pipeline[{i}].onnx", stage.onnx, ("file", "pkg"))
    return faults


def _unbuilt_fields(model: BaseModel, path: Path) -> Iterator[Path]:
    for name, info in type(model).model_fields.items():
        if name not in model.model_fields_set:
            continue
        at = (*path, info.alias or name)
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get(NOT_BUILT):
            yield at
        else:
            yield from _within(getattr(model, name), at)


def _within(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, BaseModel):
        yield from _unbuilt_fields(value, path)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _within(item, (*path, i))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _within(item, (*path, str(key)))


def _place(field: str, uri: str, allowed: tuple[str, ...]) -> list[Fault]:
    if short := _SHORT.fullmatch(uri):
        scheme = short[1].lower()
        if scheme not in allowed:
            return _scheme(field, f"{scheme}://", allowed)
        if scheme == "file":
            meant = f"file:///{short[2]}"
        elif scheme == "hdfs":
            meant = f"{bucket_form('hdfs://')}/{short[2]}"
        else:
            meant = without_credentials(f"{scheme}://{short[2]}")
        found = f"{short[1]}: without the two slashes of a URL"
        return [Fault(field, found, f"{meant}, or ./{short[1]}: for a folder of this name")]
    scheme, _, rest = uri.partition("://")
    bucket = rest.partition("/")[0]
    match scheme.lower():
        case "s3" if bucket.startswith("arn:"):
            return [Fault(field, f"an ARN as a bucket is {_NOT_YET}", "the access point's alias: s3://ALIAS/PATH")]
        case "abfs" | "abfss" if not _CONTAINER.fullmatch(bucket.partition("@")[0]):
            found = f"no container is called {bucket.partition('@')[0]!r}"
            return [Fault(field, found, "a name of lower case letters, digits and hyphens")]
    return _scheme(field, uri, allowed)


def _scheme(field: str, uri: str, allowed: tuple[str, ...]) -> list[Fault]:
    scheme = scheme_of(uri)
    if not scheme or scheme in allowed:
        return []
    if scheme in (*STORES, *_HTTP):
        return [Fault(field, f"{scheme}:// is {_NOT_YET} here", _named(allowed))]
    return [Fault(field, f"unknown scheme {scheme}://", _named(allowed))]


def _named(schemes: tuple[str, ...]) -> str:
    """What may be written, for people."""
    names = ["a local path", *(f"{scheme}://" for scheme in schemes if scheme != "file")]
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
