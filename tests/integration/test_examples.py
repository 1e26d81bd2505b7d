"""The examples as their READMEs run them: the real `headrace run`, in a copy of the folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow.parquet as pq
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one example's folder without what running it makes."""
    copy = tmp_path / "examples" / request.param
    shutil.copytree(
        EXAMPLES / request.param, copy, ignore=shutil.ignore_patterns("out", "data", "model", "__pycache__")
    )
    return copy


def shell(command: list[str], folder: Path, tmp_path: Path) -> str:
    """Runs a command with the tests' Python first in PATH; its stdout.

    The state folder is the test's own, so that a job of the same name which the user ran is never continued.
    """
    bin_folder = str(Path(sys.executable).parent)
    environ = os.environ | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def standard_library_files() -> list[str]:
    """All files of the running Python's standard library but site-packages and __pycache__, sorted."""
    paths = []
    for folder, names, files in os.walk(sysconfig.get_path("stdlib"), followlinks=True):
        names[:] = [name for name in names if name not in {"site-packages", "__pycache__"}]
        paths += [path for name in files if os.path.isfile(path := os.path.join(folder, name))]
    return sorted(paths)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("example", ["file-types"], indirect=True)
def test_file_types_gives_every_file_of_the_standard_library_magikas_own_label(example: Path, tmp_path: Path) -> None:
    magika = pytest.importorskip("magika", reason="pip install 'headrace[examples]' to compare with magika")
    shell([str(example / "run")], tmp_path, tmp_path)

    paths = standard_library_files()
    assert len(paths) > 500
    results = magika.Magika().identify_paths(paths)
    out = pq.read_table(example / "out")
    labels = dict(zip(out["path"].to_pylist(), out["label"].to_pylist(), strict=True))
    assert out.num_rows == len(labels), "a file came twice"
    assert labels == {path: str(result.output.label) for path, result in zip(paths, results, strict=True)}

    # ONNX Runtime computes a batch of one row less precisely than the same row among others.
    scores = dict(zip(out["path"].to_pylist(), out["score"].to_pylist(), strict=True))
    assert scores == {path: pytest.approx(result.score, abs=0.03) for path, result in zip(paths, results, strict=True)}
    sizes = dict(zip(out["path"].to_pylist(), out["size"].to_pylist(), strict=True))
    assert sizes == {path: os.path.getsize(path) for path in paths}


@pytest.mark.parametrize("example", ["file-types"], indirect=True)
def test_file_types_takes_a_folder_of_ones_own(example: Path, tmp_path: Path) -> None:
    pytest.importorskip("magika", reason="the model is in the package: pip install 'headrace[examples]'")
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "empty").touch()
    (folder / "ünï.py").write_text("import os\n\n\ndef main() -> None:\n    print(os.getcwd())\n" * 5)
    (folder / "_data.json").write_text(json.dumps({"rows": list(range(200)), "name": "x"}, indent=2))
    shell([str(example / "run"), "my files"], tmp_path, tmp_path)

    out = pq.read_table(example / "out", columns=["path", "label"]).to_pylist()
    assert {Path(row["path"]).name: row["label"] for row in out} == {
        "empty": "empty",
        "ünï.py": "python",
        "_data.json": "json",
    }


@pytest.mark.parametrize("example", ["digits"], indirect=True)
def test_digits_reaches_the_accuracy_its_readme_shows(example: Path, tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx", reason="pip install 'headrace[examples]' to train and export the model")
    root = example.parents[1]
    shell([sys.executable, "examples/digits/prepare.py"], root, tmp_path)
    shell(["headrace", "run", "examples/digits/job.yaml"], root, tmp_path)

    readme = (example / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    printed = shell([sys.executable, "-c", snippet], root, tmp_path)
    share, rows = re.fullmatch(r"([\d.]+)% of (\d+) digits\n", printed).groups()
    assert int(rows) == 899
    # Training is seeded, but its last digits follow the BLAS that numpy was built with.
    assert float(share) == pytest.approx(float(re.search(r"# ([\d.]+)% of 899", snippet)[1]), abs=1.5)
