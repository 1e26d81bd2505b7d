"""What goes wrong between a reader and Google's or Azure's store: nothing is lost, and each cause is told apart."""

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.datasets import source_program
from headrace.dataset import Dataset
from headrace.errors import BadJob, InputChanged, SourceRefused, SourceUnavailable
from sidecar.reader import Cursor, Source, open_source
from sidecar.reader.remote import CHUNK_BYTES
from tests.integration.source_fixture import Csv, Spec, Storage, plan_source
from tests.object_store.bucket_fixture import Fault
from tests.object_store.cloud_fixture import HASTY, Cloud


def opened(spec: Spec, columns: Sequence[str]) -> tuple[Source, Dataset]:
    planned = plan_source(spec, columns=columns, limit_rows=None)
    return open_source(source_program(spec, planned, columns, None)), planned.dataset


def ids(source: Source, dataset: Dataset, begin: int = 0, end: int | None = None) -> list[int]:
    end = dataset.units_total if end is None else end
    blocks = source.read(list(dataset.slices(begin, end)), Cursor(begin, end))
    return [value for block in blocks for value in block.rows.column("id").to_pylist()]


def parquet(table: pa.Table, rows: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=rows, compression="none", use_dictionary=False)
    return sink.getvalue()


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.FAIL, Fault.LOSE, Fault.CUT, Fault.HANG, Fault.MISS])
def test_a_range_that_is_lost_on_its_way_is_asked_for_again(cloud: Cloud, fault: Fault) -> None:
    data = bytes(range(256)) * 40
    path = cloud.put("x.bin", data)
    files = cloud.files()
    found = files.stat(path)
    assert found is not None
    cloud.proxy.seen.clear()
    cloud.proxy.times(2, fault, "GET", "x.bin")
    assert files.range(path, 100, 5000, size=found.size, version=found.version) == data[100:5000]
    assert len(cloud.proxy.seen) == 3


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.CUT, Fault.LOSE])
def test_a_listing_that_is_lost_on_its_way_is_asked_for_again(cloud: Cloud, fault: Fault) -> None:
    paths = [cloud.put(f"in/{i:04}", b"") for i in range(5)]
    cloud.proxy.times(2, fault, cloud.bucket.signs.listing)
    assert [found.path for found in cloud.files().list(f"{cloud.bucket.uri}/in/")] == paths
    assert len(cloud.proxy.seen) == 3


def test_a_long_listing_comes_in_pages(cloud: Cloud) -> None:
    paths = [cloud.put(f"in/{i:04} +é&", b"x" * i) for i in range(7)]
    found = cloud.bucket.listed(cloud.proxy.url, "in/", page_keys=3)
    assert [each.path for each in found] == paths
    assert [each.size for each in found] == list(range(7))
    assert len(cloud.proxy.seen) == 3


def test_what_is_listed_is_what_is_read(cloud: Cloud) -> None:
    path = cloud.put("in/a", b"abc")
    (listed,) = cloud.files().list(f"{cloud.bucket.uri}/in/")
    assert listed == cloud.files().stat(path)


def test_a_store_that_stays_away_is_unavailable(cloud: Cloud) -> None:
    path = cloud.put("x.bin", b"abc")
    cloud.proxy.fault = lambda method, path: Fault.REFUSE
    with pytest.raises(SourceUnavailable, match=r"can't be read: .* 503 SlowDown .*\(after 5 tries"):
        cloud.files().stat(path)
    assert len(cloud.proxy.seen) == HASTY.patience.tries


def test_what_is_refused_is_asked_for_once(cloud: Cloud) -> None:
    path = cloud.put("x.bin", b"abc")
    cloud.proxy.fault = lambda method, path: Fault.DENY
    with pytest.raises(SourceRefused, match=r"x\.bin: the server answers 403 AccessDenied \(on purpose\)$"):
        cloud.files().stat(path)
    assert len(cloud.proxy.seen) == 1


