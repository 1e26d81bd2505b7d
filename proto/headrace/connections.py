"""Connections to web servers and stores that a thread keeps from one request to the next."""

import http.client
import threading


class Connections(threading.local):
    """A thread's open connections, by scheme and host: a new one costs a round trip, or three with TLS."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def get(self, scheme: str, netloc: str, timeout_s: float) -> http.client.HTTPConnection:
        """The one to a host."""
        if (scheme, netloc) not in self.kept:
            make = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
            self.kept[scheme, netloc] = make(netloc, timeout=timeout_s)
        return self.kept[scheme, netloc]

    def drop(self, scheme: str, netloc: str) -> None:
        """Closes it: what comes next on it is unknown."""
        connection = self.kept.pop((scheme, netloc), None)
        if connection is not None:
            connection.close()
