"""`headrace run` with a job that can't run: exit code 42, a message that names the place, and nothing touched."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli.plan import make_plan
from headrace.errors import BadJob
from tests.integration.run_fixture import DOUBLE_STAGE, TIMEOUT_S, Ran, Site

SOURCE = {"format": "parquet", "uri": "in/*.parquet"}
BAD_STAGES = """
class Works:
    def __call__(self, batch):
        return batch


class Raises:
    def __init__(self):
        self.load()

    def load(self):
        raise LookupError("no weights here")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A folder with good files, bad files and bad code; every test leaves it as it is."""
    made = Site(tmp_path_factory.mktemp("bad jobs"))
    made.parquet("in/a.parquet", {"x": [1.5, 2.5], "name": ["one", "two"]})
    made.parquet("torn/good.parquet", {"x": [1.5]})
    whole = made.parquet("torn/torn.parquet", {"x": [1.5, 2.5]})
    whole.write_bytes(whole.read_bytes()[:-6])
    made.write("not-a-model.onnx", "This is text.\n" * 20)
    made.write("bad.py", BAD_STAGES)
    made.write("full/results.txt", "of last week")
    (made.folder / "link").symlink_to(made.folder / "nowhere")
    made.write("above/in/a.csv", "x\n1\n")
    shutil.copy(made.folder / "in" / "a.parquet", made.folder / "above" / "a.parquet")
    return made


def onnx_model(path: Path, shape: list[Any]) -> None:
    """A model that doubles its float32 input `x` of `shape`."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def jobs(site: Site) -> list[str]:
    """Names of the jobs that have a state folder."""
    return sorted(path.name for path in (site.folder / "state" / "jobs").glob("*"))


def everything(site: Site) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder but the state and the job files."""
    found = {}
    for folder, names, files in os.walk(site.folder):
        names[:] = [name for name in names if name != "state"]
        for name in [*names, *files]:
            path = Path(folder, name)
            status = path.lstat()
            if path.suffix != ".yaml":
                found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


def refused(site: Site, job: Path, run: Callable[[Path], Ran] | None = None) -> str:
    """The message of a run that must be refused as a bad job and must touch nothing."""
    before, jobs_before = everything(site), jobs(site)
    ran = (run or site.run)(job)
    assert ran.code == 42, ran.text
    assert jobs(site) == jobs_before
    assert ran.stdout == ""
    assert ran.stderr.startswith("The job can't run: ")
    assert "Traceback" not in ran.stderr or "your code" in ran.stderr or "bad.py" in ran.stderr
    assert everything(site) == before
    return ran.stderr


def planned(site: Site, job: Path) -> str:
    """What `headrace plan` says of a job that can't run."""
    with pytest.raises(BadJob) as raised:
        make_plan(job, {}, os.environ, None, site.state)
    faults = raised.value.faults
    head = f"The job can't run: {len(faults)} mistake{'s' * (len(faults) != 1)}.\n"
    return head + "".join(f"  {fault}\n" for fault in faults)


def python_stage(target: str, **inputs: str) -> dict[str, Any]:
    return {"name": "stage", "python": target, "inputs": inputs or {"x": "source.x"}}


