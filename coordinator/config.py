"""Settings of the coordinator process: the only place in it that reads arguments."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import ConfigError

LEDGER = "ledger.sqlite"
"""The ledger's name in its folder."""
DESCRIPTION = """\
Run a coordinator by hand: it plans jobs, leases their shards to workers, decides
commits, and keeps all of it in a ledger from which it goes on after any end.
`headrace run` starts one by itself.
"""
EXAMPLES = """\
examples:
  headrace coordinator --state ledger --socket ~/.headrace/coordinator.sock
  headrace coordinator --state ledger --listen 127.0.0.1:7070 --token-file token

then, for instance:
  headrace worker --coordinator 127.0.0.1:7070 --token-file token
  headrace status --coordinator 127.0.0.1:7070 --token-file token
"""


@dataclass(frozen=True, slots=True)
class Config:
    """How one coordinator runs."""

    state: Path  # folder of the ledger
    socket: Path | None  # Unix socket, in a 0700 folder
    listen: tuple[str, int] | None  # loopback host and port
    token_file: Path | None  # bearer token for `listen`
    http_port: int | None  # metrics and probes on 127.0.0.1; 0 picks a port
    http_fd: int | None  # the same on an inherited socket that listens
    awaits_submission: bool  # jobs of the ledger wait until they are submitted again
    lifeline_fd: int | None  # read end of a pipe: its end of file ends this process
    log_json: bool


def read_config(arguments: Sequence[str]) -> Config:
    """Reads the command line; a wrong one exits with 2 as argparse does.

    Raises:
        ConfigError: the settings don't go together.
    """
    parser = argparse.ArgumentParser(
        prog="headrace coordinator",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path, required=True, help="folder of the ledger; created if missing")
    parser.add_argument("--socket", type=Path, help="Unix socket to listen on, in a folder of mode 0700")
    parser.add_argument("--listen", metavar="HOST:PORT", help="loopback address to listen on; port 0 picks one")
    parser.add_argument("--token-file", type=Path, help="bearer token that --listen asks for")
    http = parser.add_mutually_exclusive_group()
    http.add_argument(
        "--http", type=_port, metavar="PORT", help="serve /metrics, /livez, /readyz on 127.0.0.1:PORT; 0 picks one"
    )
    http.add_argument("--http-fd", type=int, metavar="N", help="the same on an inherited socket that listens")
    parser.add_argument(
        "--await-submission", action="store_true", help="grant nothing of the ledger's jobs before they are submitted"
    )
    parser.add_argument("--lifeline-fd", type=int, metavar="N", help="end when this inherited pipe is closed")
    parser.add_argument("--log", choices=["console", "json"], default="console", help="form of the log on stderr")
    found = parser.parse_args(arguments)
    if found.socket is None and found.listen is None:
        raise ConfigError("Say where to listen: --socket PATH or --listen HOST:PORT.")
    return Config(
        state=found.state,
        socket=found.socket,
        listen=_loopback(found.listen, found.token_file),
        token_file=found.token_file,
        http_port=found.http,
        http_fd=found.http_fd,
        awaits_submission=found.await_submission,
        lifeline_fd=found.lifeline_fd,
        log_json=found.log == "json",
    )


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= 0xFFFF


def _port(text: str) -> int:
    if not _is_port(text):
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, found {text!r}")
    return int(text)


def _loopback(address: str | None, token_file: Path | None) -> tuple[str, int] | None:
    if address is None:
        return None
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost", "[::1]") or not _is_port(port):
        raise ConfigError(f"--listen takes a loopback address such as 127.0.0.1:0, found {address!r}.")
    if token_file is None:
        raise ConfigError("--listen needs --token-file: everybody on this machine can reach a port.")
    return host.strip("[]"), int(port)
