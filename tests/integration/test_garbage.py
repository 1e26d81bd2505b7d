"""Garbage on a coordinator's port and strangers without its token: they get nowhere, and others notice nothing."""

import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import v1
from headrace.channel import open_channel
from headrace.words import ExitCode

TIMEOUT_S = 20.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


class Listening:
    """A coordinator on a port of its own, with a token."""

    def __init__(self, folder: Path) -> None:
        (folder / "token").write_text("secret")
        self.log = folder / "log"
        command = [sys.executable, "-m", "coordinator", "--state", str(folder / "state"), "--listen", "127.0.0.1:0"]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*command, "--token-file", str(folder / "token")], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[1]

    def connect(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), TIMEOUT_S)

    async def jobs(self, token: str | None) -> int:
        channel = open_channel(self.address, token)
        try:
            return len((await v1.JobServiceStub(channel, timeout=TIMEOUT_S).list(v1.ListRequest())).jobs)
        finally:
            channel.close()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    made = Listening(tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()
    made.process.communicate(timeout=TIMEOUT_S)


def garbage(kind: str, seed: int) -> bytes:
    drawn = random.Random(seed)
    noise = drawn.randbytes(drawn.randrange(1, 4000))
    match kind:
        case "noise":
            return noise
        case "http/1":
            return b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        case "preface, then noise":
            return PREFACE + noise
        case "frames of noise":
            frame = len(noise).to_bytes(3, "big") + bytes([drawn.randrange(12), drawn.randrange(256)])
            return PREFACE + SETTINGS + frame + drawn.randrange(2**32).to_bytes(4, "big") + noise
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["noise", "http/1", "preface, then noise", "frames of noise"])
def test_garbage_ends_its_connection_and_fills_no_log(listening: Listening, kind: str) -> None:
    import asyncio

    for seed in range(100):
        with listening.connect() as stranger:
            stranger.sendall(garbage(kind, seed))
            if seed % 2:
                stranger.shutdown(socket.SHUT_WR)
    assert asyncio.run(listening.jobs("secret")) == 0
    assert listening.process.poll() is None
    assert len(listening.log.read_bytes()) < 4000, listening.log.read_text()[:4000]


def test_strangers_without_the_token_are_refused_and_logged_once(listening: Listening) -> None:
    import asyncio

    from grpclib.const import Status
    from grpclib.exceptions import GRPCError

    for token in (None, "", "guess", "secret "):
        with pytest.raises(GRPCError) as refused:
            asyncio.run(listening.jobs(token))
        assert refused.value.status is Status.UNAUTHENTICATED
    assert asyncio.run(listening.jobs("secret")) == 0
    listening.process.terminate()
    assert listening.process.wait(TIMEOUT_S) == ExitCode.DONE
    assert listening.log.read_text().count("without this coordinator's token") == 1
