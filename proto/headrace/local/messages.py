"""What the frames of the local protocol say, as values.

The few that travel with every batch (Batch, Result, NeedSpace, Space) are packed by `frames`; the others are JSON.

::

    sidecar                                  host
       |---- Control ------------------------>|        the first connection; its end ends everything
       |<--- Exited, for each predictor ------|
    sidecar                                  host, then the predictor that it forks
       |---- Predictor ---------------------->|        every further connection
       |<--- Hello ---------------------------|
       |---- Arena, with the memfd ---------->|
       |---- Load --------------------------->|
       |<--- Ready, or Failed ----------------|
       |---- Batch, Space ------------------->|
       |<--- Result, Error, NeedSpace --------|
       |---- Closing ------------------------>|

Not here: bytes (`frames`), what may follow what (`session`), where rows lie (`columns`).
"""

from dataclasses import dataclass
from typing import Dict, Optional, Tuple, Union

from .columns import Column

ARROW_INPUT = "*"
"""The input that is the source's part of the record batch of a stage that takes Arrow; its fields name the inputs."""

ERROR_OUTPUT = "_error"
"""The output that rejects single rows: null, or a message."""

WRONG_ROWS = "WrongRows"
"""Class of the error that an output has another number of rows than the batch."""


@dataclass(frozen=True)
class TensorSpec:
    """Type of one input or output, the dimension of the rows included. None: not known, or free.

    `dtype` is a numpy name of `columns.DTYPES`, or "utf8" or "binary".
    """

    dtype: Optional[str]
    shape: Optional[Tuple[Optional[int], ...]]


@dataclass(frozen=True)
class Specs:
    """What a loaded stage takes and gives; None outputs: known only after the first batch."""

    inputs: Dict[str, TensorSpec]
    outputs: Optional[Dict[str, TensorSpec]]


@dataclass(frozen=True)
class StageError:
    """An exception of the stage: its class, its text, and the traceback shortened to the user's frames."""

    kind: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class Control:
    """Sidecar to host, first frame of the first connection."""

    stage: str


@dataclass(frozen=True)
class Predictor:
    """Sidecar to host, first frame of every further connection: fork predictor `predictor` for it."""

    predictor: int


@dataclass(frozen=True)
class Exited:
    """Host to sidecar: the predictor's whole process group is gone. One of `status` and `signal` is set."""

    predictor: int
    status: Optional[int]
    signal: Optional[int]
    stderr_tail: str


@dataclass(frozen=True)
class Hello:
    """Predictor to sidecar, its first frame."""

    predictor: int
    pid: int
    stage: str


@dataclass(frozen=True)
class Arena:
    """Sidecar to predictor: the size of the memfd that comes with this frame's first byte."""

    nbytes: int


@dataclass(frozen=True)
class Load:
    """Sidecar to predictor: the stage to load, a StageProgram in JSON."""

    stage: str


@dataclass(frozen=True)
class Ready:
    """Predictor to sidecar: loaded and warmed up."""

    specs: Specs
    load_s: float
    warm_up_s: float


@dataclass(frozen=True)
class Failed:
    """Predictor to sidecar: the stage can't be loaded; the predictor ends."""

    error: StageError


@dataclass(frozen=True)
class Batch:
    """Sidecar to predictor: run these rows; the outputs go into ``[out_offset, out_offset + out_nbytes)``.

    An input has several columns where it is stacked from several.
    """

    batch: int
    rows: int
    out_offset: int
    out_nbytes: int
    inputs: Dict[str, Tuple[Column, ...]]


@dataclass(frozen=True)
class Result:
    """Predictor to sidecar: the outputs of a batch, and how long the stage worked on them."""

    batch: int
    busy_s: float
    columns: Dict[str, Column]


@dataclass(frozen=True)
class Error:
    """Predictor to sidecar: the stage raised, or what it returned can't be used."""

    batch: int
    error: StageError


@dataclass(frozen=True)
class NeedSpace:
    """Predictor to sidecar: the result is kept, and needs a region of `nbytes`."""

    batch: int
    nbytes: int


@dataclass(frozen=True)
class Space:
    """Sidecar to predictor: a region for the whole result of `batch`, in place of the first one."""

    batch: int
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Closing:
    """Sidecar to predictor: no batch follows; leave."""


Message = Union[
    Control, Predictor, Exited, Hello, Arena, Load, Ready, Failed, Batch, Result, Error, NeedSpace, Space, Closing
]  # fmt: skip
