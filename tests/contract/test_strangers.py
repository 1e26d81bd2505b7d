"""Whoever speaks something else than gRPC to the coordinator's socket is cut off, and named once in the log."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from headrace import v1
from headrace.channel import connect_unix
from tests.contract.coordinator_fixture import coordinator, run

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def sent(address: str, data: bytes) -> None:
    """Sends bytes and waits until the coordinator hangs up."""
    reader, writer = await asyncio.open_unix_connection(sock=await connect_unix(Path(address.removeprefix("unix:"))))
    writer.write(data)
    while await reader.read(1 << 16):
        pass
    writer.close()


@pytest.mark.parametrize(
    ("data", "language"),
    [
        (b"GET /s3cret HTTP/1.1\r\nHost: s3cret\r\n\r\n", "HTTP/1"),
        (b"\x16\x03\x01\x02\x00\x01s3cret", "TLS"),
        (b"\x00\x01\x02s3cret" * 10, "another protocol"),
        (PREFACE + b"\x00\x00\x06\x00\x00\x00\x00\x00\x01s3cret", "broken HTTP/2"),  # of no stream
    ],
)
def test_a_connection_that_does_not_speak_grpc_is_logged_once_without_its_bytes(
    tmp_path: Path, data: bytes, language: str
) -> None:
    async def test() -> None:
        async with coordinator(tmp_path / "state") as c:
            with capture_logs() as logs:
                for _ in range(3):
                    await sent(c.address, data)
                event = f"a connection that speaks {language}, not gRPC, was ended"
                assert logs == [{"event": event, "log_level": "warning"}]
            assert (await c.jobs.list(v1.ListRequest())).jobs == []

    run(test)
