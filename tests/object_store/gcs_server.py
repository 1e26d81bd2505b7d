"""A server of Google Cloud Storage's JSON API on loopback: fake-gcs-server behind a gate; prints its port.

The gate adds what that server leaves out: conditions on `compose`. It ends with its standard input.
"""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

START_S = 20.0
_UNMET = "At least one of the pre-conditions you specified did not hold."
_OF_THE_HOP = {"connection", "content-length", "transfer-encoding", "keep-alive"}


class Gate(BaseHTTPRequestHandler):
    """Hands on every request; those that compose are checked first, one at a time."""

    protocol_version = "HTTP/1.1"
    behind = ""
    composing = threading.Lock()

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        if self.command == "POST" and parts.path.endswith("/compose"):
            with self.composing:
                status, text = self._refusal(parts.path, parse_qs(parts.query), json.loads(body))
                if status:
                    told = {"error": {"code": status, "message": text, "errors": [{"message": text}]}}
                    self._answer(status, [], json.dumps(told).encode())
                else:
                    self._hand_on(body)
        else:
            self._hand_on(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def _refusal(self, path: str, query: dict[str, list[str]], asked: dict[str, Any]) -> tuple[int, str]:
        final = path.removesuffix("/compose")
        bucket = final.rpartition("/o/")[0]
        for source in asked["sourceObjects"]:
            path = f"{bucket}/o/{quote(source['name'], safe='')}"
            named = f"?generation={source['generation']}" if "generation" in source else ""
            found = self._generation(path + named)
            if not found:
                return 404, f"No such object: {source['name']}"
            if source.get("objectPreconditions", {}).get("ifGenerationMatch", found) != found:
                return 412, _UNMET
        wanted = query.get("ifGenerationMatch")
        if wanted and wanted != [self._generation(final) or "0"]:
            return 412, _UNMET
        return 0, ""

    def _generation(self, path: str) -> str:
        connection = http.client.HTTPConnection(self.behind, timeout=20)
        connection.request("GET", path)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        return str(found["generation"]) if answer.status == 200 else ""

    def _hand_on(self, body: bytes) -> None:
        connection = http.client.HTTPConnection(self.behind, timeout=20)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self._answer(answer.status, answer.getheaders(), data)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _OF_THE_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main(program: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = f"-backend memory -scheme http -host 127.0.0.1 -port {port} -log-level error".split()
    with subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as behind:
        try:
            Gate.behind = f"127.0.0.1:{port}"
            end = time.monotonic() + START_S
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert behind.poll() is None, "fake-gcs-server ended"
                assert time.monotonic() < end, "fake-gcs-server doesn't answer"
                time.sleep(0.02)
            server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, name="gate", daemon=True).start()
            print(server.server_port, flush=True)
            sys.stdin.read()
        finally:
            behind.terminate()


if __name__ == "__main__":
    main(sys.argv[1])
