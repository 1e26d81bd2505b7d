"""Real servers of other object stores than S3, and buckets in them, reached as strangers would."""

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

import pytest

from headrace.azure_urls import AzureUrls, list_blobs
from headrace.gcs_urls import GcsUrls, list_gcs
from headrace.httpfile import Found, HttpFiles, Pacing
from headrace.program import StorageOptions
from headrace.remote_files import RemoteFiles
from headrace.retries import Patience, RetryBudget
from headrace.stores.azure import AzureStore
from headrace.stores.bucket_store import BucketStore
from headrace.stores.gcs import GcsStore
from tests.object_store.bucket_fixture import Dialect, Proxy

_numbers = itertools.count(1)


UID = "0123456789abcdef"
PART_BYTES = 256 << 10
HASTY = Pacing(Patience(tries=5, first_s=0.01, max_s=0.02, timeout_s=1.0))
"""Waits that tests can afford."""

Request = tuple[str, ...]


@dataclass(frozen=True)
class Signs:
    """Parts of "METHOD path?query" by which the requests of a store are known."""

    stage: Request  # a part of a file
    second: Request  # the second part of one
    publish: Request
    create: Request  # of a small object
    listing: str
    reading: Request
    small_file: list[str]  # methods of all requests for a file of one part


class CloudBucket(Protocol):
    """A new bucket of one store."""

    @property
    def uri(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def dialect(self) -> Dialect: ...

    @property
    def signs(self) -> Signs: ...

    def options(self, url: str) -> dict[str, Any]:
        """How it is reached by way of `url`, as in a job."""

    def storage(self, url: str) -> StorageOptions:
        """The same as an object."""

    def store(self, url: str) -> BucketStore:
        """An output below `out` whose tries are soon over and whose parts are small."""

    def listed(self, url: str, prefix: str, page_keys: int) -> list[Found]:
        """A listing in pages of so many keys."""

    def put(self, key: str, body: bytes) -> None: ...

    def remove(self, key: str) -> None: ...

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """What readers see: nothing whose name begins with `_headrace/staging-`."""

    def staged(self) -> list[str]:
        """What is staged and nobody published."""


@dataclass(frozen=True)
class Cloud:
    """A bucket, and what loses and refuses requests on their way there."""

    bucket: CloudBucket
    proxy: Proxy

    @property
    def storage(self) -> StorageOptions:
        return self.bucket.storage(self.proxy.url)

    def store(self) -> BucketStore:
        return self.bucket.store(self.proxy.url)

    def put(self, key: str, body: bytes) -> str:
        """Puts an object; gives its URI."""
        self.bucket.put(key, body)
        return f"{self.bucket.uri}/{key}"

    def files(self) -> RemoteFiles:
        return RemoteFiles(self.storage, HASTY)


# ---------------------------------------------------------------------- Google


@contextlib.contextmanager
def gcs_server() -> Iterator[str]:
    """A server's URL."""
    program = os.environ.get("FAKE_GCS_SERVER") or shutil.which("fake-gcs-server")
    if not program:
        pytest.skip("needs fake-gcs-server: go install github.com/fsouza/fake-gcs-server@v1.56.1")
    with _ending_with_us([sys.executable, str(Path(__file__).with_name("gcs_server.py")), program]) as port:
        yield f"http://127.0.0.1:{port}"


class GcsDialect:
    """JSON."""

    def refusal(self, status: int, code: str) -> tuple[str, bytes]:
        error = {"code": status, "message": "on purpose", "errors": [{"reason": code, "message": "on purpose"}]}
        return "application/json", json.dumps({"error": error}).encode()

    def unlisted(self, path: str, body: bytes, part: str) -> bytes:
        if "prefix=" not in path:
            return body
        page = json.loads(body)
        page["items"] = [item for item in page.get("items", ()) if part not in item["name"]]
        return json.dumps(page).encode()


@dataclass(frozen=True)
class GcsBucket:
    """A bucket of Google's."""

    name: str
    url: str

    @property
    def uri(self) -> str:
        return f"gs://{self.name}"

    dialect = GcsDialect()
    signs = Signs(
        stage=("POST", "/upload/", "part-", ".0&"),
        second=("POST", "/upload/", "part-", ".1&"),
        publish=("POST", "/compose"),
        create=("POST", "/upload/"),
        listing="prefix=",
        reading=("GET", "/download/"),
        small_file=["POST", "POST", "DELETE"],
    )

    def options(self, url: str) -> dict[str, Any]:
        return {"endpoint": url, "anonymous": True}

    def storage(self, url: str) -> StorageOptions:
        return StorageOptions(**self.options(url))

    def store(self, url: str) -> BucketStore:
        return GcsStore(f"{self.uri}/out", UID, self.storage(url), HASTY, PART_BYTES)

    def listed(self, url: str, prefix: str, page_keys: int) -> list[Found]:
        files = HttpFiles(GcsUrls(self.storage(url), page_keys), HASTY, RetryBudget())
        return list(list_gcs(files, f"{self.uri}/{prefix}"))

    def put(self, key: str, body: bytes) -> None:
        query = urlencode({"uploadType": "media", "name": key})
        self._ask("POST", f"/upload/storage/v1/b/{self.name}/o?{query}", body)

    def remove(self, key: str) -> None:
        self._ask("DELETE", f"/storage/v1/b/{self.name}/o/{quote(key, safe='')}")

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        keys = [key for key in self._keys(prefix) if "_headrace/staging-" not in key]
        return {
            key: self._ask("GET", f"/download/storage/v1/b/{self.name}/o/{quote(key, safe='')}?alt=media")
            for key in keys
        }

    def staged(self) -> list[str]:
        return [key for key in self._keys("") if "_headrace/staging-" in key]

    def _keys(self, prefix: str) -> list[str]:
        found: dict[str, Any] = json.loads(
            self._ask("GET", f"/storage/v1/b/{self.name}/o?{urlencode({'prefix': prefix})}")
        )
        return [item["name"] for item in found.get("items", ())]

    def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=20)
        headers = {"Content-Type": "application/json"} if path == "/storage/v1/b" else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        assert answer.status < 300, (method, path, answer.status, data)
        return data


