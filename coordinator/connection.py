"""One connection to the gRPC server: what isn't HTTP/2 on it ends it, and is named without a byte of it.

Not here: what is wrong with a call on a good connection (`coordinator.call_check`).
"""

import re
from asyncio import BaseTransport
from collections.abc import Callable
from typing import Any

from grpclib.config import Configuration
from grpclib.protocol import H2Protocol
from h2.config import H2Configuration
from h2.events import Event
from h2.exceptions import ProtocolError

_PREFACE = b"PRI * HTTP/2.0\r\n"
_HTTP1 = re.compile(rb"[A-Z]{3,10} [^\s]")
_TLS = b"\x16\x03"


class Protocol(H2Protocol):
    """grpclib's, which ends such a connection and tells nobody."""

    def __init__(
        self, note: Callable[[str], None], handler: Any, config: Configuration, h2_config: H2Configuration
    ) -> None:
        """`note` is told what is wrong; the others are grpclib's."""
        super().__init__(handler, config, h2_config)
        self._note = note
        self._first = b""

    def connection_made(self, transport: BaseTransport) -> None:
        """Watches what the connection is fed with."""
        super().connection_made(transport)
        feed = self.connection.feed

        def watched(data: bytes) -> list[Event]:
            self._first = self._first or data[: len(_PREFACE)]
            try:
                return feed(data)
            except ProtocolError:
                self._note(f"a connection that speaks {_language(self._first)}, not gRPC, was ended")
                raise

        self.connection.feed = watched  # type: ignore[method-assign]


def _language(first: bytes) -> str:
    """What a connection that broke HTTP/2 spoke, by its first bytes."""
    if first and _PREFACE.startswith(first):
        return "broken HTTP/2"
    if first.startswith(_TLS):
        return "TLS"
    return "HTTP/1" if _HTTP1.match(first) else "another protocol"