def test_a_listed_object_that_stays_missing_is_a_changed_input(cloud: Cloud) -> None:
    path = cloud.put("x.bin", b"abc")
    cloud.proxy.fault = lambda method, path: Fault.MISS
    with pytest.raises(InputChanged, match="is not there"):
        cloud.files().range(path, 0, 3, size=3, version='"x"')
    assert len(cloud.proxy.seen) == 3


def test_an_object_that_was_written_again_is_a_changed_input(cloud: Cloud) -> None:
    path = cloud.put("x.bin", b"abc")
    found = cloud.files().stat(path)
    assert found is not None
    cloud.put("x.bin", b"xyz")
    with pytest.raises(InputChanged, match="has changed"):
        cloud.files().range(path, 0, 3, size=3, version=found.version)


@pytest.mark.parametrize("known", [-1, 0, 50, 100, 1000])
@pytest.mark.parametrize("size", [0, 40, 100])
def test_the_end_of_a_file_is_got_by_one_request_whatever_its_size_was_thought_to_be(
    cloud: Cloud, size: int, known: int
) -> None:
    data = bytes(range(size))
    path = cloud.put("x.bin", data)
    cloud.proxy.seen.clear()
    tail = cloud.files().tail(path, 60, known)
    assert tail.size == size
    assert data.endswith(tail.data)
    if known in (size, -1):
        assert len(tail.data) >= min(size, 60)
    assert len(cloud.proxy.seen) == 1


def test_a_missing_bucket_is_a_fault_of_the_job(cloud: Cloud) -> None:
    uri = f"{cloud.bucket.uri.replace('bucket-', 'no-such-bucket-')}/in/*.csv"
    with pytest.raises(BadJob, match="404"):
        plan_source(Spec("csv", [uri], storage=Storage(cloud.storage)), columns=None, limit_rows=None)


# ---------------------------------------------------------------------- requests


def test_small_objects_take_one_request_to_plan_and_one_to_read(cloud: Cloud) -> None:
    for i in range(12):
        cloud.put(f"in/{i:02}.parquet", parquet(pa.table({"id": np.arange(100) + 100 * i}), 30))
    source, dataset = opened(Spec("parquet", [f"{cloud.bucket.uri}/in/"], storage=Storage(cloud.storage)), ["id"])
    assert len(cloud.proxy.seen) == 1 + 12
    cloud.proxy.seen.clear()
    assert ids(source, dataset, 0, 650) == list(range(650))
    assert ids(source, dataset, 650, 1200) == list(range(650, 1200))
    assert len(cloud.proxy.seen) == 12
    source.close()


def test_of_a_large_object_the_wanted_columns_are_fetched_in_one_range_a_row_group(cloud: Cloud) -> None:
    rows = 40_000
    wide = {f"c{i}": np.random.default_rng(i).random(rows) for i in range(30)}
    path = cloud.put("big.parquet", parquet(pa.table({"id": np.arange(rows), **wide}), 10_000))
    source, dataset = opened(Spec("parquet", [path], storage=Storage(cloud.storage)), ["id"])
    cloud.proxy.seen.clear()
    assert ids(source, dataset, 5_000, 25_000) == list(range(5_000, 25_000))
    assert len(cloud.proxy.seen) == 4  # the footer, and three row groups
    source.close()


def test_text_is_fetched_in_chunks_each_once_by_neighbouring_leases(cloud: Cloud) -> None:
    count = 300_000
    data = b"id,text\n" + b"".join(b"%d,%024d\n" % (i, i) for i in range(count))
    assert len(data) > 2 * CHUNK_BYTES
    path = cloud.put("big.csv", data)
    spec = Spec("csv", [path], csv=Csv(line_breaks_in_fields=False), storage=Storage(cloud.storage))
    source, dataset = opened(spec, ["id"])
    assert len(cloud.proxy.seen) <= 3  # what it is, and its head
    cloud.proxy.seen.clear()
    middle = dataset.units_total // 2
    assert ids(source, dataset, 0, middle) + ids(source, dataset, middle) == list(range(count))
    assert len(cloud.proxy.seen) == -(-len(data) // CHUNK_BYTES)
    source.close()
