"""Where a job may write: nothing is touched, whatever is found."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from coordinator.planning import sink_faults
from coordinator.spec import InferenceJob
from headrace.dataset import Dataset


def job(
    uri: str | list[str], sink: Path | str, *, mode: str = "fail", exclude: list[str] | None = None
) -> InferenceJob:
    plain = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "t"},
        "spec": {
            "source": {"format": "parquet", "uri": uri, "exclude": exclude or []},
            "pipeline": [{"name": "a", "python": "m:C", "inputs": {"x": "source.x"}}],
            "sink": {"format": "parquet", "uri": str(sink), "columns": {"y": "a.y"}, "mode": mode},
        },
    }
    return InferenceJob.model_validate(plain).absolute(Path("/"))


def dataset(*paths: Path | str) -> Dataset:
    names = tuple(map(str, paths))
    ones = np.ones(len(names), np.int64)
    return Dataset(
        "row", names, ones, ("1",) * len(names), np.arange(len(names) + 1), np.arange(0), True, 0, len(names)
    )


def faults(made: InferenceJob, planned: Dataset | None = None) -> list[str]:
    return [str(fault) for fault in sink_faults(made, planned)]


@contextmanager
def nobody() -> Iterator[None]:
    """The rights of a user who owns nothing; tests often run as root, who may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_new_or_empty_folder_is_fine_and_stays_as_it_is(tmp_path: Path) -> None:
    assert faults(job(f"{tmp_path}/in/*.parquet", tmp_path / "a/b/out"), dataset(tmp_path / "in/x.parquet")) == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out/_headrace").mkdir(parents=True)
    (tmp_path / "out/.keep").touch()
    assert faults(job(f"{tmp_path}/in/*.parquet", tmp_path / "out"), dataset()) == []


@pytest.mark.parametrize("name", ["part-1.parquet", "_SUCCESS", "folder/", "_headrace/manifest-000001.jsonl"])
def test_an_output_that_is_not_empty_is_refused_only_in_mode_fail(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
    else:
        path.touch()
    expected = (
        f"spec.sink.uri: {out} isn't empty: it has {name.rstrip('/')}; an empty folder, or mode: append or replace"
    )
    assert faults(job("/in/*", out)) == [expected]
    for mode in ("append", "replace"):
        assert faults(job("/in/*", out, mode=mode)) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    assert faults(job("/in/*", tmp_path / "out/deeper")) == [
        f"spec.sink.uri: {tmp_path}/out is a file; a folder for the output files"
    ]


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    (tmp_path / "closed").mkdir(mode=0o500)
    (tmp_path / "secret").mkdir(mode=0o700)
    with nobody():
        found = faults(job("/in/*", tmp_path / "closed/out"))
        assert len(found) == 1
        assert "permission" in found[0]
        if os.getuid() == 0:
            assert faults(job("/in/*", tmp_path / "out")) == [
                f"spec.sink.uri: no permission to write {tmp_path}; a folder that you may write"
            ]
            assert faults(job("/in/*", tmp_path / "secret/deep/out")) == [
                f"spec.sink.uri: no permission to look into {tmp_path}/secret/deep/out; a folder that you may write"
            ]


@pytest.mark.parametrize(
    ("uri", "sink"),
    [
        ("/d", "/d"),
        ("/d", "/d/out"),
        ("/d/**", "/d/out"),
        ("/d/**/*.parquet", "/d"),
        ("/d/**/*.parquet", "/d/a/b"),
        ("/d/*/*", "/d/out"),
        ("/d/*.parquet", "/d"),
        ("/d/[o]ut/part-*", "/d/out"),
        (["/x/*", "/d/**"], "/d/out"),
    ],
)
def test_an_output_that_the_source_would_read_is_refused(uri: str | list[str], sink: str) -> None:
    (fault,) = faults(job(uri, sink))
    assert fault.startswith(f"spec.sink.uri: {sink} lies in the source ")


@pytest.mark.parametrize(
    ("uri", "sink"),
    [
        ("/d/*.parquet", "/d/out"),
        ("/d/*.csv", "/d"),
        ("/d/in/**", "/d/out"),
        ("/d/in/**", "/d/in-2"),
        ("/d/in/a.parquet", "/d/out"),
        ("/d/dt=*/*.parquet", "/d/out"),
        ("/d/*/*/x.parquet", "/d/a/b"),
        ("http://127.0.0.1/d/*", "/d"),
    ],
)
def test_an_output_beside_the_source_is_fine(uri: str, sink: str) -> None:
    assert faults(job(uri, sink)) == []


def test_an_output_that_the_source_excludes_is_fine() -> None:
    assert faults(job("/d/**", "/d/out", exclude=["out/**"])) == []
    assert faults(job("/d/**", "/d/out", exclude=["**/part-*"])) == []
    assert len(faults(job("/d/**", "/d/out", exclude=["other/**"]))) == 1


def test_source_files_inside_the_output_are_refused_also_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    inside = dataset(tmp_path / "link/a.csv")
    (fault,) = faults(job(f"{tmp_path}/link/*.csv", tmp_path / "out", mode="append"), inside)
    assert fault == (
        f"spec.sink.uri: the source's file {tmp_path}/link/a.csv lies in the output folder {tmp_path}/out; "
        "a folder of its own"
    )


def test_a_hundred_thousand_files_are_checked_in_no_time(tmp_path: Path) -> None:
    many = dataset(*(tmp_path / f"in/{i}.parquet" for i in range(100_000)))
    assert faults(job(f"{tmp_path}/in/*.parquet", tmp_path / "out"), many) == []
