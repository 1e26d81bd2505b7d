"""ONNX Runtime, bound to the arena: inputs are read in place, and outputs written in place where their shapes follow.

An output's shape follows where each of its dimensions is a number, the model's name for a dimension of an input, or,
as the leading one, free: then it is taken for the rows. ONNX Runtime fails a run whose bound buffer has another size;
such an output is from then on left to ONNX Runtime and copied once.

CUDA is chosen where onnxruntime offers it; the same bindings hold, in host memory, and ONNX Runtime copies to the
device and back. That path has not been measured yet.
"""

import math
import sys
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from ..local import messages
from ..mapping import DTYPE_INDEX
from ..outputs import Region
from ..stage import Stage
from . import BadStage

_DTYPES = {
    "tensor(bool)": "bool", "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32",
    "tensor(int64)": "int64", "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64", "tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64",
    "tensor(string)": "utf8",
}  # fmt: skip
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")

_FAILURES: Tuple[Type[BaseException], ...] = (
    RuntimeError,
    ValueError,
    *(each for each in vars(_state).values() if isinstance(each, type) and issubclass(each, Exception)),
)
"""What a run raises: ONNX Runtime's exceptions have no class in common."""

Dimension = Any  # int, str (a name that the model gives), or None


class OnnxModel:
    """One session with one thread; several predictors are several processes."""

    def __init__(self, stage: Stage) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # A thread that spins takes the core from the reader and the writer.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        available = onnxruntime.get_available_providers()
        self._session = onnxruntime.InferenceSession(
            stage.target, options, providers=[name for name in _PROVIDERS if name in available]
        )
        self._binding = self._session.io_binding()
        self._inputs = [_Port(stage, port) for port in self._session.get_inputs()]
        self._outputs = [_Port(stage, port) for port in self._session.get_outputs()]
        leading = {port.shape[0] for port in self._inputs if port.shape}
        only = leading.pop() if len(leading) == 1 else None
        self._rows_fixed = only if isinstance(only, int) else None
        self._is_text = any(port.dtype is None for port in self._inputs)
        self._bound: Dict[str, Tuple[int, Tuple[int, ...]]] = {}
        self.specs = messages.Specs(
            {port.name: port.spec for port in self._inputs}, {port.name: port.spec for port in self._outputs}
        )

    def warm_up(self) -> None:
        """Runs one row of zeros, where every other dimension is known; a model that can't take zeros says so later."""
        feeds = {}
        for port in self._inputs:
            if port.dtype is None or not all(isinstance(n, int) for n in port.shape[1:]):
                return
            feeds[port.name] = np.zeros([n if isinstance(n, int) else 1 for n in port.shape], port.dtype)
        try:
            self._session.run(None, feeds)
        except _FAILURES as error:
            print(f"warm-up with zeros: {error}", file=sys.stderr)

    def run(self, inputs: Mapping[str, np.ndarray], rows: int, region: Region) -> Mapping[str, np.ndarray]:
        """Runs the batch; a model of a fixed batch size gets it in pieces of that size, the last one filled up."""
        if self._rows_fixed is not None and rows != self._rows_fixed:
            return self._in_pieces(inputs, rows, self._rows_fixed)
        if self._is_text:
            return self._unbound(inputs)
        return self._in_place(inputs, rows, region)

    def _unbound(self, inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        found = self._session.run(None, dict(inputs))
        return {port.name: value for port, value in zip(self._outputs, found)}

    def _in_place(self, inputs: Mapping[str, np.ndarray], rows: int, region: Region) -> Mapping[str, np.ndarray]:
        binding = self._binding
        sizes: Dict[Dimension, int] = {}
        held = []  # a binding is an address only: what lies there must stay until the run is over
        for port in self._inputs:
            array = np.ascontiguousarray(inputs[port.name])
            held.append(array)
            address = array.__array_interface__["data"][0]
            if self._bound.get(port.name) != (address, array.shape):
                binding.bind_input(port.name, "cpu", 0, array.dtype, array.shape, address)
                self._bound[port.name] = (address, array.shape)
            for dimension, size in zip(port.shape, array.shape):
                sizes[dimension] = size
        shapes = [port.resolved(sizes, rows) for port in self._outputs]
        is_placed = region.fits(
            math.prod(shape) * port.dtype.itemsize
            for port, shape in zip(self._outputs, shapes)
            if shape is not None and port.dtype is not None
        )
        placed: Dict[str, np.ndarray] = {}
        for port, shape in zip(self._outputs, shapes):
            if is_placed and shape is not None and port.dtype is not None:
                array = region.place(port.name, port.dtype, shape)
                address = array.__array_interface__["data"][0]
                if self._bound.get(port.name) != (address, shape):
                    binding.bind_output(port.name, "cpu", 0, port.dtype, shape, address)
                    self._bound[port.name] = (address, shape)
                placed[port.name] = array
            else:
                binding.bind_output(port.name, "cpu")
                self._bound.pop(port.name, None)
        try:
            self._session.run_with_iobinding(binding)
        except _FAILURES:
            self._bound.clear()
            if not placed:
                raise
            return self._unplaced(inputs, placed)
        if len(placed) == len(self._outputs):
            return placed
        values = binding.get_outputs()
        return {
            port.name: placed[port.name] if port.name in placed else values[at].numpy()
            for at, port in enumerate(self._outputs)
        }

    def _unplaced(self, inputs: Mapping[str, np.ndarray], placed: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """The batch again without binding: either it fails by itself, or a shape doesn't follow as it seemed to."""
        found = self._unbound(inputs)
        for port in self._outputs:
            if port.name in placed and found[port.name].shape != placed[port.name].shape:
                port.follows = False
        return found

    def _in_pieces(self, inputs: Mapping[str, np.ndarray], rows: int, size: int) -> Dict[str, np.ndarray]:
        pieces: List[Dict[str, np.ndarray]] = []
        for begin in range(0, rows, size):
            feeds = {name: array[begin : begin + size] for name, array in inputs.items()}
            short = size - min(size, rows - begin)
            if short:
                feeds = {name: np.concatenate([a, np.repeat(a[-1:], short, axis=0)]) for name, a in feeds.items()}
            found = self._unbound(feeds)
            if any(len(value) != size for value in found.values()):
                return found  # not by row: the check of rows says so
            pieces.append({name: value[: size - short] for name, value in found.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


class _Port:
    """One input or output of the model."""

    def __init__(self, stage: Stage, port: Any) -> None:
        self.name: str = port.name
        self.shape: Tuple[Dimension, ...] = tuple(port.shape or ())
        kind = _DTYPES.get(port.type)
        if kind is None:
            raise BadStage(f"{stage.target}: {self.name} is a {port.type}, which no column holds")
        self.dtype = None if kind == "utf8" else np.dtype(kind)
        assert self.dtype is None or self.dtype in DTYPE_INDEX
        self.spec = messages.TensorSpec(kind, tuple(n if isinstance(n, int) else None for n in self.shape))
        self.follows = bool(self.shape)

    def resolved(self, sizes: Mapping[Dimension, int], rows: int) -> Optional[Tuple[int, ...]]:
        """The shape for inputs whose named dimensions are `sizes`; None where it doesn't follow from them."""
        if not self.follows:
            return None
        found: List[int] = []
        for place, n in enumerate(self.shape):
            size = n if isinstance(n, int) else sizes.get(n) if isinstance(n, str) else None
            if size is None:
                if place:
                    return None
                size = rows
            found.append(size)
        return tuple(found) if found[0] == rows else None
