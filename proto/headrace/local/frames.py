"""Bytes of the local protocol: length-prefixed, versioned frames.

A frame is a header of eight bytes (length of the body, version, kind, two reserved zeros) and its body. Bodies of the
frames that travel with every batch are packed structs; the rare ones are JSON objects. All numbers are little-endian.
Sans-io: bytes in pieces of any size go in, messages come out. Whatever comes in, the only error is ProtocolError.

Not here: which message may follow which (`session`), sockets.
"""

import json
from dataclasses import asdict
from struct import Struct
from struct import error as StructError
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

from . import columns
from .columns import DTYPES, ITEMSIZES, TENSOR, Column
from .messages import (
    Arena,
    Batch,
    Closing,
    Control,
    Error,
    Exited,
    Failed,
    Hello,
    Load,
    Message,
    NeedSpace,
    Predictor,
    Ready,
    Result,
    Space,
    Specs,
    StageError,
    TensorSpec,
)

VERSION = 1
FRAME_BYTES_MAX = 8 << 20
"""Of one body. The largest are batches of stages with thousands of inputs, at about 100 bytes each."""

_HEADER = Struct("<IBBH")
HEADER_BYTES = _HEADER.size

_BATCH = Struct("<QQQQH")
_RESULT = Struct("<QdH")
_NEED_SPACE = Struct("<QQ")
_SPACE = Struct("<QQQ")
_NAME = Struct("<HH")  # bytes of the name, columns that follow it
_COLUMN = Struct("<BBB5xqqqqqqq")
_SHAPES = tuple(Struct(f"<{n}q") for n in range(33))
_SIZE_MAX = 1 << 62


class ProtocolError(Exception):
    """The other side sent what this protocol doesn't have: its fault, and the connection is of no more use."""


def encode(message: Message) -> bytes:
    """The frame of `message`.

    Raises:
        ValueError: it would be larger than FRAME_BYTES_MAX, or a name is too long.
    """
    kind, pack = _ENCODERS[type(message)]
    body = pack(message)
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"a {type(message).__name__} frame of {len(body)} bytes, over {FRAME_BYTES_MAX}")
    return _HEADER.pack(len(body), VERSION, kind, 0) + body