Y = {"columns": {"y": "stage.y"}}

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown field, with the nearest right name": (
        {"source": {**SOURCE, "fiter": "x > 1"}},
        ["job.yaml:9: spec.source.fiter", "filter"],
    ),
    "a field that is not supported yet": (
        {"source": SOURCE, "placement": {"pools": ["l4"]}},
        ["spec.placement", "not supported yet"],
    ),
    "a missing file": (
        {"source": {**SOURCE, "uri": "in/b.parquet"}},
        ["spec.source.uri", "in/b.parquet", "in/a.parquet"],
    ),
    "a glob that matches nothing": (
        {"source": {**SOURCE, "uri": "in/*.arrow"}},
        ["spec.source.uri", "in/*.arrow", "matches no file"],
    ),
    "a truncated Parquet footer": (
        {"source": {**SOURCE, "uri": "torn/*.parquet"}},
        ["torn/torn.parquet", "can't be read"],
    ),
    "a model file that isn't ONNX": (
        {
            "source": SOURCE,
            "pipeline": [{"name": "stage", "onnx": "not-a-model.onnx", "inputs": {"x": "source.x"}}],
            "sink": Y,
        },
        ["spec.pipeline[0].onnx", "not-a-model.onnx"],
    ),
    "a missing module": (
        {"source": SOURCE, "pipeline": [python_stage("dubble:Double")], "sink": Y},
        ["spec.pipeline[0].python", "dubble", "double"],
    ),
    "a missing class": (
        {"source": SOURCE, "pipeline": [python_stage("bad:Work")], "sink": Y},
        ["spec.pipeline[0].python", "Work", "Works"],
    ),
    "two stages of one name": (
        {"source": SOURCE, "pipeline": [DOUBLE_STAGE, DOUBLE_STAGE]},
        ["spec.pipeline[1].name", "'double'"],
    ),
    "a column that doesn't exist, with those that do": (
        {"source": SOURCE, "pipeline": [{**DOUBLE_STAGE, "inputs": {"x": "source.z"}}]},
        ["spec.pipeline[0].inputs.x", "no column 'z'", "name", "x"],
    ),
    "a column of the sink that doesn't exist": (
        {"source": SOURCE, "sink": {"columns": {"n": "source.nam"}}},
        ["spec.sink.columns.n", "no column 'nam'", "name"],
    ),
    "a sink above the source": (
        {"source": {**SOURCE, "uri": "above/in/*.csv", "format": "csv"}, "sink": {"uri": "above", "mode": "append"}},
        ["spec.sink.uri", "lies in the output folder"],
    ),
    "a sink in the source": (
        {"source": {**SOURCE, "uri": "in"}, "sink": {"uri": "in/out"}},
        ["spec.sink.uri", "lies in the source"],
    ),
    "an output that isn't empty": (
        {"source": SOURCE, "sink": {"uri": "full"}},
        ["spec.sink.uri", "isn't empty", "results.txt"],
    ),
    "an output that is a link to nothing": (
        {"source": SOURCE, "sink": {"uri": "link"}},
        ["spec.sink.uri", "link is a link to nothing"],
    ),
    "a filter that names no column": (
        {"source": {**SOURCE, "filter": "z > 1"}},
        ["spec.source.filter", "z", "x"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_job_is_refused_for(site: Site, case: str) -> None:
    spec, words = REFUSED[case]
    job = site.job(**spec)
    message = refused(site, job)
    assert [word for word in words if word not in message] == [], message
    assert planned(site, job) == message


@pytest.mark.parametrize(
    ("column", "shape", "words"),
    [
        ("source.name", ["n"], ["spec.pipeline[0].inputs.x", "utf8", "float32"]),
        ("source.x", ["n"], ["spec.pipeline[0].inputs.x", "float64", "float32", "spec.pipeline[0].cast.x"]),
        ("source.x", ["n", 3], ["spec.pipeline[0].inputs.x", "[rows, 3]"]),
    ],
)
def test_a_dtype_or_shape_that_the_model_does_not_take_is_refused(
    site: Site, tmp_path: Path, column: str, shape: list[Any], words: list[str]
) -> None:
    onnx_model(tmp_path / "model.onnx", shape)
    stage = {"name": "stage", "onnx": str(tmp_path / "model.onnx"), "inputs": {"x": column}}
    message = refused(site, site.job(source=SOURCE, pipeline=[stage], sink=Y))
    assert [word for word in words if word not in message] == [], message


def test_a_constructor_that_raises_is_shown_with_the_users_own_frames(site: Site) -> None:
    message = refused(site, site.job(source=SOURCE, pipeline=[python_stage("bad:Raises")], sink=Y))
    assert "spec.pipeline[0].python" in message
    assert "LookupError: no weights here" in message
    assert "bad.py" in message
    assert "line 9, in __init__" in message
    assert "line 12, in load" in message
    assert "predictor/" not in message
    assert "importlib" not in message


def test_a_syntax_error_is_shown_with_its_line_and_no_other_frames(site: Site) -> None:
    site.write("typo.py", "class Typo:\n    def __call__(self, batch:\n        return batch\n")
    message = refused(site, site.job(source=SOURCE, pipeline=[python_stage("typo:Typo")], sink=Y))
    assert 'typo.py", line 2' in message
    assert "SyntaxError" in message
    assert "importlib" not in message


def without_override(site: Site, job: Path) -> Ran:
    """Runs the job as somebody whom permissions bind, which they don't root."""
    command = [] if os.geteuid() else ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    if command and not shutil.which("setpriv"):
        pytest.skip("root, and no setpriv to give its rights up")
    python = str(Path(sys.executable).with_name("headrace"))
    done = subprocess.run(
        [*command, python, "run", str(job), "--state", str(site.state), "-o", "json"],
        cwd=site.folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_a_file_that_may_not_be_read_is_refused(site: Site) -> None:
    path = site.parquet("closed/a.parquet", {"x": [1.5]})
    path.chmod(0)
    job = site.job(source={**SOURCE, "uri": "closed/*.parquet"})
    message = refused(site, job, lambda job: without_override(site, job))
    assert "closed/a.parquet: can't be read: permission denied" in message


def test_an_output_folder_that_may_not_be_written_is_refused(site: Site) -> None:
    site.write("locked/.keep", "")
    (site.folder / "locked").chmod(0o555)
    job = site.job(source=SOURCE, sink={"uri": "locked/out"})
    message = refused(site, job, lambda job: without_override(site, job))
    assert "spec.sink.uri: no permission to write" in message


def test_an_output_folder_that_can_not_be_made_is_refused(site: Site) -> None:
    message = refused(site, site.job(source=SOURCE, sink={"uri": "/proc/nowhere/out"}))
    assert "spec.sink.uri: /proc/nowhere/out can't be made: No such file or directory" in message


def test_another_system_than_linux_is_refused(site: Site) -> None:
    job = site.job(source=SOURCE)
    program = f"""
import sys
import coordinator.planning, coordinator.probing, coordinator.spec
from coordinator.cli import main
sys.argv = ["headrace", "run", {str(job)!r}, "--state", {str(site.state)!r}, "-o", "json"]
sys.platform = "darwin"
main()
"""

    def run(_: Path) -> Ran:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    assert "found darwin; Linux" in refused(site, job, run)


def test_all_mistakes_are_listed_at_once(site: Site) -> None:
    stage = {"name": "stage", "python": "bad:Works", "inputs": {"a": "source.nope", "b": "nostage.y"}, "colour": "red"}
    message = refused(site, site.job(source={**SOURCE, "formt": "csv"}, pipeline=[stage], sink=Y))
    for field in ("spec.source.formt", "spec.pipeline[0].colour", "spec.pipeline[0].inputs.b"):
        assert field in message


def test_a_refused_job_runs_once_its_mistake_is_corrected(site: Site) -> None:
    refused(site, site.job(source={**SOURCE, "uri": "in/b.parquet"}, name="corrected"))
    job = site.job(source=SOURCE, sink={"uri": "corrected"}, name="corrected")
    assert site.run_complete(job)["rows_out"] == 2
    assert site.rows(site.folder / "corrected").to_pydict() == {"x": [1.5, 2.5], "y": [3.0, 5.0]}
    shutil.rmtree(site.folder / "corrected")


@pytest.mark.parametrize("text", ["", "a: [", "[]", "kind: InferenceJob\n"])
def test_a_file_that_is_no_job_is_refused(site: Site, text: str) -> None:
    job = site.folder / "nojob.yaml"
    job.write_text(text)
    assert "nojob.yaml" in refused(site, job)


def test_a_job_file_that_is_not_there_is_refused(site: Site) -> None:
    assert "nowhere.yaml: No such file" in refused(site, site.folder / "nowhere.yaml")
