"""Which changes make another job of the same name, and which let it continue."""

from pathlib import Path
from typing import Any

import pytest

from coordinator.identity import code_files, external_files, job_digest, stage_files
from coordinator.spec import InferenceJob


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(b"model")
    (tmp_path / "stages.py").write_text("from lib import words\nimport os, pkg.deep\n")
    (tmp_path / "lib.py").write_text("import stages\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("")
    (tmp_path / "pkg/deep.py").write_text("from . import near\nfrom .. import above\n")
    (tmp_path / "pkg/near.py").write_text("")
    (tmp_path / "unused.py").write_text("")
    (tmp_path / "weights.bin").write_bytes(b"1")
    return tmp_path


def job(folder: Path, **spec: Any) -> InferenceJob:
    plain: dict[str, Any] = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "t"},
        "spec": {
            "source": {"format": "parquet", "uri": "in"},
            "pipeline": [
                {"name": "a", "python": "stages:C", "inputs": {"x": "source.x"}, "config": {"w": ["weights.bin", 3]}},
                {"name": "b", "onnx": "m.onnx", "inputs": {"x": "a.x"}, **spec.pop("stage", {})},
            ],
            "sink": {"format": "parquet", "uri": "out", "columns": {"y": "b.y"}},
            **spec,
        },
    }
    return InferenceJob.model_validate(plain).absolute(folder)


def digest(folder: Path, limit: int | None = None, **spec: Any) -> str:
    return job_digest(job(folder, **spec), folder, limit)


def test_the_same_job_has_the_same_digest_also_as_a_manifest(folder: Path) -> None:
    again = InferenceJob.from_manifest(job(folder).to_manifest(folder))
    assert digest(folder) == digest(folder) == job_digest(again, folder, None)
    assert len(digest(folder)) == 32


@pytest.mark.parametrize(
    "spec",
    [
        {"stage": {"batch": {"rows": 5}}},
        {"stage": {"predictors": {"min": 2}}},
        {"workers": {"max": 3}},
        {"retries": {"attempts": 9}},
        {"errors": {"maxRejected": 10}},
        {"activeDeadline": "1h"},
        {"suspend": True},
    ],
)
def test_what_only_decides_how_it_runs_changes_nothing(folder: Path, spec: dict[str, Any]) -> None:
    assert digest(folder, **spec) == digest(folder)


@pytest.mark.parametrize(
    "spec",
    [
        {"limit": 5},
        {"errors": {"nan": "reject"}},
        {"errors": {"onReject": "address"}},
        {"stage": {"cast": {"x": {"dtype": "int8"}}}},
        {"source": {"format": "parquet", "uri": "in", "filter": "x > 1"}},
        {"sink": {"format": "csv", "uri": "out", "columns": {"y": "b.y"}}},
    ],
)
def test_what_decides_the_output_makes_another_job(folder: Path, spec: dict[str, Any]) -> None:
    assert digest(folder, **spec) != digest(folder)


@pytest.mark.parametrize(
    "name", ["m.onnx", "stages.py", "lib.py", "pkg/__init__.py", "pkg/deep.py", "pkg/near.py", "weights.bin"]
)
def test_the_bytes_of_models_code_and_weights_count(folder: Path, name: str) -> None:
    before = digest(folder)
    with open(folder / name, "ab") as file:
        file.write(b"\n# changed\n")
    assert digest(folder) != before


def test_files_that_nothing_imports_do_not_count(folder: Path) -> None:
    before = digest(folder)
    (folder / "unused.py").write_text("x = 1")
    (folder / "in").mkdir()
    assert digest(folder) == before


def test_code_that_cannot_be_parsed_still_counts(folder: Path) -> None:
    (folder / "stages.py").write_text("def (")
    assert code_files("stages", folder) == [folder / "stages.py"]


def test_an_installed_module_counts_by_its_own_files(folder: Path) -> None:
    assert [path.name for path in code_files("json.decoder", folder)] == ["decoder.py"]
    assert [path.name for path in code_files("textwrap", folder)] == ["textwrap.py"]
    assert code_files("no_such_module_anywhere.x", folder) == []


def test_tensors_beside_a_model_count(folder: Path) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.arange(600, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [600]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    made = helper.make_model(graph)
    location = "tensors/" + "long" * 40 + ".bin"
    (folder / "tensors").mkdir()
    onnx.save(made, folder / "m.onnx", save_as_external_data=True, location=location, size_threshold=0)
    assert external_files(folder / "m.onnx") == [folder / location]
    assert stage_files(job(folder).spec.pipeline[1], folder) == [folder / "m.onnx", folder / location]
    before = digest(folder)
    with open(folder / location, "r+b") as file:
        file.write(b"\x01")
    assert digest(folder) != before


def test_a_model_that_is_missing_or_empty_has_a_digest(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(b"")
    empty = digest(folder)
    (folder / "m.onnx").unlink()
    assert digest(folder) != empty
