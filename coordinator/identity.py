"""What decides a job's output, as one digest: the same digest continues a job, another one is another job.

In it: source, pipeline, sink, `errors.nan`, `errors.onReject`, the limit, the bytes of models and of the user's code.
Not in it: what only decides how fast (batches, predictors, workers, retries), and what is installed (site-packages).
"""

import ast
import hashlib
import importlib.util
import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordinator.planning.stages import find_model
from coordinator.spec import InferenceJob, StageSpec

_EXTERNAL = re.compile(rb"\x0a\x08location\x12")
"""How protobuf writes `TensorProto.external_data`'s key "location": field 1, 8 bytes; then its value as field 2."""

_NAME_BYTES_MAX = 4096
_INDIFFERENT: Any = {"batch": {"rows", "max"}, "predictors": True, "container": True}
"""Fields of a stage that only decide how fast it is."""

_VERSION = 1
"""Of what goes into the digest and how: another number, another digest."""


def job_digest(job: InferenceJob, folder: Path, limit_rows: int | None) -> str:
    """blake2b-128, hex. Files that don't exist count as absent: whether they must exist is planning's question."""
    job = job.absolute(folder)
    spec = job.spec
    told: dict[str, Any] = {
        "version": _VERSION,
        "source": spec.source.model_dump(mode="json"),
        "pipeline": [stage.model_dump(mode="json", exclude=_INDIFFERENT) for stage in spec.pipeline],
        "sink": spec.sink.model_dump(mode="json"),
        "errors": spec.errors.model_dump(mode="json", include={"nan", "on_reject"}),
        "limit": limit_rows,
    }
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16)
    for stage in spec.pipeline:
        for path in stage_files(stage, folder):
            digest.update(b"\0" + path.name.encode(errors="surrogateescape") + b"\0" + _file_digest(path))
    return digest.hexdigest()


def stage_files(stage: StageSpec, folder: Path) -> list[Path]:
    """Files whose bytes decide what a stage computes, in a fixed order."""
    if stage.onnx is not None:
        model = find_model(stage.onnx)
        return [model, *external_files(model)] if isinstance(model, Path) else []
    assert stage.python is not None
    return [*code_files(stage.python.partition(":")[0], folder), *_named_files(stage.config, folder)]


def external_files(model: Path) -> list[Path]:
    """Files of tensors that an ONNX model keeps outside of itself, sorted; those that exist."""
    if model.stat().st_size == 0:
        return []
    names: set[str] = set()
    with open(model, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for found in _EXTERNAL.finditer(data):
            length, at = _varint(data, found.end())
            if 0 < length <= _NAME_BYTES_MAX:
                names.add(data[at : at + length].decode(errors="replace"))
    folder = model.parent
    return [path for name in sorted(names) if "\0" not in name and (path := folder / name).is_file()]


def code_files(module: str, folder: Path) -> list[Path]:
    """The module's file and those beside the job file that it imports, directly or not, sorted.

    Imports are read, not run; one that a program makes by a computed name isn't seen.
    """
    todo = list(_module_files(module, folder)) or list(_installed_file(module))
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.is_relative_to(folder):
            for name in _imports(path, folder):
                todo.extend(_module_files(name, folder))
    return sorted(seen)


def _module_files(module: str, folder: Path) -> Iterator[Path]:
    """Files under `folder` that importing `module` runs: each package's `__init__`, then the module."""
    at = folder
    for part in module.split("."):
        file, package = at / f"{part}.py", at / part / "__init__.py"
        if package.is_file():
            yield package
        elif file.is_file():
            yield file
        at = at / part


def _installed_file(module: str) -> Iterator[Path]:
    top, _, rest = module.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    if not rest and spec.origin and Path(spec.origin).is_file():
        yield Path(spec.origin)
    for found in spec.submodule_search_locations or ():
        yield from _module_files(rest, Path(found))


def _imports(path: Path, folder: Path) -> Iterator[str]:
    """Dotted names that a file imports; of ``from a import b`` both ``a`` and ``a.b``, as b may be a module."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    package = path.relative_to(folder).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _named_files(config: Any, folder: Path) -> list[Path]:
    """Files that a stage's config names, such as weights: they decide the output as much as the code."""
    if isinstance(config, dict):
        return [path for key in sorted(config) for path in _named_files(config[key], folder)]
    if isinstance(config, list):
        return [path for item in config for path in _named_files(item, folder)]
    if isinstance(config, str) and 0 < len(config) <= _NAME_BYTES_MAX and "\0" not in config:
        path = folder / config
        return [path] if path.is_file() else []
    return []


def _file_digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A protobuf number at `at` and where it ends; 0 where the bytes end first."""
    value = shift = 0
    while at < len(data) and shift < 63:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    return 0, at
