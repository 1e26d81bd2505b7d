"""One contract for all places that input may lie in: the same files give the same blocks, whatever holds them."""

import gzip
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from coordinator.datasets import source_program
from headrace.dataset import Dataset
from headrace.errors import BadJob, InputChanged
from headrace.program import StorageOptions
from sidecar.reader import Block, Cursor, Source, open_source
from tests.hdfs.cluster_fixture import Folder
from tests.integration.source_fixture import Csv, Spec, Storage, plan_source
from tests.object_store.bucket_fixture import TestBucket
from tests.object_store.cloud_fixture import CloudBucket


@dataclass(frozen=True)
class Place:
    """Where a test's files lie."""

    root: str
    put: Callable[[str, bytes], None]
    remove: Callable[[str], None]
    storage: StorageOptions = field(default_factory=StorageOptions)
    is_listed: bool = True

    def uris(self, names: Sequence[str], glob: str) -> list[str]:
        """The names by their glob, or one by one where nobody can list them."""
        return [f"{self.root}/{glob}"] if self.is_listed else [f"{self.root}/{name}" for name in sorted(names)]

    def spec(self, kind: Any, uris: Sequence[str], **more: Any) -> Spec:
        return Spec(kind, uris, storage=Storage(self.storage), **more)


class _Ranges(SimpleHTTPRequestHandler):
    """A web server of one folder that knows ranges and has an ETag for the bytes as they are."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        etag = f'"{hash(data):x}"'
        if self.headers.get("If-Match", etag) != etag:
            self.send_error(412)
            return
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(len(data) - int(last), 0)
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - begin))
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        self.end_headers()
        self.wfile.write(data[begin:end])

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    handler: type[BaseHTTPRequestHandler] = partial(_Ranges, directory=str(folder))  # type: ignore[assignment]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="web")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def on_disk(folder: Path, root: str = "", *, is_listed: bool = True) -> Place:
    def put(name: str, data: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return Place(root or str(folder), put, lambda name: (folder / name).unlink(), is_listed=is_listed)


def in_bucket(bucket: TestBucket) -> Place:
    client = bucket.client
    return Place(
        f"s3://{bucket.name}/in",
        lambda name, data: client.put_object(Bucket=bucket.name, Key=f"in/{name}", Body=data),
        lambda name: client.delete_object(Bucket=bucket.name, Key=f"in/{name}"),
        bucket.storage,
    )


def in_cloud(cloud: CloudBucket) -> Place:
    return Place(
        f"{cloud.uri}/in",
        lambda name, data: cloud.put(f"in/{name}", data),
        lambda name: cloud.remove(f"in/{name}"),
        cloud.storage(cloud.url),
    )


def in_hdfs(folder: Folder) -> Place:
    return Place(folder.uri, folder.put, folder.remove, folder.storage)


CLOUDS = {"gs": "gcs_bucket", "abfss": "azure_container"}


@pytest.fixture(params=["local", "http", "s3", *CLOUDS, "hdfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "s3":
        yield in_bucket(request.getfixturevalue("bucket"))
    elif request.param == "hdfs":
        yield in_hdfs(request.getfixturevalue("hdfs_folder"))
    elif request.param in CLOUDS:
        yield in_cloud(request.getfixturevalue(CLOUDS[request.param]))
    elif request.param == "http":
        with served(tmp_path / "there") as url:
            yield on_disk(tmp_path / "there", url, is_listed=False)
    else:
        yield on_disk(tmp_path / "there")


@pytest.fixture(params=["local", "s3", *CLOUDS, "hdfs"])
def listed(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "hdfs":
        return in_hdfs(request.getfixturevalue("hdfs_folder"))
    if request.param in CLOUDS:
        return in_cloud(request.getfixturevalue(CLOUDS[request.param]))
    return on_disk(tmp_path) if request.param == "local" else in_bucket(request.getfixturevalue("bucket"))


# ---------------------------------------------------------------------- datasets


def table(begin: int, rows: int) -> pa.Table:
    ids = np.arange(begin, begin + rows)
    return pa.table({"id": ids, "x": ids / 4, "name": [f"row {i}" for i in ids.tolist()]})


def parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, row_group_size=70)
    return sink.getvalue()


def arrow(rows: pa.Table, make: Any = pa.ipc.new_file) -> bytes:
    sink = io.BytesIO()
    with make(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=90)
    return sink.getvalue()


def csv(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pa.csv.write_csv(rows, sink)
    return sink.getvalue()


def jsonl(rows: pa.Table) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows.to_pylist()).encode()


def zst(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


FORMATS: Mapping[str, tuple[str, Callable[[pa.Table], bytes]]] = {
    ".parquet": ("parquet", parquet),
    ".arrow": ("arrow", arrow),
    ".arrows": ("arrow", lambda rows: arrow(rows, pa.ipc.new_stream)),
    ".csv": ("csv", csv),
    ".csv.gz": ("csv", lambda rows: gzip.compress(csv(rows))),
    ".csv.zst": ("csv", lambda rows: zst(csv(rows))),
    ".jsonl": ("jsonl", jsonl),
    ".jsonl.gz": ("jsonl", lambda rows: gzip.compress(jsonl(rows))),
    ".bin": ("files", csv),
}
DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")


def fill(place: Place, suffix: str) -> list[str]:
    names = []
    for i, day in enumerate(DAYS):
        name = f"dt={day}/a b+é{i}{suffix}"
        place.put(name, FORMATS[suffix][1](table(1000 * i, 200 + i)))
        names.append(name if place.is_listed else quote(name, safe="/="))
    return names


def opened(spec: Spec, columns: Sequence[str] | None = None) -> tuple[Source, Dataset]:
    planned = plan_source(spec, columns=columns, limit_rows=None)
    return open_source(source_program(spec, planned, columns or planned.schema.names, None)), planned.dataset


def read(source: Source, dataset: Dataset, begin: int, end: int) -> list[Block]:
    return list(source.read(list(dataset.slices(begin, end)), Cursor(begin, end)))


def rows_of(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    return [row for block in blocks for row in block.rows.to_pylist()]


# ---------------------------------------------------------------------- the contract


@pytest.mark.parametrize("suffix", FORMATS)
def test_blocks_are_those_of_the_same_files_on_a_local_disk(place: Place, tmp_path: Path, suffix: str) -> None:
    kind = FORMATS[suffix][0]
    names = fill(place, suffix)
    local = on_disk(tmp_path / "local")
    local_names = fill(local, suffix)
    columns = ["dt", "id", "name"] if kind != "files" else ["dt", "bytes", "size"]
    csv_options = {"csv": Csv(line_breaks_in_fields=False)} if kind == "csv" else {}
    glob = f"dt=*/*{suffix}"
    there, planned = opened(place.spec(kind, place.uris(names, glob), **csv_options), columns)
    here, expected = opened(local.spec(kind, local.uris(local_names, glob), **csv_options), columns)
    assert planned.origins.tolist() == expected.origins.tolist()
    assert planned.cuts.tolist() == expected.cuts.tolist()
    assert planned.sizes.tolist() == expected.sizes.tolist()
    total = expected.units_total
    cuts = [0, total // 3, 2 * total // 3, total] if expected.divisible else [0, *expected.cuts.tolist(), total]
    for begin, end in pairwise(cuts):
        found, wanted = read(there, planned, begin, end), read(here, expected, begin, end)
        assert rows_of(found) == rows_of(wanted)
        assert [(b.begin, b.end, b.rows_read) for b in found] == [(b.begin, b.end, b.rows_read) for b in wanted]
        assert [b.address.tolist() for b in found] == [b.address.tolist() for b in wanted]
    assert len(rows_of(read(there, planned, 0, total))) == (603 if kind != "files" else 3)
    there.close()
    here.close()


def test_a_file_tells_when_it_was_changed(place: Place) -> None:
    place.put("a.bin", b"abc")
    source, dataset = opened(place.spec("files", [f"{place.root}/a.bin"]), ["path", "modified", "bytes"])
    row = rows_of(read(source, dataset, 0, 1))[0]
    assert row["path"] == f"{place.root}/a.bin"
    assert row["bytes"] == b"abc"
    assert row["modified"].year >= 2026
    source.close()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".csv.gz", ".bin"])
def test_a_file_that_is_no_longer_the_planned_one_is_a_changed_input(place: Place, suffix: str) -> None:
    kind, made = FORMATS[suffix]
    place.put(f"x{suffix}", made(table(0, 100)))
    spec = place.spec(kind, [f"{place.root}/x{suffix}"])
    source, dataset = opened(spec)
    place.put(f"x{suffix}", made(table(5, 100)))
    with pytest.raises(InputChanged):
        read(source, dataset, 0, dataset.units_total)
    source.close()
    source, dataset = opened(spec)
    place.remove(f"x{suffix}")
    with pytest.raises(InputChanged):
        read(source, dataset, 0, dataset.units_total)
    source.close()


def test_a_local_input_loads_nothing_of_the_network(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id\n1\n")
    code = (
        "import sys\n"
        "from coordinator.datasets import source_program\n"
        "from sidecar.reader import Cursor, open_source\n"
        "from tests.integration.source_fixture import Spec, plan_source\n"
        "spec = Spec('csv', [sys.argv[1]])\n"
        "planned = plan_source(spec, columns=None, limit_rows=None)\n"
        "source = open_source(source_program(spec, planned, ['id'], None))\n"
        "assert list(source.read(list(planned.dataset.slices(3, 5)), Cursor(3, 5)))\n"
        "print([name for name in ('http.client', 'botocore', 'headrace.httpfile') if name in sys.modules])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.csv")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.stdout == "[]\n", run.stderr


def test_an_empty_input_has_no_units(place: Place) -> None:
    place.put("x.csv", b"")
    planned = plan_source(place.spec("csv", [f"{place.root}/x.csv"]), columns=None, limit_rows=None, named=["id"])
    assert planned.dataset.units_total == 0


def test_what_is_not_there_is_a_fault_of_the_job(place: Place) -> None:
    place.put("x.csv", b"id\n1\n")
    for kind in ("csv", "parquet"):
        with pytest.raises(BadJob, match=r"spec\.source\.uri|none"):
            plan_source(place.spec(kind, [f"{place.root}/none.{kind}"]), columns=None, limit_rows=None)


def test_folders_globs_lists_and_excludes_name_the_same_files(listed: Place) -> None:
    for name in (
        "dt=1/a.csv", "dt=1/b.csv.gz", "dt=1/_tmp/c.csv", "dt=1/.d.csv", "dt=2/a.csv", "dt=2/deep/er/f.csv",
        "dt=2/README.md", "_SUCCESS", "e.csv", "dt=3x/[a].csv",
    ):  # fmt: skip
        listed.put(name, gzip.compress(b"id\n1\n") if name.endswith(".gz") else b"id\n1\n")
    root = listed.root

    def names(*uris: str, exclude: Sequence[str] = ()) -> list[str]:
        spec = listed.spec("csv", [f"{root}/{uri}" if uri else root for uri in uris], exclude=exclude)
        planned = plan_source(spec, columns=None, limit_rows=None)
        return [path.removeprefix(f"{root}/") for path in planned.dataset.paths]

    everything = ["dt=1/a.csv", "dt=1/b.csv.gz", "dt=2/a.csv", "dt=2/deep/er/f.csv", "dt=3x/[a].csv", "e.csv"]
    assert names("") == everything
    assert names("dt=2/") == ["dt=2/a.csv", "dt=2/deep/er/f.csv"]
    assert names("dt=2") == ["dt=2/a.csv", "dt=2/deep/er/f.csv"]
    assert names("dt=[12]") == ["dt=1/a.csv", "dt=1/b.csv.gz", "dt=2/a.csv", "dt=2/deep/er/f.csv"]
    assert names("dt=*/*.csv") == ["dt=1/a.csv", "dt=2/a.csv", "dt=3x/[a].csv"]
    assert names("**/*.csv") == [name for name in everything if name.endswith(".csv")]
    assert names("dt=?/_tmp/*") == ["dt=1/_tmp/c.csv"]
    assert names("e.csv", "dt=2/a.csv", "e.csv") == ["e.csv", "dt=2/a.csv"]
    assert names("", exclude=["**/deep/**", "dt=1/a.csv"]) == ["dt=1/b.csv.gz", "dt=2/a.csv", "dt=3x/[a].csv", "e.csv"]
    assert names("", exclude=[f"{root}/dt=*/**"]) == ["e.csv"]
    with pytest.raises(BadJob, match=r"matches no file; .*dt=1 has: "):
        names("dt=1/*.parquet")
    listed.put("other/README.md", b"")
    with pytest.raises(BadJob, match="holds no csv file"):
        names("other")
