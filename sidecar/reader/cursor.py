"""How far a lease has been read, and how far it may be: what the reader thread and the event loop share.

```
begin ........ position ........ claimed ........ end
      handed out        being read        may still be given away
```

The reader claims units before it reads them; the loop lowers `end` (a split), never below what is claimed. Of what the
reader hands out beyond a split, the feed takes only the front (`Block.front`).
"""

import threading


class Cursor:
    """Position of one lease's reading, in dataset units. Thread-safe."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin = begin
        self._lock = threading.Lock()
        self._position = begin
        self._claimed = begin
        self._end = end

    @property
    def position(self) -> int:
        """All units before it have been handed out as blocks."""
        return self._position

    @property
    def end(self) -> int:
        """The reader stops here."""
        return self._end

    @end.setter
    def end(self, to: int) -> None:
        """What the coordinator has agreed to: units given away, or got back after a split that it refused."""
        with self._lock:
            self._end = max(to, self._claimed)

    def lower_end(self, at: int) -> int:
        """Gives units from `at` on away, but none that is being read; returns the end in force from now on."""
        with self._lock:
            self._end = min(self._end, max(at, self._claimed))
            return self._end

    def claim(self, to: int) -> int:
        """The reader is about to read up to `to`; returns how far it may."""
        with self._lock:
            self._claimed = max(self._claimed, min(to, self._end))
            return min(to, self._end)

    def claim_whole(self, to: int) -> bool:
        """The reader is about to read up to `to`, or not at all: says whether it may."""
        with self._lock:
            if to <= self._end:
                self._claimed = max(self._claimed, to)
            return to <= self._end

    def hand_out(self, to: int) -> None:
        """The block that ends at `to` is about to leave the reader."""
        with self._lock:
            assert self._position <= to <= self._claimed, (self._position, to, self._claimed)
            self._position = to
