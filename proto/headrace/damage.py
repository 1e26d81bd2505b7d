"""Whether a file's bytes are bad, or can't be had: `onCorrupt: reject` lists the former, and never hides the latter."""

import pyarrow as pa

from headrace.errors import CorruptInput


def is_damage(error: BaseException | None) -> bool:
    """Whether an error of reading a file is about its bytes.

    What the system refuses or fails at has a number; decoders that give up on bytes raise an OSError without one.
    """
    if isinstance(error, OSError):
        return error.errno is None
    return isinstance(error, pa.ArrowException | EOFError | UnicodeDecodeError | CorruptInput) and not isinstance(
        error, MemoryError
    )
