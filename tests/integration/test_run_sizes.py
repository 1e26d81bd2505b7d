"""`headrace run` on large rows and on many small files."""

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from tests.integration.run_fixture import Site
from tests.integration.table_fixture import write


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


DIGEST = '''
import hashlib

import numpy as np


class Digest:
    """Length and MD5 of each value, bytes or text."""

    def __call__(self, batch):
        values = [v.encode() if isinstance(v, str) else bytes(v) for v in batch["data"]]
        return {
            "size": np.array([len(v) for v in values], dtype=np.int64),
            "md5": np.array([hashlib.md5(v).hexdigest() for v in values], dtype=object),
        }
'''
DIGEST_STAGE = {"name": "digest", "python": "digest:Digest"}


class Peak:
    """The most memory (PSS) that children started in the block had together, in bytes."""

    def __enter__(self) -> "Peak":
        self.pss = 0
        self._before = set(psutil.Process().children(recursive=True))  # servers of other tests
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            children = set(psutil.Process().children(recursive=True)) - self._before
            self.pss = max(self.pss, sum(map(_pss, children)))


def _pss(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pa.binary(), pa.string()])
def test_a_row_of_100_mb_goes_through_and_memory_stays_sane(site: Site, kind: pa.DataType) -> None:
    import hashlib

    site.write("digest.py", DIGEST)
    sizes = [5, 100_000_000, 0, 1000]
    values = [(b"0123456789abcdef" * (size // 16 + 1))[:size] for size in sizes]
    site.parquet("in.parquet", {"id": [0, 1, 2, 3], "data": pa.array(values, pa.binary()).cast(kind)})
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet"},
        pipeline=[{**DIGEST_STAGE, "inputs": {"data": "source.data"}}],
        sink={"columns": {"id": "source.id", "size": "digest.size", "md5": "digest.md5"}},
    )

    with Peak() as peak:
        site.run_complete(job)

    site.verify()
    assert site.rows().to_pylist() == [
        {"id": i, "size": sizes[i], "md5": hashlib.md5(values[i]).hexdigest()} for i in range(4)
    ]
    # 250 MB without it; pyarrow's Parquet reader takes three times the row, the arena one, the stage up to three.
    assert peak.pss < 1_500_000_000


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """In memory where that is possible, and gone after the test: 100,000 files are slow to make and to remove."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_100_000_tiny_files_are_one_row_each(site: Site, quick_folder: Path) -> None:
    site.write("digest.py", DIGEST)
    for folder in range(100):
        path = quick_folder / "in" / f"{folder:02}"
        path.mkdir(parents=True)
        for i in range(1000):
            (path / f"{i:03}.txt").write_bytes(b"x" * (i % 7))
    job = site.job(
        source={"format": "files", "uri": str(quick_folder / "in")},
        pipeline=[{**DIGEST_STAGE, "inputs": {"data": "source.bytes"}}],
        sink={"columns": {"path": "source.path", "size": "digest.size", "listed": "source.size"}},
    )

    done = site.run_complete(job, timeout_s=100)

    assert done["rows_out"] == done["files"] == 100_000
    shards = done["shards_committed"]
    assert shards < 1000
    site.verify()
    table = site.rows()
    assert [os.path.relpath(path, quick_folder) for path in table["path"].to_pylist()] == [
        f"in/{folder:02}/{i:03}.txt" for folder in range(100) for i in range(1000)
    ]
    assert table["size"].to_pylist() == table["listed"].to_pylist() == [i % 7 for i in range(1000)] * 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_thousands_of_tiny_files_are_read_in_order(site: Site, kind: str) -> None:
    count = 3000
    (site.folder / "in").mkdir()
    for i in range(count):
        write(site.folder / "in" / f"{i:05}.{kind}", pa.table({"x": [2 * i, 2 * i + 1]}))
    job = site.job(source={"format": kind, "uri": "in"})

    done = site.run_complete(job)

    assert done["rows_out"] == 2 * count
    assert done["shards_committed"] < 100
    site.verify()
    assert site.rows()["x"].to_pylist() == list(range(2 * count))
