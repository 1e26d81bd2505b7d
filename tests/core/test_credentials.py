"""A URL with a user or a password in it is refused where it is read, and nothing that is said holds the secret."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli.control import Where
from coordinator.cli.rejects import find
from coordinator.spec import InferenceJob
from coordinator.spec.load import examine_job
from coordinator.verify import verify
from headrace.channel import parse_address
from headrace.errors import BadJob, ConfigError, SourceRefused
from headrace.httpfile import HttpFiles, Pacing, PlainUrls
from headrace.program import StorageOptions
from headrace.retries import RetryBudget
from headrace.stores import open_store
from headrace.uris import has_credentials, without_credentials

SECRET = "hunter2"
URL = f"http://ada:{SECRET}@files.example.org/x"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "http://***@files.example.org/x"),
        ("s3://key:sec@bucket/a", "s3://***@bucket/a"),
        ("http://ada:p@ss@host/x", "http://***@host/x"),
        ("https://token@host/", "https://***@host/"),
        ("http://ada:a/b?c@host/x", "http://***@host/x"),
        ("http://:p@host/x", "http://***@host/x"),
        ("abfss://container:p@account.dfs.core.windows.net/x", "abfss://***@account.dfs.core.windows.net/x"),
        ("s3://key:s/c@bucket/a", "s3://***@bucket/a"),
        ("hdfs://ada@host/x", "hdfs://***@host/x"),
        ("http://a:1, http://ada:p@b:2", "http://a:1, http://***@b:2"),
    ],
)
def test_a_user_in_a_url_is_seen_and_hidden(url: str, shown: str) -> None:
    assert has_credentials(url)
    assert without_credentials(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://host:8080/path@v1?mail=a@b",
        "http://[::1]:9000/a:b@c",
        "s3://bucket/ada@example.org/*.parquet",
        "/data/http:/a@b",
        "https://host?a:b@c",
        "in/*.csv",
        "abfss://container-1@account.dfs.core.windows.net/in/*.parquet",
        "abfss://Cont@account.dfs.core.windows.net/x",
        "ABFSS://c@account.dfs.core.windows.net/x",
        "wasbs://c@account.blob.core.windows.net/x",
        "s3://arn:aws:s3:eu-west-1:123:accesspoint/ap/a@b.parquet",
    ],
)
def test_other_paths_name_no_user(url: str) -> None:
    assert not has_credentials(url)
    assert without_credentials(url) == url


def test_a_user_in_a_url_within_a_text_is_hidden() -> None:
    text = "Could not connect to 'http://{}@h:9000/k', see http://h/"
    assert without_credentials(text.format("a:b")) == text.format("***")


def test_a_local_path_names_no_user() -> None:
    for path in ("/data/a://b@c", "data/a://b:d@c", "./a://b@c"):
        assert not has_credentials(path)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        (f"s3://ada:{SECRET}@bucket/x", "keys belong in the environment, a profile or a role"),
        ("hdfs://ada@host/x", "HADOOP_USER_NAME in the environment names the user"),
        (URL, "web servers are read without; a store's keys belong in the environment, a profile or a role"),
    ],
)
def test_a_job_and_a_command_are_told_alike_where_users_belong(url: str, where: str) -> None:
    job = manifest()
    job["spec"]["source"]["uri"] = url
    for refuse in (lambda: InferenceJob.from_manifest(json.dumps(job)), lambda: open_store(url)):
        with pytest.raises(BadJob) as refused:
            refuse()
        assert [fault.expected for fault in refused.value.faults] == [f"the URL without them: {where}"]


def manifest() -> dict[str, Any]:
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "job"},
        "spec": {
            "source": {"format": "parquet", "uri": "in"},
            "pipeline": [{"name": "m", "python": "m:M", "inputs": {"x": "source.x"}}],
            "sink": {"format": "parquet", "uri": "/out", "columns": {"x": "source.x"}},
        },
    }


@pytest.mark.parametrize(
    ("section", "key", "value", "field"),
    [
        ("source", "uri", URL, "spec.source.uri"),
        ("source", "uri", ["in", URL], "spec.source.uri"),
        ("source", "exclude", [URL], "spec.source.exclude"),
        ("source", "storage", {"endpoint": URL}, "spec.source.storage.endpoint"),
        ("sink", "uri", f"s3://ada:{SECRET}@bucket/out", "spec.sink.uri"),
        ("sink", "storage", {"endpoint": URL}, "spec.sink.storage.endpoint"),
    ],
)
def test_a_job_that_names_a_user_in_a_url_is_refused_without_its_secret(
    tmp_path: Path, section: str, key: str, value: Any, field: str
) -> None:
    job = manifest()
    job["spec"][section][key] = value
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(job))
    with pytest.raises(BadJob) as refused:
        InferenceJob.from_manifest(json.dumps(job))
    examined = examine_job(path, {}, {})
    for faults in (refused.value.faults, examined.faults):
        (fault,) = faults
        assert fault.field == field
        assert fault.found == "a URL with a user name or password in it"
        assert "environment" in fault.expected
    assert SECRET not in f"{refused.value}{examined.faults}{examined.job.to_manifest(tmp_path)}"


def test_a_wrong_value_of_another_field_is_shown_without_its_secret() -> None:
    job = manifest()
    job["spec"]["source"]["onCorrupt"] = URL
    with pytest.raises(BadJob) as refused:
        InferenceJob.from_manifest(json.dumps(job))
    assert "onCorrupt: found 'http://***@files" in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(("uri", "endpoint"), [(URL, ""), (f"s3://a:{SECRET}@b/out", ""), ("s3://bucket/out", URL)])
def test_no_store_is_opened_by_a_url_that_names_a_user(uri: str, endpoint: str) -> None:
    with pytest.raises(BadJob) as refused:
        open_store(uri, storage=StorageOptions(endpoint))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("more", [f"/?sv=1&sig={SECRET}", f"?{SECRET}", f"#{SECRET}", f"/x, https://b/?sig={SECRET}"])
def test_an_endpoint_with_a_query_is_refused_without_it(more: str) -> None:
    endpoint = f"https://acc.blob.core.windows.net{more}"
    for section in ("source", "sink"):
        job = manifest()
        job["spec"][section]["storage"] = {"endpoint": endpoint}
        with pytest.raises(BadJob) as refused:
            InferenceJob.from_manifest(json.dumps(job))
        (fault,) = refused.value.faults
        assert fault.field == f"spec.{section}.storage.endpoint"
        assert fault.found == "a URL with a query or fragment in it"
        assert SECRET not in str(refused.value)
    with pytest.raises(BadJob, match="query or fragment") as refused:
        open_store("abfss://c@acc/out", storage=StorageOptions(endpoint))
    assert SECRET not in str(refused.value)


def test_commands_that_name_a_user_in_a_url_say_nothing_of_its_secret(tmp_path: Path) -> None:
    for command in (verify, lambda url: find(url, Where(None, None, tmp_path), StorageOptions()), parse_address):
        with pytest.raises((BadJob, ConfigError)) as refused:
            command(URL)
        assert SECRET not in str(refused.value)


class _Redirecting(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", URL)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def test_a_redirect_to_a_url_that_names_a_user_is_refused_without_its_secret() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Redirecting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(SourceRefused, match="redirected to a URL with credentials") as refused:
            HttpFiles(PlainUrls(), Pacing(), RetryBudget()).stat(f"http://127.0.0.1:{server.server_port}/x")
        assert SECRET not in str(refused.value)
    finally:
        server.shutdown()
        server.server_close()
