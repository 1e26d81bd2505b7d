"""The two python stages of examples/file-types, with ONNX Runtime between them, against magika's own API."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

magika = pytest.importorskip("magika", reason="pip install 'headrace[examples]' to compare with magika")
import onnxruntime  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "file-types"

BLANK = [b" \t\r\n\x0b\x0c", b"\n" * 5000, b" " * 4096 + b"late text, beyond the first block"]
EDGES = {
    "empty": b"",
    "one byte": b"a",
    "seven bytes": b"1234567",
    "seven bytes that are not UTF-8": b"\xff\xfe\xfd\xfc\xfb\xfa\xf9",
    "eight bytes": b"12345678",
    "eight bytes, seven of them text": b" 1234567",
    "a character cut by the end of the first block": b"short" + b" " * 4090 + "é".encode() + b" " * 50,
    "one block": b"x = 1\n" * 682 + b"y=2\n",
    "one block and a byte": b"x = 1\n" * 682 + b"y=2\n;",
    "beginning and end overlap": b"import os\n" * 120,
    "trailing whitespace beyond a block": b"#include <stdio.h>\nint main(void) { return 0; }\n" + b"\n" * 9000,
    "leading whitespace within a block": b"\n" * 3000 + b"<html><body>" + b"<p>text</p>" * 2000 + b"</body></html>",
    "zeros": bytes(100_000),
    "every byte": bytes(range(256)) * 64,
    "utf-16": "a text of several words\n".encode("utf-16") * 40,
}
EDGES.update({f"blank {i}": content for i, content in enumerate(BLANK)})


def stages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("file_types_stages", EXAMPLE / "stages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def identify() -> Callable[[list[bytes], str], list[tuple[str, float]]]:
    """Label and score of each content, by the example's stages, in batches of 64."""
    module = stages()
    features = module.Features()
    model = module.magika_folder() / "models" / module.MODEL_NAME / "model.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(contents: list[bytes], mode: str) -> list[tuple[str, float]]:
        labels = module.Labels(mode=mode)
        found: list[tuple[str, float]] = []
        for begin in range(0, len(contents), 64):
            content = np.empty(len(contents[begin : begin + 64]), dtype=object)
            content[:] = contents[begin : begin + 64]
            made = features({"content": content})
            (scores,) = session.run(["target_label"], {"bytes": made["tokens"]})
            result = labels({"scores": scores, "answer": made["answer"]})
            found += zip(result["label"].tolist(), result["score"].tolist(), strict=True)
        return found

    return run


@pytest.mark.parametrize("mode", ["high_confidence", "medium_confidence", "best_guess"])
def test_edge_cases_get_magikas_own_labels_in_every_mode(identify, mode, tmp_path):
    paths = [tmp_path / str(i) for i in range(len(EDGES))]
    for path, content in zip(paths, EDGES.values(), strict=True):
        path.write_bytes(content)
    # All at once, as the example does it: ONNX Runtime computes a batch of one row by another kernel, less precisely.
    results = magika.Magika(prediction_mode=magika.PredictionMode(mode)).identify_paths(paths)
    expected = [(str(result.output.label), pytest.approx(result.score, abs=1e-5)) for result in results]
    found = identify(list(EDGES.values()), mode)
    assert dict(zip(EDGES, found, strict=True)) == dict(zip(EDGES, expected, strict=True))


def test_files_as_installed_packages_have_them_get_magikas_own_labels(identify):
    folders = [Path(magika.__file__).parent, Path(onnxruntime.__file__).parent / "tools", EXAMPLE]
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    assert len(paths) > 100
    expected = [str(result.output.label) for result in magika.Magika().identify_paths(paths)]
    found = [label for label, _ in identify([path.read_bytes() for path in paths], "high_confidence")]
    assert found == expected


def test_an_unknown_mode_is_an_error_that_names_the_right_ones():
    with pytest.raises(ValueError, match="high_confidence, medium_confidence, best_guess, found 'sure'"):
        stages().Labels(mode="sure")


def test_the_stages_load_without_importing_magika():
    """Importing it would load ONNX Runtime into the predictors of both python stages."""
    before = {name for name in sys.modules if name.startswith("magika")}
    module = stages()
    module.Features()
    module.Labels()
    assert {name for name in sys.modules if name.startswith("magika")} == before
