"""A link's socket on the event loop: nothing lost when the other side is slow, no buffer without a bound."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from headrace.local.frames import Decoder, encode
from headrace.local.messages import Closing, Load, Message, NeedSpace
from sidecar.links import UNSENT_BYTES_MAX, Link, connect

WAIT_S = 10.0


class Ends:
    """A link, what it received and how it ended, and the plain socket at its other end."""

    def __init__(self) -> None:
        mine, self.other = socket.socketpair()
        mine.setblocking(False)
        self.other.setblocking(False)
        self.received: list[Message] = []
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.link = Link(asyncio.get_running_loop(), mine, self.received.append, self.closed.set_result)

    async def read(self, nbytes: int) -> bytes:
        found = bytearray()
        while len(found) < nbytes:
            found += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.other, 65536), WAIT_S)
        return bytes(found)


def test_frames_sent_to_a_slow_reader_arrive_whole_and_in_order() -> None:
    async def run() -> None:
        ends = Ends()
        messages = [Load("x" * 300_000), NeedSpace(1, 2), Load("y" * 300_000), Closing()]
        sent = [encode(message) for message in messages]
        for data in sent:
            ends.link.send(data)
        assert Decoder().feed(await ends.read(sum(map(len, sent)))) == messages
        ends.link.close()
        ends.other.close()

    asyncio.run(run())


def test_a_reader_that_stopped_ends_the_link_at_a_bound() -> None:
    async def run() -> str:
        ends = Ends()
        for _ in range(4):
            ends.link.send(bytes(UNSENT_BYTES_MAX // 3))
        return await asyncio.wait_for(ends.closed, WAIT_S)

    assert asyncio.run(run()) == "it stopped reading"


def test_all_frames_of_one_read_come_in_one_wake_up() -> None:
    async def run() -> None:
        ends = Ends()
        messages = [NeedSpace(n, n) for n in range(50)]
        ends.other.send(b"".join(map(encode, messages)))
        while not ends.received:  # noqa: ASYNC110 - one turn of the loop at a time
            await asyncio.sleep(0)
        assert ends.received == messages
        ends.link.close()
        ends.other.close()

    asyncio.run(run())


@pytest.mark.parametrize(("data", "reason"), [(b"GET / HTTP/1.1\r\n", "it broke the protocol"), (b"", "")])
def test_garbage_and_hang_up_end_the_link_once(data: bytes, reason: str) -> None:
    async def run() -> None:
        ends = Ends()
        ends.other.send(data)
        ends.other.close()
        assert (await asyncio.wait_for(ends.closed, WAIT_S)).startswith(reason)
        ends.link.send(b"after the end")

    asyncio.run(run())


def test_a_descriptor_travels_with_its_frame() -> None:
    async def run() -> None:
        ends = Ends()
        read, write = os.pipe()
        ends.link.send_with_fd(encode(Closing()), write)
        data, (received,), _, _ = socket.recv_fds(ends.other, 100, 1)
        assert Decoder().feed(data) == [Closing()]
        os.write(received, b"through")
        assert os.read(read, 100) == b"through"
        for fd in (read, write, received):
            os.close(fd)
        ends.link.close()
        ends.other.close()

    asyncio.run(run())


def test_a_full_queue_of_connections_is_told_apart_from_nobody_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(FileNotFoundError):
        connect(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(ConnectionRefusedError):
            connect(path)
        listener.listen(0)
        with connect(path), pytest.raises(BlockingIOError):
            connect(path)
