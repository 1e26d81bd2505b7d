"""Who asks Google's and Azure's stores: the machine's credentials, found where they are kept, told to nobody."""

import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from headrace.azure_auth import (
    IdentitySigner,
    KeySigner,
    Unsigned,
    azure_signer,
    container_of,
    object_url,
    split_path,
)
from headrace.azure_urls import AzureUrls
from headrace.errors import BadJob, SourceRefused
from headrace.httpfile import HttpFiles, Pacing, PlainUrls
from headrace.program import StorageOptions
from headrace.remote_files import RemoteFiles
from headrace.retries import RetryBudget
from headrace.stores import open_store
from headrace.stores.port import StoreUnavailable
from headrace.stores.rest import Rest
from tests.object_store.cloud_fixture import AZURE_ACCOUNT, AZURE_KEYS, HASTY, AzureContainer

TOKEN = "hush-hush-hush"
SIZE = """
import sys
from headrace.errors import HeadraceError
from headrace.program import StorageOptions
from headrace.stores import open_store
try:
    store = open_store(sys.argv[1], storage=StorageOptions(endpoint=sys.argv[2]))
    print([store.size("x"), store.size("y")])
except (OSError, HeadraceError) as error:
    print(type(error).__name__, error)
"""


@contextmanager
def store_and_issuer(tokens: list[int]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives tokens (`tokens`: its answers' statuses, the last for good) and has no object; who asked."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status = tokens.pop(0) if len(tokens) > 1 else tokens[0]
            given = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
            self._answer(status, given if status == 200 else {})

        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization", ""))
            self._answer(404, {"error": {"code": 404, "message": "No such object"}})

        def _answer(self, status: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="issuer")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def account_file(folder: Path, url: str) -> Path:
    """The key file of a service account that gets its tokens at `url`."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    document = {
        "type": "service_account",
        "project_id": "lake",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "reader@lake.example.org",
        "token_uri": f"{url}/token",
    }
    path = folder / "account.json"
    path.write_text(json.dumps(document))
    return path


def told(uri: str, endpoint: str, **environ: str) -> str:
    """What a process of its own is told of two objects."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE_", "GOOGLE_"))}
    ran = subprocess.run(
        [sys.executable, "-c", SIZE, uri, endpoint],
        env=inherited | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.returncode, ran.stderr
    return ran.stdout.strip()


def forget_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where nobody set any."""
    for name in (*AZURE_KEYS, "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)


def test_a_token_is_got_once_and_sent_with_every_request(tmp_path: Path) -> None:
    with store_and_issuer([200, 400]) as (url, asked):
        found = told("gs://lake/out", url, GOOGLE_APPLICATION_CREDENTIALS=str(account_file(tmp_path, url)))
    assert found == "[None, None]"
    assert asked == [f"Bearer {TOKEN}"] * 2


def test_an_issuer_that_is_overloaded_is_asked_again(tmp_path: Path) -> None:
    with store_and_issuer([503] * 9 + [200]) as (url, asked):
        found = told("gs://lake/out", url, GOOGLE_APPLICATION_CREDENTIALS=str(account_file(tmp_path, url)))
    assert (found, len(asked)) == ("[None, None]", 2)


def test_an_issuer_that_refuses_is_a_refusal(tmp_path: Path) -> None:
    with store_and_issuer([400]) as (url, asked):
        found = told("gs://lake/out", url, GOOGLE_APPLICATION_CREDENTIALS=str(account_file(tmp_path, url)))
    assert found.startswith("PermissionError no token: ")
    assert asked == []


def test_without_credentials_google_is_not_asked_and_it_is_said_how_to_give_them(tmp_path: Path) -> None:
    with store_and_issuer([200]) as (url, asked):
        found = told("gs://lake/out", url, HOME=str(tmp_path), CLOUDSDK_CONFIG=str(tmp_path), NO_GCE_CHECK="true")
    assert found.startswith("PermissionError no credentials: ")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in found
    assert "storage: {anonymous: true}" in found
    assert asked == []


def test_without_an_identity_azure_is_not_asked_and_it_is_said_how_to_give_one() -> None:
    with store_and_issuer([200]) as (url, asked):
        found = told("abfss://lake@acc.dfs.core.windows.net/out", url, AZURE_TOKEN_CREDENTIALS="EnvironmentCredential")
    assert found.startswith("PermissionError no credentials: ")
    assert "AZURE_STORAGE_KEY" in found
    assert asked == []


def test_an_account_that_nothing_names_is_a_fault_of_the_job() -> None:
    found = told("abfs://lake/out", "", AZURE_STORAGE_KEY=AZURE_KEYS["AZURE_STORAGE_KEY"])
    assert found.startswith("BadJob spec.sink.storage: abfs://lake names no account: abfss://CONTAINER@ACCOUNT.dfs")


def test_a_wrong_key_is_refused_and_told_to_nobody(
    azure_container: AzureContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure_container.put("x", b"abc")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "aHVzaC1odXNoLWh1c2g=")
    store = azure_container.store(azure_container.url)
    with pytest.raises(PermissionError, match="403") as caught:
        store.create("y", b"")
    assert "aHVzaC1odXNoLWh1c2g=" not in str(caught.value)
    with pytest.raises(SourceRefused, match="403 Auth"):
        RemoteFiles(azure_container.storage(azure_container.url), HASTY).stat(f"{azure_container.uri}/x")


@pytest.mark.parametrize("way", ["sas", "connection string", "connection string with a sas"])
def test_a_store_is_reached_by_a_token_or_a_connection_string(
    azure_container: AzureContainer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    key = AZURE_KEYS["AZURE_STORAGE_KEY"]
    may = ContainerSasPermissions(read=True, list=True)
    end = datetime.now(UTC) + timedelta(hours=1)
    sas = generate_container_sas(
        AZURE_ACCOUNT, azure_container.name, account_key=key, permission=may, expiry=end, protocol="https,http"
    )
    place = f"BlobEndpoint={azure_container.url}/{AZURE_ACCOUNT};AccountName={AZURE_ACCOUNT}"
    for name in AZURE_KEYS:
        monkeypatch.delenv(name)
    storage = StorageOptions()
    match way:
        case "sas":
            monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", sas)
            storage = azure_container.storage(azure_container.url)
        case "connection string":
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{place};AccountKey={key}")
        case _:
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{place};SharedAccessSignature={sas}")
    azure_container.put("in/x", b"abc")
    (found,) = RemoteFiles(storage, HASTY).list(f"{azure_container.uri}/in/")
    assert RemoteFiles(storage, HASTY).range(found.path, 1, 3, size=3, version=found.version) == b"bc"
    store = open_store(f"{azure_container.uri}/in", storage=storage)
    assert store.open("x").read() == b"abc"
    if "sas" in way:
        with pytest.raises(PermissionError) as caught:
            store.create("y", b"")
        assert "sig=" not in str(caught.value)


@pytest.mark.parametrize("around", ["{} ", "?{}\n", " {}\r\n"])
def test_a_token_is_read_without_what_a_file_ends_with(monkeypatch: pytest.MonkeyPatch, around: str) -> None:
    forget_keys(monkeypatch)
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", around.format(f"sv=1&sig={TOKEN}"))
    signer = azure_signer("acc", anonymous=False)
    assert signer.url("http://host/c/k") == f"http://host/c/k?sv=1&sig={TOKEN}"
    monkeypatch.setenv("AZURE_STORAGE_KEY", " a2V5\n")
    assert isinstance(azure_signer("acc", anonymous=False), KeySigner)


@pytest.mark.parametrize("token", [f"sv=1 &sig={TOKEN}", f"sig={TOKEN}\x7f&sv=1", f"sig=ä{TOKEN}", f"sig={TOKEN}#x"])
def test_a_token_that_is_none_is_a_fault_of_the_job_and_told_to_nobody(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    forget_keys(monkeypatch)
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)
    uri, storage = "abfss://c@acc.dfs.core.windows.net/out", StorageOptions("http://127.0.0.1:1")
    with pytest.raises(BadJob, match="SAS token") as bad:
        open_store(uri, storage=storage)
    with pytest.raises(SourceRefused, match="SAS token") as refused:
        RemoteFiles(storage, HASTY).stat(f"{uri}/x")
    assert TOKEN not in f"{bad.value}{refused.value}"


class Careless(Unsigned):
    """Asks with a token that can't stand in a request."""

    def __init__(self, *, in_url: bool) -> None:
        self._in_url = in_url

    def url(self, url: str) -> str:
        return f"{url}?sig={TOKEN} " if self._in_url else url

    def headers(self, method: str, url: str, headers: Mapping[str, str], nbytes: int) -> Mapping[str, str]:
        return {} if self._in_url else {"Authorization": f"Bearer {TOKEN}\n"}


class CarelessUrls(PlainUrls):
    """As `Careless`."""

    def __init__(self, *, in_url: bool) -> None:
        self._signer = Careless(in_url=in_url)

    def url(self, path: str, page: str | None) -> str:
        return self._signer.url(path)

    def headers(self, path: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        return self._signer.headers("GET", url, headers, 0)


@pytest.mark.parametrize("in_url", [True, False])
def test_a_request_that_http_cannot_carry_is_no_outage_and_its_token_is_told_to_nobody(in_url: bool) -> None:
    slept: list[float] = []
    pacing = Pacing(HASTY.patience, sleep=slept.append)
    with pytest.raises(OSError, match="abfss://c/x: GET '/c/x' can't be asked for") as failed:
        Rest(Careless(in_url=in_url), pacing, RetryBudget()).send("abfss://c/x", "GET", "http://127.0.0.1:1/c/x")
    assert not isinstance(failed.value, StoreUnavailable)
    files = HttpFiles(CarelessUrls(in_url=in_url), pacing, RetryBudget())
    with pytest.raises(SourceRefused, match="GET '/c/x' can't be asked for") as refused:
        files.stat("http://127.0.0.1:1/c/x")
    for error in (failed.value, refused.value):
        assert TOKEN not in "".join(traceback.format_exception(error))
    assert slept == []


class Issuer:
    """Stands for the machine's identity; gives `answers` one after the other."""

    def __init__(self, *answers: str | Exception) -> None:
        self._answers = list(answers)

    def get_token(self, scope: str) -> object:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(token=answer)


def test_an_identity_that_gave_a_token_and_gives_none_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    import azure.identity
    from azure.core.exceptions import ClientAuthenticationError

    def signer(*answers: str | Exception) -> IdentitySigner:
        monkeypatch.setattr(azure.identity, "DefaultAzureCredential", lambda: Issuer(*answers))
        return IdentitySigner()

    away = ClientAuthenticationError("ManagedIdentityCredential: no response from the IMDS endpoint")
    with pytest.raises(PermissionError, match="no credentials: ManagedIdentity"):
        signer(away).headers("GET", "", {}, 0)
    given = signer(TOKEN, away, TOKEN)
    assert given.headers("GET", "", {}, 0)["Authorization"] == f"Bearer {TOKEN}"
    with pytest.raises(OSError, match="no token any more: ManagedIdentity") as failed:
        given.headers("GET", "", {}, 0)
    assert not isinstance(failed.value, PermissionError)
    assert given.headers("GET", "", {}, 0)["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:1"])
def test_every_account_of_a_source_is_asked_in_its_own_name(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    forget_keys(monkeypatch)
    monkeypatch.setenv("AZURE_STORAGE_KEY", "a2V5")
    urls = AzureUrls(StorageOptions(endpoint))
    paths = {account: f"abfss://c@{account}.dfs.core.windows.net/k" for account in ("one", "two")}
    asked = {account: urls.url(path, None) for account, path in paths.items()}
    for account, path in paths.items():
        sent = urls.headers(path, asked[account], {})
        assert sent["Authorization"].startswith(f"SharedKey {account}:")


def test_a_key_is_used_for_its_own_account_only(azure_container: AzureContainer) -> None:
    other = azure_container.uri.replace(AZURE_ACCOUNT, "other")
    found = told(f"{other}/out", azure_container.url, AZURE_TOKEN_CREDENTIALS="EnvironmentCredential", **AZURE_KEYS)
    assert found.startswith("PermissionError no credentials: ")


def test_without_azure_identity_it_is_said_what_to_install() -> None:
    code = "import sys; sys.modules['azure.identity'] = None\n" + SIZE
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AZURE_")}
    command = [sys.executable, "-c", code, "abfss://lake@acc.dfs.core.windows.net/out", ""]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert "needs a package that isn't installed" in ran.stdout
    assert "pip install 'headrace[azure]'" in ran.stdout


@pytest.mark.parametrize(
    ("path", "endpoint", "environ", "account", "url"),
    [
        ("abfss://c@acc.dfs.core.windows.net/a/b", "", {}, "acc", "https://acc.blob.core.windows.net/c/a/b"),
        ("abfs://c@acc.dfs.core.windows.net/a", "", {}, "acc", "https://acc.blob.core.windows.net/c/a"),
        ("abfss://c@acc.dfs.core.chinacloudapi.cn/a", "", {}, "acc", "https://acc.blob.core.chinacloudapi.cn/c/a"),
        ("abfss://c@acc/ä b?", "", {}, "acc", "https://acc.blob.core.windows.net/c/%C3%A4%20b%3F"),
        ("abfss://c/a", "", {"AZURE_STORAGE_ACCOUNT": "acc"}, "acc", "https://acc.blob.core.windows.net/c/a"),
        ("abfss://c/a", "http://127.0.0.1:1/acc/", {}, "acc", "http://127.0.0.1:1/acc/c/a"),
        ("abfss://c@acc.dfs.core.windows.net/a", "http://127.0.0.1:1/x", {}, "acc", "http://127.0.0.1:1/x/c/a"),
        (
            "abfss://c/a",
            "",
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acc;AccountKey=a2V5;EndpointSuffix=core.example.org"},
            "acc",
            "https://acc.blob.core.example.org/c/a",
        ),
        (
            "abfss://c@other.dfs.core.windows.net/a",
            "",
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acc;BlobEndpoint=http://127.0.0.1:1/acc"},
            "other",
            "https://other.blob.core.windows.net/c/a",
        ),
    ],
)
def test_a_uri_says_which_account_is_asked_and_where(
    monkeypatch: pytest.MonkeyPatch, path: str, endpoint: str, environ: dict[str, str], account: str, url: str
) -> None:
    forget_keys(monkeypatch)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    container = container_of(path, StorageOptions(endpoint=endpoint))
    assert (container.account, object_url(container, split_path(path)[1])) == (account, url)