def new_gcs_bucket(url: str, *, versioned: bool = False) -> GcsBucket:
    """A bucket that no other test has; `versioned`: it keeps what is deleted."""
    made = GcsBucket(f"bucket-{next(_numbers)}", url)
    made._ask("POST", "/storage/v1/b", json.dumps({"name": made.name, "versioning": {"enabled": versioned}}).encode())
    return made


# ---------------------------------------------------------------------- Azure

AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEYS = {
    "AZURE_STORAGE_ACCOUNT": AZURE_ACCOUNT,
    "AZURE_STORAGE_KEY": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
}
"""Of every emulator, as its documentation says."""


@contextlib.contextmanager
def azure_server(folder: Path) -> Iterator[str]:
    """A server's URL; `folder` is its own."""
    script, node = shutil.which("azurite-blob"), shutil.which("node")
    if not script or not node:
        pytest.skip("needs node, and azurite-blob on the PATH: npm install -g azurite@3.35.0")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"--silent --disableTelemetry --inMemoryPersistence --blobHost 127.0.0.1 --blobPort {port}"
    # It ends with its standard input, that is with this process, however that ends.
    ending = ["sh", "-c", '"$@" </dev/null & cat >/dev/null; kill $!; wait', "sh"]
    command = [*ending, node, str(Path(script).resolve()), *options.split()]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as server:
        assert server.stdin is not None
        try:
            end = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert time.monotonic() < end, "azurite doesn't answer"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stdin.close()


class AzureDialect:
    """XML."""

    def refusal(self, status: int, code: str) -> tuple[str, bytes]:
        return "application/xml", f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()

    def unlisted(self, path: str, body: bytes, part: str) -> bytes:
        if "comp=list" not in path:
            return body
        return re.sub(
            rb"<Blob>.*?</Blob>", lambda item: b"" if part.encode() in item[0] else item[0], body, flags=re.DOTALL
        )


@dataclass(frozen=True)
class AzureContainer:
    """A container of Azure's, with Microsoft's client."""

    name: str
    url: str

    dialect = AzureDialect()
    signs = Signs(
        stage=("PUT", "part-", "comp=block&"),
        second=("PUT", "part-", "comp=block&", "LjAwMDAx"),  # base64 of .00001
        publish=("PUT", "part-", "comp=blocklist"),
        create=("PUT",),
        listing="comp=list",
        reading=("GET", "part-"),
        small_file=["PUT", "PUT"],
    )

    @property
    def uri(self) -> str:
        return f"abfss://{self.name}@{AZURE_ACCOUNT}.dfs.core.windows.net"

    def options(self, url: str) -> dict[str, Any]:
        return {"endpoint": f"{url}/{AZURE_ACCOUNT}"}

    def storage(self, url: str) -> StorageOptions:
        return StorageOptions(**self.options(url))

    def store(self, url: str) -> BucketStore:
        return AzureStore(f"{self.uri}/out", UID, self.storage(url), HASTY, PART_BYTES)

    def listed(self, url: str, prefix: str, page_keys: int) -> list[Found]:
        files = HttpFiles(AzureUrls(self.storage(url), page_keys), HASTY, RetryBudget())
        return list(list_blobs(files, f"{self.uri}/{prefix}"))

    @property
    def client(self) -> Any:
        return _azure_client(self.url).get_container_client(self.name)

    def put(self, key: str, body: bytes) -> None:
        self.client.upload_blob(key, body, overwrite=True)

    def remove(self, key: str) -> None:
        self.client.delete_blob(key)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        names = self.client.list_blob_names(name_starts_with=prefix)
        return {name: self.client.download_blob(name).readall() for name in names}

    def staged(self) -> list[str]:
        found = [blob.name for blob in self.client.list_blobs(include=["uncommittedblobs"])]
        return sorted(set(found) - set(self.client.list_blob_names()))


@cache
def _azure_client(url: str) -> Any:
    from azure.storage.blob import BlobServiceClient

    key = {"account_name": AZURE_ACCOUNT, "account_key": AZURE_KEYS["AZURE_STORAGE_KEY"]}
    return BlobServiceClient(f"{url}/{AZURE_ACCOUNT}", credential=key, api_version="2023-11-03")


def new_azure_container(url: str) -> AzureContainer:
    """A container that no other test has."""
    made = AzureContainer(f"bucket-{next(_numbers)}", url)
    made.client.create_container()
    return made


@contextlib.contextmanager
def _ending_with_us(command: list[str]) -> Iterator[int]:
    """A server that prints its port and ends with its standard input."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.stdin.close()
