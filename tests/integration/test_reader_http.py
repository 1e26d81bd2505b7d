"""Parquet over HTTP from a server of our own on loopback: few requests, versions checked, failures told apart."""

import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.datasets import source_program
from headrace.dataset import Dataset
from headrace.errors import BadJob, InputChanged, SourceRefused
from headrace.httpfile import RangedFile
from sidecar.reader import Cursor, Source, open_source
from tests.integration.source_fixture import Spec, plan_source


class Store(ThreadingHTTPServer):
    """Serves `files` by ranges, counts requests, and fails the next ones as told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.files: dict[str, bytes] = {}
        self.etag = '"1"'
        self.requests: list[str] = []
        self.failures: list[int] = []
        self.is_chunked = False

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        store = self.server
        assert isinstance(store, Store)
        wanted = self.headers["Range"]
        store.requests.append(f"{self.path} {wanted}")
        if store.failures:
            self._answer(store.failures.pop(0), b"", {})
            return
        data = store.files.get(self.path.removeprefix("/"))
        if data is None:
            self._answer(404, b"", {})
            return
        if store.is_chunked:  # no ranges, and no length ahead
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        begin = int(first) if first else max(len(data) - int(last), 0)
        end = min(int(last) + 1, len(data)) if first else len(data)
        self._answer(206, data[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        store = self.server
        assert isinstance(store, Store)
        self.send_response(status)
        for name, value in {**headers, "ETag": store.etag, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def store() -> Iterator[Store]:
    server = Store()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="store", daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def parquet(table: pa.Table, rows: int) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=rows, compression="none", use_dictionary=False)
    return bytes(sink.getvalue().to_pybytes())


def opened(urls: Sequence[str], columns: Sequence[str]) -> tuple[Source, Dataset]:
    spec = Spec("parquet", urls)
    planned = plan_source(spec, columns=columns, limit_rows=None)
    return open_source(source_program(spec, planned, columns, None)), planned.dataset


def read(source: Source, dataset: Dataset, begin: int, end: int) -> list[int]:
    blocks = list(source.read(list(dataset.slices(begin, end)), Cursor(begin, end)))
    return [value for block in blocks for value in block.rows.column("id").to_pylist()]


def test_small_files_take_one_request_to_plan_and_one_to_read(store: Store) -> None:
    for i in range(12):
        store.files[f"{i}.parquet"] = parquet(pa.table({"id": np.arange(100) + 100 * i}), 30)
    source, dataset = opened([store.url(f"{i}.parquet") for i in range(12)], ["id"])
    assert len(store.requests) == 12
    assert dataset.cuts[:5].tolist() == [30, 60, 90, 100, 130]
    assert dataset.sizes[0] == len(store.files["0.parquet"])
    assert read(source, dataset, 0, 650) == list(range(650))
    assert read(source, dataset, 650, 1200) == list(range(650, 1200))
    assert len(store.requests) == 24
    source.close()


def test_of_large_files_the_wanted_columns_are_fetched_in_one_range_a_row_group(store: Store) -> None:
    rows = 40_000
    wide = {f"c{i}": np.random.default_rng(i).random(rows) for i in range(30)}
    store.files["big.parquet"] = parquet(pa.table({"id": np.arange(rows), "x": np.arange(rows), **wide}), 10_000)
    source, dataset = opened([store.url("big.parquet")], ["id", "x"])
    store.requests.clear()
    assert read(source, dataset, 5_000, 25_000) == list(range(5_000, 25_000))
    assert len(store.requests) == 4  # the footer, and three row groups
    assert read(source, dataset, 25_000, 40_000) == list(range(25_000, 40_000))
    assert len(store.requests) == 5
    source.close()


def test_what_text_is_and_where_its_limit_lies_is_found_with_two_requests(store: Store) -> None:
    store.files["x.csv"] = b"id\n" + b"".join(b"%d\n" % i for i in range(1_000))
    planned = plan_source(Spec("csv", [store.url("x.csv")]), columns=None, limit_rows=100)
    assert (planned.dataset.rows_total, planned.schema.names) == (100, ["id"])
    assert store.requests == ["/x.csv bytes=0-0", f"/x.csv bytes=0-{len(store.files['x.csv']) - 1}"]


def test_a_file_whose_server_tells_no_date_has_none(store: Store) -> None:
    store.files["x.bin"] = b"abc"
    spec = Spec("files", [store.url("x.bin")])
    planned = plan_source(spec, columns=None, limit_rows=None)
    source = open_source(source_program(spec, planned, ["size", "modified", "bytes"], None))
    (block,) = source.read(list(planned.dataset.slices(0, 1)), Cursor(0, 1))
    assert block.rows.to_pylist() == [{"size": 3, "modified": None, "bytes": b"abc"}]
    source.close()


@pytest.mark.parametrize("rows", [100, 2_000_000])
def test_another_version_is_a_changed_input(store: Store, rows: int) -> None:
    store.files["x.parquet"] = parquet(pa.table({"id": np.arange(rows)}), 1_000_000)
    source, dataset = opened([store.url("x.parquet")], ["id"])
    store.etag = '"2"'
    with pytest.raises(InputChanged, match="changed since it was planned"):
        read(source, dataset, 0, 100)
    del store.files["x.parquet"]
    with pytest.raises(InputChanged, match="is not there"):
        read(source, dataset, 0, 100)
    source.close()


def test_a_busy_server_is_asked_again(store: Store) -> None:
    store.files["x.parquet"] = parquet(pa.table({"id": np.arange(100)}), 100)
    store.failures = [503]
    source, dataset = opened([store.url("x.parquet")], ["id"])
    store.failures = [500]
    assert read(source, dataset, 0, 100) == list(range(100))
    source.close()


def test_a_refusal_is_the_stores_fault_and_no_damage(store: Store) -> None:
    store.files["x.parquet"] = parquet(pa.table({"id": np.arange(100)}), 100)
    source, dataset = opened([store.url("x.parquet")], ["id"])
    store.failures = [403]
    with pytest.raises(SourceRefused, match="answers 403"):
        read(source, dataset, 0, 100)
    assert read(source, dataset, 0, 100) == list(range(100))
    source.close()


def test_what_is_not_there_is_refused_at_planning(store: Store) -> None:
    with pytest.raises(BadJob, match="is not there"):
        plan_source(Spec("parquet", [store.url("none.parquet")]), columns=None, limit_rows=None)
    with pytest.raises(BadJob, match="is not there"):
        plan_source(Spec("csv", [store.url("x.csv")]), columns=None, limit_rows=None)
    with pytest.raises(BadJob, match="can't be listed"):
        plan_source(Spec("parquet", [store.url("*.parquet")]), columns=None, limit_rows=None)


def test_a_file_whose_size_is_not_told_is_refused_rather_than_taken_for_empty(store: Store) -> None:
    store.files["x.csv"] = b"id\n1\n"
    store.is_chunked = True
    with pytest.raises(BadJob, match="doesn't tell its size"):
        plan_source(Spec("csv", [store.url("x.csv")]), columns=None, limit_rows=None)


def test_a_server_without_ranges_sends_whole_files(store: Store) -> None:
    store.files["x.parquet"] = parquet(pa.table({"id": np.arange(100)}), 30)
    store.is_chunked = True
    store.etag = ""
    source, dataset = opened([store.url("x.parquet")], ["id"])
    assert read(source, dataset, 0, 100) == list(range(100))
    source.close()


def test_a_ranged_file_keeps_its_place_past_its_end_and_where_a_read_failed() -> None:
    failures = [OSError("lost")]

    def fetch(begin: int, end: int) -> bytes:
        if failures:
            raise failures.pop()
        return b"abcdef"[begin:end]

    file = RangedFile(6, fetch)
    file.seek(2)
    with pytest.raises(OSError, match="lost"):
        file.read(3)
    assert [file.read(3), file.tell(), file.read(3), file.tell()] == [b"cde", 5, b"f", 6]
    file.seek(9)
    assert [file.read(1), file.readall(), file.readinto(bytearray(2)), file.tell()] == [b"", b"", 0, 9]
    file.seek(1)
    buffer = bytearray(4)
    assert [file.readinto(buffer), bytes(buffer), file.readall()] == [4, b"bcde", b"f"]
