"""The `headrace` command: what people type. Speaks to coordinators over gRPC only, also to its own child.

Start-up matters: a command imports what it needs when it runs.

Not here: what any command decides (`coordinator.driver`, `coordinator.planning`).
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until a command has something to close, Ctrl-C ends this process at once and without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from coordinator.cli.commands import main

__all__ = ["main"]
