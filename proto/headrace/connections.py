"""Connections to web servers and stores that a thread keeps from one request to the next."""

import http.client
import threading
from collections.abc import Mapping


class Unaskable(Exception):
    """A request that HTTP can't carry. Says neither its URL nor its headers: tokens stand in them."""


class Connections(threading.local):
    """A thread's open connections, by scheme and host: a new one costs a round trip, or three with TLS."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def get(self, scheme: str, netloc: str, timeout_s: float) -> http.client.HTTPConnection:
        """The one to a host.

        Raises:
            Unaskable: its port is no number.
        """
        if (scheme, netloc) not in self.kept:
            make = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
            try:
                self.kept[scheme, netloc] = make(netloc, timeout=timeout_s)
            except http.client.InvalidURL:
                raise Unaskable("the URL has a port that isn't a number") from None
        return self.kept[scheme, netloc]

    def drop(self, scheme: str, netloc: str) -> None:
        """Closes it: what comes next on it is unknown."""
        connection = self.kept.pop((scheme, netloc), None)
        if connection is not None:
            connection.close()


def ask(
    connection: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> None:
    """Sends a request.

    Raises:
        Unaskable: its URL or headers hold what can't stand there.
        OSError: it doesn't get there.
    """
    try:
        connection.request(method, target, body, dict(headers))
    except (http.client.InvalidURL, ValueError) as error:
        path = target.partition("?")[0]
        raise Unaskable(f"{method} {path!r} can't be asked for ({type(error).__name__})") from None