class Decoder:
    """Turns a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._error: Optional[str] = None

    def feed(self, data: bytes) -> List[Message]:
        """Messages that `data` completes, in order.

        Raises:
            ProtocolError: the bytes are no frames of this protocol. Every later call raises it too.
        """
        if self._error is not None:
            raise ProtocolError(self._error)
        try:
            return self._messages(data)
        except ProtocolError as error:
            self._error = str(error)
            raise

    def _messages(self, data: bytes) -> List[Message]:
        buffer = self._buffer
        buffer += data
        found: List[Message] = []
        at, end = 0, len(buffer)
        while end - at >= HEADER_BYTES:
            length, version, kind, reserved = _HEADER.unpack_from(buffer, at)
            if version != VERSION:
                raise ProtocolError(f"version {version}, this side speaks {VERSION}")
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(f"a frame of {length} bytes, over {FRAME_BYTES_MAX}")
            decode = _DECODERS.get(kind)
            if decode is None or reserved:
                raise ProtocolError(f"no frame of kind {kind}")
            if end - at < HEADER_BYTES + length:
                break
            body = bytes(buffer[at + HEADER_BYTES : at + HEADER_BYTES + length])
            found.append(_decoded(decode, body))
            at += HEADER_BYTES + length
        if at:
            del buffer[:at]
        return found


def _decoded(decode: "Callable[[bytes], Message]", body: bytes) -> Message:
    try:
        return decode(body)
    # RecursionError: JSON nested a thousand deep.
    except (StructError, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"{decode.__name__.lstrip('_')}: {type(error).__name__}: {error}") from error


# Columns.


def _pack_columns(parts: List[bytes], name: str, named: Tuple[Column, ...]) -> None:
    encoded = name.encode()
    parts.append(_NAME.pack(len(encoded), len(named)))
    parts.append(encoded)
    for c in named:
        shape = c.shape
        parts.append(
            _COLUMN.pack(
                c.kind, c.dtype, len(shape), c.rows, c.offset, c.nbytes, c.data_offset, c.data_nbytes,
                c.validity_offset, c.row_begin,
            )
        )  # fmt: skip
        if shape:
            parts.append(_SHAPES[len(shape)].pack(*shape))


def _unpack_columns(body: bytes, at: int) -> Tuple[str, Tuple[Column, ...], int]:
    """Name, columns, and where the next name begins."""
    name_bytes, count = _NAME.unpack_from(body, at)
    at += _NAME.size
    if at + name_bytes > len(body):
        raise ValueError("a name that is cut off")
    name = body[at : at + name_bytes].decode()
    at += name_bytes
    found = []
    for _ in range(count):
        kind, dtype, ndim, rows, offset, nbytes, data_offset, data_nbytes, validity, row_begin = _COLUMN.unpack_from(
            body, at
        )
        at += _COLUMN.size
        shape = ()
        if ndim:
            shape = _SHAPES[ndim].unpack_from(body, at)
            at += 8 * ndim
        column = Column(kind, rows, offset, nbytes, dtype, shape, data_offset, data_nbytes, validity, row_begin)
        _check(column)
        found.append(column)
    return name, tuple(found), at


def _check(c: Column) -> None:
    """Raises ValueError where the parts of a column contradict each other."""
    if min(c.rows, c.offset, c.nbytes, c.data_offset, c.data_nbytes, c.row_begin) < 0 or c.validity_offset < -1:
        raise ValueError("a negative size")
    if c.kind == TENSOR:
        if not c.shape or c.shape[0] != c.rows or min(c.shape) < 0 or c.dtype >= len(DTYPES):
            raise ValueError("shape and rows differ, or there is no such dtype")
        nbytes = ITEMSIZES[c.dtype]
        for n in c.shape:
            nbytes *= n
        if nbytes != c.nbytes:
            raise ValueError(f"a tensor of {c.nbytes} bytes, by its shape {nbytes}")
    elif c.shape or c.dtype:
        raise ValueError("a shape on what is no tensor")
    elif c.kind in (columns.UTF8, columns.BINARY):
        if c.nbytes != 8 * (c.rows + 1):
            raise ValueError(f"offsets of {c.nbytes} bytes for {c.rows} rows")
    elif c.kind == columns.NULL:
        if c.nbytes or c.data_nbytes or c.validity_offset >= 0:
            raise ValueError("bytes of a column that has none")
    elif c.kind != columns.IPC:
        raise ValueError(f"no column of kind {c.kind}")
    if max(c.offset + c.nbytes, c.data_offset + c.data_nbytes, c.validity_offset + c.rows) > _SIZE_MAX:
        raise ValueError("beyond any memory")


def is_within(c: Column, begin: int, end: int) -> bool:
    """Whether all parts of the column lie in ``[begin, end)`` of the arena."""
    if c.offset < begin or c.offset + c.nbytes > end:
        return False
    if c.data_nbytes and (c.data_offset < begin or c.data_offset + c.data_nbytes > end):
        return False
    return c.validity_offset < 0 or (c.validity_offset >= begin and c.validity_offset + c.rows <= end)


# Frames of every batch.


def _pack_batch(m: Batch) -> bytes:
    parts = [_BATCH.pack(m.batch, m.rows, m.out_offset, m.out_nbytes, len(m.inputs))]
    for name, named in m.inputs.items():
        _pack_columns(parts, name, named)
    return b"".join(parts)


def _batch(body: bytes) -> Batch:
    batch, rows, out_offset, out_nbytes, count = _BATCH.unpack_from(body)
    at = _BATCH.size
    inputs = {}
    for _ in range(count):
        name, named, at = _unpack_columns(body, at)
        inputs[name] = named
    _end(body, at, len(inputs) == count)
    return Batch(batch, rows, out_offset, out_nbytes, inputs)


def _pack_result(m: Result) -> bytes:
    parts = [_RESULT.pack(m.batch, m.busy_s, len(m.columns))]
    for name, column in m.columns.items():
        _pack_columns(parts, name, (column,))
    return b"".join(parts)


def _result(body: bytes) -> Result:
    batch, busy_s, count = _RESULT.unpack_from(body)
    at = _RESULT.size
    found = {}
    for _ in range(count):
        name, (column,), at = _unpack_columns(body, at)
        found[name] = column
    _end(body, at, len(found) == count and busy_s >= 0)
    return Result(batch, busy_s, found)


def _end(body: bytes, at: int, is_good: bool) -> None:
    if at != len(body) or not is_good:
        raise ValueError("bytes after the end, a name twice, or a time below zero")


def _pack_need_space(m: NeedSpace) -> bytes:
    return _NEED_SPACE.pack(m.batch, m.nbytes)


def _need_space(body: bytes) -> NeedSpace:
    return NeedSpace(*_NEED_SPACE.unpack(body))


def _pack_space(m: Space) -> bytes:
    return _SPACE.pack(m.batch, m.offset, m.nbytes)


def _space(body: bytes) -> Space:
    return Space(*_SPACE.unpack(body))


# Rare frames.


def _pack_json(m: Any) -> bytes:
    # Lone surrogates, which messages may hold (of a name that is no valid UTF-8), go as escapes.
    return json.dumps(asdict(m), separators=(",", ":")).encode()


def _object(value: Any, **kinds: Any) -> Dict[str, Any]:
    """`value`, if it is an object of exactly these fields, each of its kind (True and False are no numbers).

    Text is for people, files and messages that are UTF-8: a lone surrogate in it becomes visible as a backslash escape.
    """
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        raise ValueError("not the fields of this frame")
    for name, kind in kinds.items():
        if not isinstance(value[name], kind) or (isinstance(value[name], bool) and kind is not bool):
            raise ValueError(f"{name}: {value[name]!r}")
        if isinstance(value[name], str):
            value[name] = value[name].encode("utf-8", "backslashreplace").decode()
    return value


def _whole(body: bytes, **kinds: Any) -> Dict[str, Any]:
    return _object(json.loads(body.decode()), **kinds)


_OPTIONAL_INT = (int, type(None))
_NUMBER = (int, float)


def _control(body: bytes) -> Control:
    return Control(**_whole(body, stage=str))


def _predictor(body: bytes) -> Predictor:
    return Predictor(**_whole(body, predictor=int))


def _exited(body: bytes) -> Exited:
    return Exited(**_whole(body, predictor=int, status=_OPTIONAL_INT, signal=_OPTIONAL_INT, stderr_tail=str))


def _hello(body: bytes) -> Hello:
    return Hello(**_whole(body, predictor=int, pid=int, stage=str))


def _arena(body: bytes) -> Arena:
    arena = Arena(**_whole(body, nbytes=int))
    if not 0 < arena.nbytes <= _SIZE_MAX:
        raise ValueError(f"an arena of {arena.nbytes} bytes")
    return arena


def _load(body: bytes) -> Load:
    return Load(**_whole(body, stage=str))


def _tensor_spec(value: Any) -> TensorSpec:
    spec = _object(value, dtype=(str, type(None)), shape=(list, type(None)))
    shape = spec["shape"]
    if shape is None:
        return TensorSpec(spec["dtype"], None)
    if not all(n is None or (isinstance(n, int) and not isinstance(n, bool)) for n in shape):
        raise ValueError(f"shape: {shape!r}")
    return TensorSpec(spec["dtype"], tuple(shape))


def _tensor_specs(value: Dict[str, Any]) -> Dict[str, TensorSpec]:
    return {name: _tensor_spec(spec) for name, spec in value.items()}


def _ready(body: bytes) -> Ready:
    value = _whole(body, specs=dict, load_s=_NUMBER, warm_up_s=_NUMBER)
    specs = _object(value["specs"], inputs=dict, outputs=(dict, type(None)))
    outputs = None if specs["outputs"] is None else _tensor_specs(specs["outputs"])
    return Ready(Specs(_tensor_specs(specs["inputs"]), outputs), float(value["load_s"]), float(value["warm_up_s"]))


def _stage_error(value: Any) -> StageError:
    return StageError(**_object(value, kind=str, message=str, traceback=str))


def _failed(body: bytes) -> Failed:
    return Failed(_stage_error(_whole(body, error=dict)["error"]))


def _error(body: bytes) -> Error:
    value = _whole(body, batch=int, error=dict)
    return Error(value["batch"], _stage_error(value["error"]))


def _closing(body: bytes) -> Closing:
    return Closing(**_whole(body))


_ENCODERS: Dict[Type[Any], Tuple[int, Callable[[Any], bytes]]] = {
    Batch: (1, _pack_batch), Result: (2, _pack_result), NeedSpace: (3, _pack_need_space), Space: (4, _pack_space),
    Error: (5, _pack_json), Control: (16, _pack_json), Predictor: (17, _pack_json), Exited: (18, _pack_json),
    Hello: (19, _pack_json), Arena: (20, _pack_json), Load: (21, _pack_json), Ready: (22, _pack_json),
    Failed: (23, _pack_json), Closing: (24, _pack_json),
}  # fmt: skip
_DECODERS: Dict[int, Callable[[bytes], Message]] = {
    1: _batch, 2: _result, 3: _need_space, 4: _space, 5: _error, 16: _control, 17: _predictor, 18: _exited,
    19: _hello, 20: _arena, 21: _load, 22: _ready, 23: _failed, 24: _closing,
}  # fmt: skip
