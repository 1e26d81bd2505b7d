"""How commands follow a job whose coordinator doesn't answer."""

import asyncio
from pathlib import Path

import pytest

from coordinator.cli.client import Rejected, follow


def test_a_coordinator_that_takes_connections_and_says_nothing_is_asked_again(tmp_path: Path) -> None:
    asyncio.run(_follow_one_that_is_silent(tmp_path))


async def _follow_one_that_is_silent(tmp_path: Path) -> None:
    connections = 0
    open_ends: list[asyncio.StreamWriter] = []

    def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        open_ends.append(writer)

    server = await asyncio.start_unix_server(silent, tmp_path / "socket")
    with pytest.raises(Rejected, match="No coordinator answers"):
        async for _ in follow(f"unix:{tmp_path}/socket", None, "digits", away_max_s=0.3, silent_max_s=0.1):
            pass
    assert connections >= 2
    for writer in open_ends:
        writer.close()
    server.close()
