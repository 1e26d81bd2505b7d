"""The job service over real gRPC on a Unix socket: what users and strangers may rely on."""

import asyncio
import contextlib
import json
import struct
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived, TrailersReceived

from coordinator.cli.summary import summary_text
from coordinator.rpc import serve_loopback
from coordinator.verify import verify
from coordinator.worker_desk import WorkerDesk
from headrace import v1
from headrace.channel import connect_unix, open_channel
from headrace.limits import MESSAGE_BYTES_MAX
from headrace.refusals import faults_from_text
from tests.contract.coordinator_fixture import FakeWorker, condition, coordinator, holding, one_lease, run, submit

# ---------------------------------------------------------------------- a job's life


def test_a_job_goes_from_submission_to_a_proven_output(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            submitted = await submit(c, tmp_path)
            assert (submitted.phase, submitted.unit) == ("Running", "byte")
            worker = FakeWorker(c.workers)
            await worker.register()
            last = await worker.work(lambda answer: answer.directive == "stop")
            job = await c.jobs.get(v1.JobRequest("numbers"))
            assert (job.phase, job.rows_out, job.shards_committed) == ("Succeeded", job.units_total, last.ledger and 1)
            assert condition(job, "Complete").status
            assert condition(job, "OutputCommitted").status
            report = verify(tmp_path / "out")
            assert report.findings == []
            assert report.rows_out == job.rows_out

    run(test)


def test_watch_ends_with_the_terminal_state(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)

            async def phases() -> list[str]:
                return [job.phase async for job in c.jobs.watch(v1.JobRequest("numbers"))]

            watching = asyncio.create_task(phases())
            worker = FakeWorker(c.workers)
            await worker.register()
            await worker.work(lambda answer: answer.directive == "stop")
            seen = await watching
            assert seen[0] == "Running"
            assert seen.count("Succeeded") == 1
            assert seen[-1] == "Succeeded"

    run(test)


def test_the_same_submission_again_is_the_same_job(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            first = await submit(c, tmp_path)
            second = await submit(c, tmp_path)
            assert second.uid == first.uid
            assert [job.uid for job in (await c.jobs.list(v1.ListRequest())).jobs] == [first.uid]

    run(test)


def test_other_content_under_the_same_name_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            with pytest.raises(GRPCError) as refused:
                await submit(c, tmp_path, digest="d2")
            assert refused.value.status is Status.FAILED_PRECONDITION
            assert "--again" in (refused.value.message or "")

    run(test)


def test_again_starts_anew_and_leaves_nothing_of_the_unfinished_job(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            first = await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            await worker.split(grant, 100)
            await worker.deliver(grant)
            assert list((tmp_path / "out").glob("part-*"))
            second = await submit(c, tmp_path, digest="d2", again=True)
            assert second.uid != first.uid
            assert list((tmp_path / "out").glob("part-*")) == []
            assert (await worker.exchange(want=1)).directive == "stop"

    run(test)


def test_a_bad_job_comes_back_as_its_faults(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            with pytest.raises(GRPCError) as refused:
                await submit(c, tmp_path, sorce={"format": "csv"})
            assert refused.value.status is Status.INVALID_ARGUMENT
            bad = faults_from_text(refused.value.message)
            assert bad is not None
            assert "sorce" in str(bad)
            assert not (tmp_path / "out").exists()

    run(test)


def test_two_jobs_never_share_an_output(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            with pytest.raises(GRPCError) as refused:
                await submit(c, tmp_path, name="others")
            assert refused.value.status is Status.INVALID_ARGUMENT
            assert "numbers" in str(faults_from_text(refused.value.message))
            assert [job.name for job in (await c.jobs.list(v1.ListRequest())).jobs] == ["numbers"]

    run(test)


def test_a_cancelled_job_is_continued_by_its_submission(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            first = await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            await one_lease(c, worker)
            cancelled = await c.jobs.cancel(v1.JobRequest("numbers"))
            assert (cancelled.phase, condition(cancelled, "Failed").reason) == ("Failed", "Cancelled")
            assert (await worker.exchange()).directive == "stop"
            continued = await submit(c, tmp_path)
            assert (continued.phase, continued.uid) == ("Running", first.uid)
            again = FakeWorker(c.workers, "w2")
            await again.register()
            await again.work(lambda answer: answer.directive == "stop")
            assert verify(tmp_path / "out").is_proven

    run(test)


def test_a_suspended_job_drains_its_workers_and_goes_on_when_resumed(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            await one_lease(c, worker)
            assert (await c.jobs.suspend(v1.JobRequest("numbers"))).phase == "Pending"
            assert (await worker.exchange(want=1)).directive == "drain"
            assert (await FakeWorker(c.workers, "w2").register()).retry_after_s > 0
            assert (await c.jobs.resume(v1.JobRequest("numbers"))).phase == "Running"

    run(test)


def test_unknown_jobs_are_not_found(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            for call in (c.jobs.get, c.jobs.cancel, c.jobs.suspend, c.jobs.resume, c.jobs.list_workers):
                with pytest.raises(GRPCError) as refused:
                    await call(v1.JobRequest("nobody"))
                assert refused.value.status is Status.NOT_FOUND

    run(test)


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize("kind", ["InputChanged", "CorruptInput"])
def test_damaged_input_fails_the_job_with_its_reason(tmp_path: Path, kind: str) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            release = v1.Release(grant.shard, grant.epoch, "failed", "in.csv was touched", True, kind)
            worker.held.clear()
            assert (await worker.exchange(releases=[release])).directive == "stop"
            failed = condition(await c.jobs.get(v1.JobRequest("numbers")), "Failed")
            assert (failed.reason, failed.message) == (kind, "in.csv was touched")

    run(test)


def test_a_shard_that_uses_up_its_attempts_fails_the_job(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path, retries={"attempts": 2})
            worker = FakeWorker(c.workers)
            await worker.register()
            for expected in ("", "stop"):
                (grant,) = (await worker.exchange(want=1)).grants
                worker.held.clear()
                release = v1.Release(grant.shard, grant.epoch, "failed", "boom", True, "ModelFailed")
                assert (await worker.exchange(releases=[release])).directive == expected
            job = await c.jobs.get(v1.JobRequest("numbers"))
            assert condition(job, "Failed").reason == "ModelFailed"
            assert job.shards_quarantined == 1

    run(test)


def test_a_degraded_job_lists_what_it_gave_up_and_is_no_success(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path, retries={"attempts": 1}, errors={"onQuarantine": "degrade"})
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            await worker.split(grant, 100)
            worker.held.clear()
            await worker.exchange(
                releases=[v1.Release(grant.shard, grant.epoch, "failed", "boom", True, "ModelFailed")]
            )
            await worker.work(lambda answer: answer.directive == "stop")
            for job in (await c.jobs.get(v1.JobRequest("numbers")), await submit(c, tmp_path)):
                assert (job.phase, condition(job, "Failed").reason) == ("Failed", "BackoffLimitExceeded")
                degraded = condition(job, "Degraded")
                assert (degraded.status, degraded.reason) == (True, "Quarantined")
                assert degraded.message == "1 shard was given up, the first is 0: boom"
                assert "  Quarantined: 1 shard was given up, the first is 0: boom" in summary_text(job, 1.0, 0)
                assert condition(job, "OutputCommitted").status
            assert {f.kind for f in verify(tmp_path / "out").findings} == {"Quarantined", "NoSuccess"}

    run(test)


def test_a_job_whose_output_cannot_be_finished_fails_and_is_continued(tmp_path: Path) -> None:
    async def test() -> None:
        output = tmp_path / "out"
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            in_the_way = output / "_headrace" / "manifest-000001.jsonl"
            in_the_way.mkdir()
            worker = FakeWorker(c.workers)
            await worker.register()
            await worker.work(lambda answer: answer.directive == "stop")
            failed = await c.jobs.get(v1.JobRequest("numbers"))
            assert condition(failed, "Failed").reason == "SinkFailed"
            assert not (output / "_SUCCESS").exists()
            in_the_way.rmdir()
            await submit(c, tmp_path)
            assert (await c.wait_phase("numbers", "Succeeded")).shards_recomputed == 0
            assert verify(output).is_proven

    run(test)


def test_again_for_a_complete_job_costs_nothing_when_it_is_bad(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            first = await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            await worker.register()
            await worker.work(lambda answer: answer.directive == "stop")
            with pytest.raises(GRPCError, match="empty folder"):
                await submit(c, tmp_path, again=True)
            assert (await c.jobs.get(v1.JobRequest("numbers"))).uid == first.uid
            second = await submit(c, tmp_path, digest="d2", again=True, mode="append")
            assert (second.phase, second.uid != first.uid) == ("Running", True)

    run(test)


def test_a_job_of_rejects_only_is_no_success(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            nothing = worker.stage(grant)
            (file,) = nothing.files
            file.name, file.kind = f"_headrace/rejected/{file.name}", "rejects"
            nothing.rows_out, nothing.rows_rejected, nothing.schema = 0, nothing.rows_read, ""
            await worker.exchange(commits=[nothing])
            await worker.exchange(published=[v1.Held(grant.shard, grant.epoch)])
            failed = await c.wait_phase("numbers", "Failed")
            assert condition(failed, "Failed").reason == "ErrorBudgetExceeded"

    run(test)


def test_a_worker_that_cannot_do_the_job_fails_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            worker = FakeWorker(c.workers)
            await one_lease(c, worker)
            await worker.exchange(fatal_reason="ModelLoadFailed", fatal_message="no such class")
            failed = condition(await c.jobs.get(v1.JobRequest("numbers")), "Failed")
            assert (failed.reason, failed.message) == ("ModelLoadFailed", "no such class")

    run(test)


def test_the_reject_budget_counts_live_rows_and_fails_the_job_when_it_is_spent(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path, errors={"maxRejected": 3})
            worker = FakeWorker(c.workers)
            grant = await one_lease(c, worker)
            assert (await worker.exchange(held=[holding(grant, 50, 3)])).directive == ""
            assert (await worker.exchange(held=[holding(grant, 60, 4)])).directive == "stop"
            failed = condition(await c.jobs.get(v1.JobRequest("numbers")), "Failed")
            assert failed.reason == "ErrorBudgetExceeded"

    run(test)


# ---------------------------------------------------------------------- strangers


def test_a_strangers_client_finds_its_way_by_reflection(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            await submit(c, tmp_path)
            stranger = Path(__file__).with_name("stranger.py")
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(stranger), str(tmp_path / "generated"), c.address, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await process.communicate()
            found = json.loads(out)
            assert found["services"] == [
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
                "headrace.v1.JobService",
                "headrace.v1.WorkerService",
            ]
            assert {"Submit", "Watch", "Register", "Exchange"} <= set(found["methods"])
            assert (found["jobs"], found["watched"]) == (["numbers"], "Running")
            assert (found["missing"], found["garbage"]) == ("NOT_FOUND", "INVALID_ARGUMENT")
            assert found["health"] == ["SERVING"] * 3

    run(test)


def test_a_message_over_the_limit_is_refused_and_the_next_one_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            with pytest.raises(GRPCError) as refused:
                await c.jobs.submit(v1.SubmitRequest(manifest="x" * (MESSAGE_BYTES_MAX + 1)))
            assert refused.value.status is Status.RESOURCE_EXHAUSTED
            assert (await c.jobs.list(v1.ListRequest())).jobs == []

    run(test)


def test_a_message_is_refused_by_its_length_prefix_before_its_body_has_come(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c, raw_call(c.address, "Submit") as (send, trailers):
            tracemalloc.start()
            try:
                await send(struct.pack(">?I", False, 1 << 30) + b"only this much of a gigabyte", False)
                assert dict(await trailers())["grpc-status"] == str(Status.RESOURCE_EXHAUSTED.value)
                assert tracemalloc.get_traced_memory()[1] < 1 << 20
            finally:
                tracemalloc.stop()
            assert (await c.jobs.list(v1.ListRequest())).jobs == []

    run(test)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", Status.INVALID_ARGUMENT),
        (b"\0\0\0", Status.INVALID_ARGUMENT),
        (b"\0\0\0\0\x09short", Status.INVALID_ARGUMENT),
        (b"\0\0\0\0\x09", Status.INVALID_ARGUMENT),
        (b"\x47ET / HTTP/1.1", Status.INVALID_ARGUMENT),
        (b"\0\0\0\0\x03\xff\xff\xff", Status.INVALID_ARGUMENT),
        (b"\0\0\0\0\x02\x08\x01", Status.INVALID_ARGUMENT),  # field 1, a name, as a number
        (b"\x01\0\0\0\x03abc", Status.UNIMPLEMENTED),
    ],
)
def test_bytes_that_are_no_request_are_the_callers_fault(tmp_path: Path, sent: bytes, status: Status) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c, raw_call(c.address, "Get") as (send, trailers):
            await send(sent, True)
            assert dict(await trailers())["grpc-status"] == str(status.value)
            assert (await c.jobs.list(v1.ListRequest())).jobs == []

    run(test)


Sender = Callable[[bytes, bool], Awaitable[None]]
Trailers = Callable[[], Awaitable[list[tuple[str, str]]]]


@contextlib.asynccontextmanager
async def raw_call(address: str, method: str) -> AsyncIterator[tuple[Sender, Trailers]]:
    """A call of the job service in bare HTTP/2, whose request may stay unfinished."""
    sock = await connect_unix(Path(address.removeprefix("unix:")))
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    http.initiate_connection()
    stream = http.get_next_available_stream_id()
    path = f"/headrace.v1.JobService/{method}"
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers"}
    http.send_headers(stream, [*headers.items(), ("content-type", "application/grpc")])

    async def send(data: bytes, is_last: bool) -> None:
        http.send_data(stream, data, end_stream=is_last)
        writer.write(http.data_to_send())
        await writer.drain()

    async def trailers() -> list[tuple[str, str]]:
        while data := await reader.read(1 << 16):
            for event in http.receive_data(data):
                if isinstance(event, ResponseReceived | TrailersReceived):
                    headers = [(str(name), str(value)) for name, value in event.headers or ()]
                    if "grpc-status" in dict(headers):
                        return headers
        raise AssertionError("the connection ended without a status")

    try:
        yield send, trailers
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("token", [None, "wrong", "zażółć"])
def test_on_loopback_nothing_answers_without_the_token(tmp_path: Path, token: str | None) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            server, port = await serve_loopback(WorkerDesk(c.driver), c.desk, "127.0.0.1", 0, "secret")
            channel = open_channel(f"127.0.0.1:{port}", None if token is None else token.encode().hex())
            right = open_channel(f"127.0.0.1:{port}", "secret")
            try:
                with pytest.raises(GRPCError) as refused:
                    await v1.JobServiceStub(channel, timeout=10).list(v1.ListRequest())
                assert refused.value.status is Status.UNAUTHENTICATED
                assert (await v1.JobServiceStub(right, timeout=10).list(v1.ListRequest())).jobs == []
            finally:
                channel.close()
                right.close()
                server.close()
                await server.wait_closed()

    run(test)


def test_a_socket_path_too_long_for_the_kernel_works(tmp_path: Path) -> None:
    async def test() -> None:
        deep = tmp_path / ("a" * 60) / ("b" * 60)
        deep.mkdir(parents=True)
        async with coordinator(deep / "state") as c:
            assert len(c.address) > 108
            assert (await c.jobs.list(v1.ListRequest())).jobs == []

    run(test)


def test_the_plan_is_told_as_json(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            plan = json.loads((await submit(c, tmp_path)).plan)
            assert (plan["files"], plan["shards"], plan["stages"][0]["name"]) == (1, 1, "double")

    run(test)


def test_an_output_that_cannot_be_made_ready_stays_free(tmp_path: Path) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            in_the_way = tmp_path / "out" / "_headrace" / "rejected"
            in_the_way.parent.mkdir(parents=True)
            in_the_way.write_text("a file")
            with pytest.raises(GRPCError, match="can't be prepared"):
                await submit(c, tmp_path)
            assert not (tmp_path / "out" / "_headrace" / "claim.json").exists()
            in_the_way.unlink()
            assert (await submit(c, tmp_path)).phase == "Running"

    run(test)
