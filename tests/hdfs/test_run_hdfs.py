"""`headrace run` from HDFS into HDFS, a real one: complete once, whatever is away, lost or killed on the way."""

import contextlib
import io
import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.hdfs.cluster_fixture import Folder, HdfsProxy, cluster, new_folder, proxied
from tests.integration.run_fixture import Site
from tests.object_store.bucket_fixture import Fault

FILES, ROWS = 4, 5_000
OUT = "some/out"


@dataclass
class HdfsSite:
    """A job from a folder of HDFS into another one, all of it through the proxy."""

    site: Site
    folder: Folder
    proxy: HdfsProxy

    def job(self, mode: str = "fail", **spec: Any) -> Path:
        storage = {"endpoint": self.proxy.url}
        source = {"format": "parquet", "uri": f"{self.folder.uri}/in/*/*.parquet", "storage": storage}
        sink = {"format": "parquet", "uri": f"{self.folder.uri}/{OUT}", "storage": storage, "mode": mode}
        return self.site.job(source=source, sink=sink, name=f"job-{mode}", **spec)

    def wait_stalled(self, job: str, running: "subprocess.Popen[str]") -> dict[str, Any]:
        """Waits until the job says why it waits."""
        end = time.monotonic() + 40
        while time.monotonic() < end and running.poll() is None:
            told = self.site.headrace("status", job, "-o", "json", "--state", str(self.site.state))
            found = json.loads(told.stdout)["conditions"] if told.code == 0 else []
            stalled: dict[str, Any] = next((each for each in found if each["type"] == "Stalled"), {})
            if stalled.get("status"):
                return stalled
        raise AssertionError("the job doesn't wait" + self.site.logs())

    def check(self, times: int = 1) -> list[str]:
        """Every row is there so often, for `verify` and for Hadoop's own client with plain pyarrow."""
        copy = self.site.folder / f"copy-{next(_numbers)}"
        self.folder.cluster.shell("-copyToLocal", f"{self.folder.uri}/{OUT}", str(copy))
        parts = sorted(copy.glob("part-*"))
        table = pa.concat_tables([pq.read_table(path) for path in parts])
        assert sorted(table["x"].to_pylist()) == sorted(list(range(FILES * ROWS)) * times)
        assert table["y"].to_pylist() == [2 * x for x in table["x"].to_pylist()]
        ran = self.site.headrace(
            "verify", f"{self.folder.uri}/{OUT}", "--endpoint", self.folder.cluster.url, "-o", "json"
        )
        assert ran.code == 0, ran.text
        assert ran.document["proven"]
        assert ran.document["rows_out"] == times * FILES * ROWS
        names = [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()]
        beside = sorted(name for name in names if not name.startswith(("part-", "_headrace/manifest-")))
        assert beside == ["_SUCCESS"]
        return [path.name for path in parts]


_numbers = itertools.count(1)


