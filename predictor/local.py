"""`headrace.local`, by the name under which it was loaded here: ``_headrace.local``, or its own where it is installed.

The other modules import it from here, so that this is the only place that knows.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__ == "predictor":
    from headrace.local import casts, columns, frames, messages, session
else:
    from ..local import casts, columns, frames, messages, session

__all__ = ["casts", "columns", "frames", "messages", "session"]
