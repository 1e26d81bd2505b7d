"""Where processes log: stderr, unbuffered, and what can't be written is lost rather than fatal.

A disk that is full of everything else is full for the log too; a process must then fail, or go on, for its own reasons.
"""

import os
from contextlib import suppress

STDERR = 2


class LossyStderr:
    """Enough of a text stream for `structlog.PrintLoggerFactory` and `print`."""

    def write(self, text: str) -> int:
        """Writes at once; loses what can't be written."""
        with suppress(OSError):
            os.write(STDERR, text.encode(errors="backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""
