"""Ends of a command that are nobody's mistake; in a file that costs every command nothing to import."""

from headrace.errors import HeadraceError


class Interrupted(HeadraceError):
    """A signal ended the run; the job can be continued."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__("Interrupted. Everything committed is kept: the same command continues.")


class ReaderGone(HeadraceError):
    """Whoever read stdout has gone, as `head` does when it has enough."""