def made_site(site: Site, folder: Folder, proxy: HdfsProxy) -> HdfsSite:
    for i in range(FILES):
        sink = io.BytesIO()
        pq.write_table(pa.table({"x": range(i * ROWS, (i + 1) * ROWS)}), sink, row_group_size=ROWS // 4)
        folder.put(f"in/day={i}/part.parquet", sink.getvalue())
    return HdfsSite(site, folder, proxy)


@pytest.fixture
def site(tmp_path: Path, hdfs_folder: Folder, hdfs_proxy: HdfsProxy) -> HdfsSite:
    return made_site(Site(tmp_path), hdfs_folder, hdfs_proxy)


def test_a_folder_is_filled_added_to_and_replaced(site: HdfsSite) -> None:
    document = site.site.run_complete(site.job())
    assert document["output"] == f"{site.folder.uri}/{OUT}"
    first = set(site.check())
    site.site.run_complete(site.job("append"))
    assert first < set(site.check(times=2))
    site.site.run_complete(site.job("replace"))
    assert not first & set(site.check())


def test_a_job_lists_each_folder_once_and_asks_for_each_file_twice(site: HdfsSite) -> None:
    site.site.run_complete(site.job(), "--workers", "1")
    asked = Counter(
        line.partition("op=")[2].partition("&")[0]
        for line in site.proxy.seen
        if f"{site.folder.path}/in" in line and "namenoderpcaddress" not in line
    )
    # Footer and rows; each with a status after it, and one before the footer's.
    assert asked == {"LISTSTATUS": 1 + FILES, "GETFILESTATUS": 3 * FILES, "OPEN": 2 * FILES}


def test_a_folder_that_is_not_empty_is_a_bad_job_and_so_is_one_that_reads_itself(site: HdfsSite) -> None:
    site.site.run_complete(site.job())
    other = site.site.job(
        source={"format": "parquet", "uri": f"{site.folder.uri}/in", "storage": {"endpoint": site.proxy.url}},
        sink={"uri": f"{site.folder.uri}/{OUT}", "storage": {"endpoint": site.proxy.url}},
        name="other",
    )
    ran = site.site.run(other)
    assert (ran.code, "isn't empty" in ran.text) == (42, True), ran.text
    other.write_text(other.read_text().replace(f"{site.folder.uri}/{OUT}", f"{site.folder.uri}/in/out"))
    ran = site.site.run(other)
    assert (ran.code, "would read its own output" in ran.text) == (42, True), ran.text
    other.write_text(other.read_text().replace(f"{site.folder.uri}/in/out", "hdfs://somewhere/"))
    ran = site.site.run(other)
    assert (ran.code, "hdfs://somewhere/ names no folder" in ran.text) == (42, True), ran.text


def test_a_token_is_nowhere_but_in_the_environment(site: HdfsSite) -> None:
    secret = "hush-hush-hush"
    count = itertools.count()
    site.proxy.fault = lambda method, path: Fault.LOSE if next(count) % 4 == 1 else Fault.PASS
    ran = site.site.run(site.job(), HEADRACE_HDFS_TOKEN=secret)  # a cluster without Kerberos takes it for nobody's
    assert (ran.code, "can't be made" in ran.text, "Permission denied: user=dr.who" in ran.text) == (42, True, True)
    site.folder.allow("", "777")
    again = site.site.run(site.job(), HEADRACE_HDFS_TOKEN=secret)
    assert again.code == 0, again.text
    asked = [line for line in site.proxy.seen if "namenoderpcaddress" not in line]
    assert all(line.endswith(f"delegation={secret}") for line in asked)
    assert secret not in ran.text + again.text
    files = [path for path in site.site.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert not [name for name in site.folder.names() if secret.encode() in site.folder.get(name)]


def test_requests_that_fail_now_and_then_are_made_again(site: HdfsSite) -> None:
    dice = random.Random(20261122)
    faults = (Fault.REFUSE, Fault.LOSE, Fault.FAIL, Fault.CUT)
    site.proxy.fault = lambda method, path: dice.choice(faults) if dice.random() < 0.2 else Fault.PASS
    site.site.run_complete(site.job(retries={"attempts": 1}), "--workers", "2")
    site.check()


STAGE = ("op=CREATE", "/part-", "namenoderpcaddress")
PUBLISH = ("op=RENAME", f"{OUT}/_headrace/staging-", "part-")
FINISH = ("op=RENAME", "/.manifest-")
SUCCESS = ("op=RENAME", "/._SUCCESS")
TAKE = ("op=RENAME", "staging-", "taken-")
READ = ("op=OPEN", "/in/")


@pytest.mark.slow
@pytest.mark.parametrize("signs", [PUBLISH, FINISH, SUCCESS, TAKE], ids=["publish", "finish", "success", "take"])
def test_a_rename_whose_answer_is_lost_was_made_once(site: HdfsSite, signs: tuple[str, ...]) -> None:
    site.proxy.times(3, Fault.LOSE, *signs)
    site.site.run_complete(site.job(retries={"attempts": 1}))
    assert [line for line in site.proxy.seen if all(sign in line for sign in signs)]
    site.check()


@pytest.mark.slow
@pytest.mark.parametrize("signs", [STAGE, PUBLISH, FINISH], ids=["stage", "publish", "finish"])
def test_an_outage_longer_than_all_tries_costs_no_attempt(site: HdfsSite, signs: tuple[str, ...]) -> None:
    site.proxy.times(12, Fault.REFUSE, *signs)
    document = site.site.run_complete(site.job(retries={"attempts": 1}))
    assert document["shards_quarantined"] == 0
    refused = [line for line in site.proxy.seen if all(sign in line for sign in signs)]
    assert len(refused) > 12
    site.check()


@pytest.mark.slow
def test_a_job_waits_out_a_cluster_that_is_away_and_spends_no_attempt(site: HdfsSite) -> None:
    planned = 2 * FILES  # footers, at the NameNode and at the DataNode
    is_away = True

    def decide(method: str, path: str) -> Fault:
        nonlocal planned
        planned -= all(sign in path for sign in READ)
        return Fault.REFUSE if planned < 0 and is_away else Fault.PASS

    site.proxy.fault = decide
    with site.site.start(site.job(retries={"attempts": 1}), "--workers", "2") as running:
        stalled = site.wait_stalled("job-fail", running)
        assert stalled["reason"] == "SourceUnavailable", site.site.logs()
        assert f"hdfs://{site.folder.cluster.authority} can't be read: " in stalled["message"]
        is_away = False
        stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 0, stdout + stderr + site.site.logs()
    assert json.loads(stdout)["shards_quarantined"] == 0
    site.check()


@pytest.mark.slow
def test_a_cluster_that_is_killed_and_started_again_costs_no_attempt(tmp_path: Path) -> None:
    there = tmp_path / "hdfs"
    there.mkdir()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(cluster(there))
        site = made_site(Site(tmp_path / "site"), new_folder(first), stack.enter_context(proxied(first)))
        published = threading.Event()

        def decide(method: str, path: str) -> Fault:
            if all(sign in path for sign in PUBLISH):
                published.set()
            return Fault.PASS

        site.proxy.fault = decide
        with site.site.start(site.job(retries={"attempts": 1}), "--workers", "2") as running:
            assert published.wait(40), site.site.logs()
            os.kill(first.pid, signal.SIGKILL)
            site.wait_stalled("job-fail", running)
            stack.enter_context(cluster(there, first))
            stdout, stderr = running.communicate(timeout=90)
        assert running.returncode == 0, stdout + stderr + site.site.logs()
        assert json.loads(stdout)["shards_quarantined"] == 0
        site.check()


def killing(run: "psutil.Process", module: str) -> None:
    """Kills the run's coordinator or sidecar."""
    for child in run.children(recursive=True):
        if module in child.cmdline():
            os.kill(child.pid, signal.SIGKILL)
            return
    raise AssertionError(f"no {module} runs")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.LOSE], ids=["before", "after"])
