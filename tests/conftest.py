"""Settings of all tests."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.hdfs.cluster_fixture import Cluster, Folder, HdfsProxy
    from tests.object_store.bucket_fixture import Proxy, TestBucket
    from tests.object_store.cloud_fixture import Cloud, CloudBucket

# Machines are shared: a slow moment is no failure. CI draws the same examples each time, people new ones.
settings.register_profile(
    "headrace",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("headrace")


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """An S3 server, and the environment's keys to it."""
    from tests.object_store.bucket_fixture import KEYS, s3_server

    with s3_server() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield url


@pytest.fixture
def bucket(s3_url: str) -> "TestBucket":
    """A new bucket there."""
    from tests.object_store.bucket_fixture import new_bucket

    return new_bucket(s3_url)


@pytest.fixture
def proxy(s3_url: str) -> "Iterator[Proxy]":
    """What loses and refuses requests on their way there."""
    from tests.object_store.bucket_fixture import proxied

    with proxied(s3_url) as made:
        yield made


@pytest.fixture(scope="session")
def gcs_url() -> Iterator[str]:
    """A server of Google Cloud Storage's API."""
    from tests.object_store.cloud_fixture import gcs_server

    with gcs_server() as url:
        yield url


@pytest.fixture
def gcs_bucket(gcs_url: str) -> "CloudBucket":
    """A new bucket there."""
    from tests.object_store.cloud_fixture import new_gcs_bucket

    return new_gcs_bucket(gcs_url)


@pytest.fixture(scope="session")
def azure_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of Azure's API, and the environment's keys to it."""
    from tests.object_store.cloud_fixture import AZURE_KEYS, azure_server

    with azure_server(tmp_path_factory.mktemp("azurite")) as url, pytest.MonkeyPatch.context() as patch:
        for name, value in AZURE_KEYS.items():
            patch.setenv(name, value)
        yield url


@pytest.fixture
def azure_container(azure_url: str) -> "CloudBucket":
    """A new container there."""
    from tests.object_store.cloud_fixture import new_azure_container

    return new_azure_container(azure_url)


@pytest.fixture(params=["gs", "abfss"])
def cloud(request: pytest.FixtureRequest) -> "Iterator[Cloud]":
    """A bucket of another store than S3, and a proxy before it."""
    from tests.object_store.bucket_fixture import proxied
    from tests.object_store.cloud_fixture import Cloud

    bucket: CloudBucket = request.getfixturevalue({"gs": "gcs_bucket", "abfss": "azure_container"}[request.param])
    with proxied(bucket.url, bucket.dialect) as proxy:
        yield Cloud(bucket, proxy)


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Cluster]":
    """A real HDFS; skips where Java or Hadoop isn't there."""
    from tests.hdfs.cluster_fixture import cluster

    with cluster(tmp_path_factory.mktemp("hdfs")) as made:
        yield made


@pytest.fixture
def hdfs_folder(hdfs: "Cluster") -> "Folder":
    """A new folder there."""
    from tests.hdfs.cluster_fixture import new_folder

    return new_folder(hdfs)


@pytest.fixture
def hdfs_proxy(hdfs: "Cluster") -> "Iterator[HdfsProxy]":
    """What loses and refuses requests on their way there."""
    from tests.hdfs.cluster_fixture import proxied

    with proxied(hdfs) as made:
        yield made
