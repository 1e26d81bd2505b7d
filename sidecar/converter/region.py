"""The piece of the arena that a batch is written into: parts are taken one after another, each aligned."""

import numpy as np
import numpy.typing as npt

from headrace.local.columns import aligned
from sidecar.converter.dtypes import AnyArray


class Region:
    """Bump allocation in `view` from `offset` on, which must be a multiple of ALIGNMENT."""

    def __init__(self, view: memoryview, offset: int) -> None:
        assert aligned(offset) == offset, "regions begin at a multiple of ALIGNMENT"
        self.view = view
        self._next = offset

    def take(self, nbytes: int) -> int:
        """Offset, from the start of the arena, of `nbytes` bytes that nobody else gets."""
        offset = self._next
        self._next = offset + aligned(nbytes)
        return offset

    def array(self, offset: int, dtype: npt.DTypeLike, count: int) -> AnyArray:
        """A writable array of `count` values over the arena at `offset`."""
        return np.frombuffer(self.view, dtype=dtype, count=count, offset=offset)
