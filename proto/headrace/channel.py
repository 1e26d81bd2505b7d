"""How a client reaches a coordinator: addresses, tokens, long socket paths.

An address is ``unix:PATH`` (the folder's 0700 mode is the permission) or ``HOST:PORT`` with a bearer token.
"""

import asyncio
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from grpclib.client import Channel
from grpclib.events import SendRequest, listen
from grpclib.exceptions import StreamTerminatedError
from h2.exceptions import H2Error

from headrace.errors import ConfigError
from headrace.limits import SOCKET_PATH_BYTES_MAX
from headrace.uris import without_credentials

BROKEN = (
    OSError,
    StreamTerminatedError,
    TimeoutError,
    H2Error,
    AttributeError,
    AssertionError,
    LookupError,
    ValueError,
)
"""What a call raises when its connection breaks, swallows or garbles: besides the lawful ones, grpclib misses an
attribute of a connection that was lost between two of its steps, or a header, and betterproto asserts that an answer
came at all and that it can be read."""

UNIX = "unix:"
PORT_MAX = 65535


class UnixChannel(Channel):
    """A channel to a Unix socket whose path may be longer than `sockaddr_un` allows."""

    def __init__(self, path: Path) -> None:
        self._socket_path = path
        super().__init__(path=str(path))

    async def _create_connection(self) -> Any:
        sock = await connect_unix(self._socket_path)
        try:
            _, protocol = await asyncio.get_running_loop().create_unix_connection(self._protocol_factory, sock=sock)
        except BaseException:
            sock.close()
            raise
        return protocol


def parse_address(address: str) -> Path | tuple[str, int]:
    """The path of a Unix socket, or host and port.

    Raises:
        ConfigError: the address is neither ``unix:PATH`` nor ``HOST:PORT``.
    """
    if address.startswith(UNIX) and len(address) > len(UNIX):
        return Path(address[len(UNIX) :])
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdecimal() and 0 < int(port) <= PORT_MAX):
        shown = without_credentials(address)
        raise ConfigError(f"The coordinator's address {shown!r} is neither unix:PATH nor HOST:PORT.")
    return host.strip("[]"), int(port)


def open_channel(address: str, token: str | None = None) -> Channel:
    """Makes a channel; it connects with the first call and again after a loss. Close it with ``close()``.

    Calls raise `OSError` (nobody listens), `grpclib.exceptions.GRPCError` (the coordinator refused),
    `grpclib.exceptions.StreamTerminatedError` (the connection broke) or `TimeoutError` (the stub's deadline).

    Raises:
        ConfigError: the address is neither ``unix:PATH`` nor ``HOST:PORT``.
    """
    place = parse_address(address)
    if isinstance(place, Path):
        return UnixChannel(place)
    channel = Channel(host=place[0], port=place[1])
    if token is not None:

        async def add_token(event: SendRequest) -> None:
            event.metadata["authorization"] = f"Bearer {token}"

        listen(channel, SendRequest, add_token)
    return channel


def read_token(path: Path) -> str:
    """Reads a bearer token from a file.

    Raises:
        ConfigError: it can't be read, or is empty.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The token file {path} can't be read: {error}") from error
    if not token:
        raise ConfigError(f"The token file {path} is empty.")
    return token


async def connect_unix(path: Path) -> socket.socket:
    """Connects to a Unix socket, through its folder's descriptor where the path is too long."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with short_path(path) as name:
            await asyncio.get_running_loop().sock_connect(sock, name)
    except BaseException:
        sock.close()
        raise
    return sock


def listen_unix(path: Path, backlog: int = 128) -> socket.socket:
    """Binds and listens on `path`, taking the place of a dead predecessor's socket in one step.

    The socket is bound under a private name and renamed, so whoever finds it can connect.
    """
    private = path.with_name(f".{path.name[:8]}-{secrets.token_hex(4)}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with short_path(private) as name:
            sock.bind(name)
        os.chmod(private, 0o600)
        sock.listen(backlog)
        os.rename(private, path)
    except BaseException:
        sock.close()
        private.unlink(missing_ok=True)
        raise
    return sock


class short_path:
    """A name for `path` that fits `sockaddr_un` while the block runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= SOCKET_PATH_BYTES_MAX:
            return str(self._path)
        self._folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._folder >= 0:
            os.close(self._folder)
