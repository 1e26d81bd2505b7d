"""`headrace run` when a stage's types depend on the data: no output ever holds files of two schemas."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.faults_fixture import HELD_FROM, ROWS, Faults
from tests.integration.run_fixture import Ran

pytestmark = pytest.mark.slow

STAGE = """
import os
import time

class Typed:
    '''Doubles ids as integers; as floats on the worker `floats_on`, or where the file `floats` is there.

    The first batches wait for `workers` workers, those with ids from `hold` on for the file `go`.
    '''

    def __init__(self, folder, workers=1, floats_on="", hold=10**9):
        self.folder, self.workers, self.hold = folder, workers, hold
        self.is_float = os.environ["HEADRACE_WORKER"] == floats_on

    def there(self, name):
        return os.path.exists(os.path.join(self.folder, name))

    def __call__(self, batch):
        ids = batch["id"]
        open(os.path.join(self.folder, "at-" + os.environ["HEADRACE_WORKER"]), "w").close()
        while sum(name.startswith("at-") for name in os.listdir(self.folder)) < self.workers:
            time.sleep(0.005)
        while ids.max() >= self.hold and not self.there("go"):
            time.sleep(0.005)
        return {"y": ids * 2.0 if self.is_float or self.there("floats") else ids * 2}
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Faults]:
    made = Faults(tmp_path)
    made.write("typed.py", STAGE)
    yield made
    made.end()


def typed_job(site: Faults, *, name: str = "job", source: str = "data.parquet", **config: object) -> Path:
    """A job of several shards; `sink` and `filter` as in a job file."""
    site.gate_job()  # writes its data
    sink, chosen = config.pop("sink", {}), config.pop("filter", None)
    assert isinstance(sink, dict)
    noise = [f"source.f{i}" for i in range(32)]
    return site.job(
        name=name,
        source={"format": "parquet", "uri": source, **({"filter": chosen} if chosen else {})},
        pipeline=[
            {
                "name": "typed",
                "python": "typed:Typed",
                "inputs": {"id": "source.id", "x": noise},
                "config": {"folder": str(site.folder), **config},
            }
        ],
        sink={"columns": {"id": "source.id", "y": "typed.y"}, **sink},
    )


def assert_mismatch(ran: Ran) -> None:
    assert ran.code == 1, ran.text
    assert ran.stdout, ran.text
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed"]
    assert failed["reason"] == "SchemaMismatch"
    assert "'y'" in failed["message"]
    assert {"double", "int64"} <= set(failed["message"].replace(".", " ").split())
    assert "Traceback" not in ran.stderr


def types(site: Faults) -> set[pa.DataType]:
    return {pq.read_schema(path).field("y").type for path in site.data_files()}


def test_two_workers_with_two_types_fail_the_job_and_leave_files_of_one(site: Faults) -> None:
    assert_mismatch(site.run(typed_job(site, workers=2, floats_on="worker-1"), "--workers", "2"))
    assert len(types(site)) <= 1

    site.run_complete(typed_job(site, workers=2), "--workers", "2", "--again")
    assert types(site) == {pa.int64()}
    site.assert_once()


def test_a_continued_run_writes_what_the_run_before_began(site: Faults) -> None:
    job = typed_job(site, hold=HELD_FROM)
    first = site.start_marked(job)
    site.wait_published()
    first.kill()
    first.communicate()
    site.wait_no_process(20)
    site.let_go()
    (site.folder / "floats").touch()

    assert_mismatch(site.run(job))
    assert types(site) == {pa.int64()}

    (site.folder / "floats").unlink()
    site.run_complete(job)
    assert types(site) == {pa.int64()}
    site.assert_once()


def test_an_append_has_the_types_of_what_is_there_or_fails(site: Faults) -> None:
    site.ids("more.parquet", ROWS, 4096, width=32)
    site.run_complete(typed_job(site))
    before = site.data_files()
    (site.folder / "floats").touch()
    more = typed_job(site, name="more", source="more.parquet", sink={"mode": "append"})

    assert_mismatch(site.run(more))
    assert site.data_files() == before

    (site.folder / "floats").unlink()
    site.run_complete(more)
    site.assert_once(ROWS + 4096)

    columns = {"id": "source.f0", "z": "typed.y"}
    other = typed_job(site, name="other", source="more.parquet", sink={"mode": "append", "columns": columns})
    refused = site.run(other)
    assert refused.code == 42
    assert "spec.sink.columns.id: double here, int64 in the files" in refused.stderr
    assert "spec.sink.columns.z" in refused.stderr
    site.verify()


def test_a_job_whose_filter_leaves_nothing_and_whose_types_nobody_knows_has_no_data_file(site: Faults) -> None:
    document = site.run_complete(typed_job(site, filter="id < 0"))
    assert document["shards_committed"] > 1
    assert (site.out / "_SUCCESS").exists()
    assert site.data_files() == []
    assert site.verify()["rows_filtered"] == ROWS