@pytest.mark.parametrize(
    ("module", "signs", "mode"),
    [
        ("sidecar", STAGE, "fail"),
        ("sidecar", PUBLISH, "fail"),
        ("coordinator", TAKE, "fail"),
        ("coordinator", FINISH, "replace"),
        ("coordinator", SUCCESS, "append"),
        ("coordinator", ("DELETE", f"{OUT}/part-"), "replace"),
    ],
)
def test_whoever_is_killed_at_a_request_leaves_one_complete_output(
    site: HdfsSite, module: str, signs: tuple[str, ...], mode: str, fault: Fault
) -> None:
    if mode != "fail":
        site.site.run_complete(site.job())
    run: list[psutil.Process] = []
    kill: Callable[[], None] | None = lambda: killing(run[0], module)  # noqa: E731

    def decide(method: str, path: str) -> Fault:
        nonlocal kill
        if kill is None or not all(sign in f"{method} {path}" for sign in signs):
            return Fault.PASS
        now, kill = kill, None
        now()
        return fault

    site.proxy.fault = decide
    with site.site.start(site.job(mode)) as started:
        run.append(psutil.Process(started.pid))
        stdout, stderr = started.communicate(timeout=60)
        code = started.returncode
    if code == 75:  # a worker's budget of restarts may be spent; then the same command goes on
        code = site.site.run(site.job(mode)).code
    assert code == 0, stdout + stderr + site.site.logs()
    assert kill is None
    site.check(times=2 if mode == "append" else 1)
