"""The Reader: slices of planned files become blocks of Arrow rows, in order, each unit once.

Blocking code for a reader thread; it never touches the event loop and shares only the `Cursor` with it. Every block
says which dataset units it covers and where each of its rows came from. A worker opens one `Source` per job and calls
`read` once per lease; several reads may run in several threads.
"""

from sidecar.reader.block import BadRow, Block, CorruptRange
from sidecar.reader.cursor import Cursor
from sidecar.reader.source import Source, open_source, source_schema

__all__ = ["BadRow", "Block", "CorruptRange", "Cursor", "Source", "open_source", "source_schema"]
