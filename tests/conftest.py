"""Settings of all tests."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.hdfs.cluster_fixture import Cluster, Folder, HdfsProxy
    from tests.object_store.bucket_fixture import Proxy, TestBucket

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
