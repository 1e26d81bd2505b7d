"""The `headrace` command: what people type. Speaks to coordinators over gRPC only, also to its own child.

Start-up matters: a command imports what it needs when it runs.

Not here: what any command decides (`coordinator.driver`, `coordinator.planning`).
"""

from coordinator.cli.commands import main

__all__ = ["main"]
