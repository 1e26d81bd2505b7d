"""A real S3 server process, buckets in it, and a proxy in front of it that loses, delays and refuses."""

import contextlib
import http.client
import itertools
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import botocore.session

from headrace.httpfile import Pacing
from headrace.program import StorageOptions
from headrace.retries import Patience

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
"""The environment's credentials; a server of moto takes any."""

HASTY = Pacing(patience=Patience(tries=5, first_s=0.01, max_s=0.02, timeout_s=1.0))
"""Waits that tests can afford."""

_numbers = itertools.count(1)


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """A server's URL."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"S3_UPLOAD_PART_MIN_SIZE": "1"},  # small parts keep tests short
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.stdin.close()


@dataclass(frozen=True)
class TestBucket:
    """A new bucket."""

    __test__ = False

    name: str
    url: str

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(endpoint=self.url, region="us-east-1")

    @property
    def client(self) -> "botocore.client.BaseClient":
        """Plain botocore, as a stranger would use it."""
        return _client(self.url)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        client = self.client
        found = client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", ())
        return {item["Key"]: client.get_object(Bucket=self.name, Key=item["Key"])["Body"].read() for item in found}

    def uploads(self) -> list[str]:
        return [item["Key"] for item in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]


@cache
def _client(url: str) -> "botocore.client.BaseClient":
    return botocore.session.get_session().create_client("s3", endpoint_url=url, region_name="us-east-1")


def new_bucket(url: str) -> TestBucket:
    """A bucket that no other test has."""
    made = TestBucket(f"bucket-{next(_numbers)}", url)
    made.client.create_bucket(Bucket=made.name)
    return made


# ---------------------------------------------------------------------- faults


class Fault(Enum):
    """What the proxy does with one request."""

    PASS = auto()
    LOSE = auto()  # the store does it, and the answer is lost
    CUT = auto()  # half of the answer's body comes
    HALVE = auto()  # half of the request's body comes to the store
    AWAY = auto()  # the connection ends; the store never sees it
    REFUSE = auto()  # 503 SlowDown; the store never sees it
    FAIL = auto()  # 500; the store never sees it
    DENY = auto()  # 403 AccessDenied; the store never sees it
    MISS = auto()  # 404 NoSuchKey, as of an object that is listed before it can be read
    STANDBY = auto()  # 403 StandbyException, as of a NameNode that isn't the active one
    NEGOTIATE = auto()  # 401, as of a server that wants Kerberos
    HANG = auto()  # the store does it, and the answer comes when nobody waits any more


@dataclass
class Proxy:
    """Stands between a client and a server; `fault` decides about each request from its method and path."""

    url: str
    fault: Callable[[str, str], Fault] = lambda method, path: Fault.PASS
    seen: list[str] = field(default_factory=list)
    unlisted: str = ""  # part of the keys that listings don't show yet

    def once(self, fault: Fault, *signs: str) -> None:
        """The first request of which "METHOD path?query" holds all signs suffers the fault."""
        self.times(1, fault, *signs)

    def times(self, count: int, fault: Fault, *signs: str) -> None:
        """The first `count` of them do."""
        left = itertools.repeat(fault, count)

        def decide(method: str, path: str) -> Fault:
            return next(left, Fault.PASS) if all(sign in f"{method} {path}" for sign in signs) else Fault.PASS

        self.fault = decide


class _Quiet(ThreadingHTTPServer):
    """Says nothing of a client that was killed."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Dialect(Protocol):
    """How a store says no, and lists."""

    def refusal(self, status: int, code: str) -> tuple[str, bytes]:
        """Type and body of a refusal."""

    def unlisted(self, path: str, body: bytes, part: str) -> bytes:
        """An answer, without the entries of a listing whose keys hold `part`."""


class S3Dialect:
    """XML."""

    def refusal(self, status: int, code: str) -> tuple[str, bytes]:
        """S3's."""
        return "application/xml", f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()

    def unlisted(self, path: str, body: bytes, part: str) -> bytes:
        """Of list_objects_v2."""
        if "list-type=2" not in path:
            return body
        return re.sub(
            rb"<Contents>.*?</Contents>",
            lambda item: b"" if part.encode() in item[0] else item[0],
            body,
            flags=re.DOTALL,
        )


@contextlib.contextmanager
def proxied(target: str, dialect: Dialect | None = None) -> Iterator[Proxy]:
    """A proxy before the server at `target`."""
    dialect = dialect or S3Dialect()
    host = target.removeprefix("http://")
    made = Proxy("")

    class Between(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:  # whoever sent it has died
                self._drop()
                return
            made.seen.append(f"{self.command} {self.path}")
            fault = made.fault(self.command, self.path)
            if fault is Fault.AWAY:
                self._drop()
                return
            if fault in _ANSWERS:
                status, code = _ANSWERS[fault]
                kind, text = dialect.refusal(status, code)
                self._answer(status, {"Content-Type": kind}, text, len(text))
                return
            upstream = http.client.HTTPConnection(host, timeout=20)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            if fault is Fault.HALVE and body:
                upstream.request(self.command, self.path, body[: length // 2], headers)
                upstream.close()
                self._drop()
                return
            upstream.request(self.command, self.path, body, headers)
            found = upstream.getresponse()
            data = found.read()
            if made.unlisted and self.command == "GET":
                shown = dialect.unlisted(self.path, data, made.unlisted)
                if shown != data:
                    data = shown
                    del found.headers["Content-Length"]
            kept = {name: value for name, value in found.getheaders() if name.lower() not in _OF_THE_HOP}
            upstream.close()
            if fault is Fault.LOSE:
                self._drop()
            elif fault is Fault.HANG:
                time.sleep(2 * HASTY.patience.timeout_s)
                self._drop()
            else:
                sent = data[: len(data) // 2] if fault is Fault.CUT else data
                declared = int(found.getheader("Content-Length") or len(data))
                self._answer(found.status, kept, sent, declared)
                if fault is Fault.CUT:
                    self._drop()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def _answer(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _drop(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

    server = _Quiet(("127.0.0.1", 0), Between)
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
    Fault.REFUSE: (503, "SlowDown"),
    Fault.FAIL: (500, "InternalError"),
    Fault.DENY: (403, "AccessDenied"),
    Fault.MISS: (404, "NoSuchKey"),
}
_OF_THE_HOP = {"connection", "content-length", "transfer-encoding", "keep-alive"}
