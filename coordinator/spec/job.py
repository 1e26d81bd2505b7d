"""The InferenceJob as a whole: one document, the same on a laptop and in a cluster."""

import glob
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from coordinator.spec.pipeline import StageSpec
from coordinator.spec.policy import ErrorsSpec, PlacementSpec, RetriesSpec, WorkersSpec
from coordinator.spec.scalars import Duration
from coordinator.spec.sink import SinkSpec
from coordinator.spec.source import SourceSpec
from coordinator.spec.strict import Strict, not_built

FOLDER_ANNOTATION = "headrace.dev/folder"
"""Where a manifest names the folder of its job file, beside which user code lies."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(uri: str) -> str:
    """The scheme of ``scheme://...`` in lower case, "" for a plain path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def absolute_uri(uri: str, folder: Path) -> str:
    """`uri` as an absolute path where it is a local one, seen from `folder`; ``~`` is the user's home.

    Of a URI the scheme is in lower case then.
    """
    scheme = scheme_of(uri)
    if scheme == "file":
        return uri[len("file://") :]
    if scheme:
        return scheme + uri[len(scheme) :]
    # normpath, not resolve(): a glob is no file, and what a link points to may change while the job waits.
    path = os.path.normpath(folder / os.path.expanduser(uri))
    return path + "/" if uri.endswith("/") and path != "/" else path


def absolute_source(uri: str, folder: Path) -> str:
    """As `absolute_uri`, for a path or a glob: wildcards in the name of `folder` itself stand for themselves."""
    is_relative = not scheme_of(uri) and not os.path.isabs(os.path.expanduser(uri))
    if is_relative and glob.has_magic(uri):
        return absolute_uri(uri, Path(glob.escape(str(folder))))
    return absolute_uri(uri, folder)


def _job_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("expected up to 63 lower-case letters, digits and '-', such as reviews-nightly")
    return value


class Metadata(Strict):
    """What the job is called."""

    name: Annotated[str, AfterValidator(_job_name)]
    annotations: dict[str, str] = Field(
        default_factory=dict, description="Notes for tools; carried, never interpreted."
    )
    labels: dict[str, str] | None = not_built("Labels of the resource.")
    namespace: str | None = not_built("The namespace in a cluster.")


class JobSpec(Strict):
    """Source, pipeline, sink, and how to run them."""

    source: SourceSpec
    pipeline: list[StageSpec] = Field(min_length=1)
    sink: SinkSpec
    errors: ErrorsSpec = Field(default_factory=ErrorsSpec)
    retries: RetriesSpec = Field(default_factory=RetriesSpec)
    workers: WorkersSpec = Field(default_factory=WorkersSpec)
    placement: PlacementSpec | None = not_built("Pools, deadline and budget.")
    active_deadline: Duration | None = Field(default=None, description="The job fails after this long.")
    after: list[str] | None = not_built("Jobs to wait for.")
    priority_class_name: str | None = not_built("Order among jobs.")
    suspend: bool = Field(default=False, description="Submit the job without starting it.")
    ttl_after_finished: str | None = not_built("When the finished job is deleted.")


class InferenceJob(Strict):
    """A model, or a graph of models, over a dataset, once, to the end."""

    api_version: Literal["headrace.dev/v1alpha1"]
    kind: Literal["InferenceJob"]
    metadata: Metadata
    spec: JobSpec

    @property
    def folder(self) -> Path | None:
        """The folder of the job file, once `absolute` has noted it."""
        noted = self.metadata.annotations.get(FOLDER_ANNOTATION)
        return Path(noted) if noted else None

    def absolute(self, folder: Path) -> "InferenceJob":
        """The same job with every local path absolute, as seen from `folder`, and `folder` noted; idempotent."""
        folder = Path(os.path.abspath(folder))
        source, sink = self.spec.source, self.spec.sink
        stages = [
            stage.model_copy(update={"onnx": absolute_uri(stage.onnx, folder)}) if stage.onnx else stage
            for stage in self.spec.pipeline
        ]
        spec = self.spec.model_copy(
            update={
                "source": source.model_copy(update={"uri": [absolute_source(uri, folder) for uri in source.uri]}),
                "pipeline": stages,
                "sink": sink.model_copy(update={"uri": absolute_uri(sink.uri, folder)}),
            }
        )
        notes = {FOLDER_ANNOTATION: str(folder)} | self.metadata.annotations
        return self.model_copy(
            update={"spec": spec, "metadata": self.metadata.model_copy(update={"annotations": notes})}
        )

    def to_manifest(self, folder: Path) -> str:
        """JSON with absolute paths for `SubmitRequest.manifest`; fields that nobody set are left out."""
        plain = self.absolute(folder).model_dump(mode="json", by_alias=True, exclude_unset=True)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def from_manifest(text: str) -> "InferenceJob":
        """Reads what `to_manifest` wrote, with all checks of a job file.

        Raises:
            BadJob: the text isn't a job that can run.
        """
        # Loading knows of the model, not the model of loading, but for this one convenience.
        from coordinator.spec.load import job_from_plain, parse_json

        return job_from_plain(parse_json(text))


def job_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a job file, for editors and for the CRD."""
    schema = InferenceJob.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
