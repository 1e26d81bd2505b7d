"""Stages of the job file as stages of the program: defaults filled in, models found."""

import importlib.util
import json
import os
from pathlib import Path

from coordinator.spec import BatchSpec, CastSpec, InferenceJob, StageSpec, split_reference
from headrace.errors import Fault
from headrace.local.messages import TensorSpec
from headrace.program import Cast, Ref, StageInput, StageProgram

BATCH_ROWS_AUTO = 1024
PACKAGE_SCHEME = "pkg://"


def find_model(target: str) -> Path | Fault:
    """The file that an `onnx:` names; the fault, without its field, where there is none that can be read."""
    if target.startswith(PACKAGE_SCHEME):
        package, _, inside = target.removeprefix(PACKAGE_SCHEME).partition("/")
        folders = _package_folders(package)
        if not folders:
            return Fault("", f"no package '{package}' is installed here", "pkg://PACKAGE/path")
        path = next((found for folder in folders if (found := folder / inside).is_file()), folders[0] / inside)
    else:
        path = Path(target)
    if path.is_dir():
        return Fault("", f"{path} is a folder", "a model file")
    if not path.exists():
        beside = sorted(p.name for p in path.parent.glob("*.onnx")) if path.parent.is_dir() else []
        return Fault("", f"{path} doesn't exist", f"there are: {', '.join(beside[:10])}" if beside else "a model file")
    if not os.access(path, os.R_OK):
        return Fault("", f"{path} can't be read", "permission to read it")
    return path


def _package_folders(package: str) -> list[Path]:
    """Folders of an import package, found without running any of its code but that of packages around it."""
    try:
        spec = importlib.util.find_spec(package) if package else None
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


def stage_input(stage: StageSpec, name: str, wanted: TensorSpec) -> StageInput:
    """One input of the program; what the model wants is noted where known."""
    written = stage.inputs[name]
    stacked = isinstance(written, list)
    references = written if isinstance(written, list) else [written]
    # Text stays text: there is nothing to convert it to.
    dtype = None if wanted.dtype in ("utf8", "binary") else wanted.dtype
    return StageInput(
        name=name,
        refs=tuple(Ref(*split_reference(reference)) for reference in references),
        stacked=stacked,
        cast=_cast(stage.cast.get(name)),
        dtype=dtype,
        shape=wanted.shape or None,
    )


def stage_program(
    stage: StageSpec, target: str, folder: Path | None, wanted: dict[str, TensorSpec], rows_fixed: int | None = None
) -> StageProgram:
    """The program of one stage; `wanted` are the model's inputs as far as they are known."""
    unknown = TensorSpec(None, None)
    return StageProgram(
        name=stage.name,
        kind="onnx" if stage.onnx is not None else "python",
        target=target,
        inputs=tuple(stage_input(stage, name, wanted.get(name, unknown)) for name in stage.inputs),
        config=json.dumps(stage.config, ensure_ascii=False),
        search_path=(str(folder),) if stage.python is not None and folder else (),
        batch_rows=batch_rows(stage.batch, rows_fixed),
        batch_auto=stage.batch.rows is None,
        as_arrow=stage.batch.as_ == "arrow",
        predictors_min=stage.predictors.min,
        predictors_max=stage.predictors.max,
        rows_fixed=rows_fixed,
    )


def draft_stage(job: InferenceJob, index: int) -> StageProgram | Fault:
    """A stage as its probe needs it, before anything is known of the model; a fault where the model file is missing."""
    stage = job.spec.pipeline[index]
    if stage.onnx is None:
        assert stage.python is not None
        return stage_program(stage, stage.python, job.folder, {})
    model = find_model(stage.onnx)
    if isinstance(model, Fault):
        return Fault(f"spec.pipeline[{index}].onnx", model.found, model.expected)
    return stage_program(stage, str(model), job.folder, {})


def batch_rows(batch: BatchSpec, rows_fixed: int | None) -> int:
    """Rows of a batch: auto is whole calls of a model that takes `rows_fixed` rows each."""
    if batch.rows is not None:
        return batch.rows
    rows = min(BATCH_ROWS_AUTO, batch.max or BATCH_ROWS_AUTO)
    return max(1, rows // rows_fixed) * rows_fixed if rows_fixed else rows


def _cast(cast: CastSpec | None) -> Cast:
    if cast is None:
        return Cast()
    return Cast(dtype=cast.dtype, shape=None if cast.shape is None else tuple(cast.shape), fill=cast.fill)
