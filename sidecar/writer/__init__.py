"""Rows to staged files: one file of data and at most one of rejects for each lease.

Law: blocking code for a writer thread, one call at a time per writer; files are hashed while they are written and
synced before `close` returns; an error of the store is a `SinkError` and leaves no file behind.

Not here: publishing (`headrace.publish`), which rows (`sidecar.shard_run`).
"""

from sidecar.converter.to_arrow import column_to_arrow
from sidecar.writer.rejects import RejectsWriter
from sidecar.writer.shard import AgreedSchema, SchemaChanged, ShardWriter
from sidecar.writer.staged import Staged

__all__ = ["AgreedSchema", "RejectsWriter", "SchemaChanged", "ShardWriter", "Staged", "column_to_arrow"]
