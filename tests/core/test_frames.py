"""The local protocol's codec: what goes in comes out, in pieces of any size; garbage is only ever a ProtocolError."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.local import frames
from headrace.local.columns import BINARY, DTYPES, IPC, ITEMSIZES, NULL, TENSOR, UTF8, Column
from headrace.local.frames import Decoder, ProtocolError, encode, is_within
from headrace.local.messages import (
    Arena,
    Batch,
    Closing,
    Control,
    Error,
    Exited,
    Failed,
    Hello,
    Load,
    NeedSpace,
    Predictor,
    Ready,
    Result,
    Space,
    Specs,
    StageError,
    TensorSpec,
)

OFFSETS = st.integers(0, 1 << 48)
NUMBERS = st.integers(0, (1 << 64) - 1)
TEXTS = st.text(max_size=40)
IDS = st.integers(0, 1 << 40)


@st.composite
def columns(draw: st.DrawFn) -> Column:
    kind = draw(st.sampled_from([TENSOR, UTF8, BINARY, IPC, NULL]))
    rows = draw(st.integers(0, 10_000))
    validity = draw(st.one_of(st.just(-1), OFFSETS))
    if kind == TENSOR:
        dtype = draw(st.integers(0, len(DTYPES) - 1))
        shape = (rows, *draw(st.lists(st.integers(0, 300), max_size=3)))
        nbytes = ITEMSIZES[dtype]
        for n in shape:
            nbytes *= n
        return Column(kind, rows, draw(OFFSETS), nbytes, dtype, shape, validity_offset=validity)
    if kind == NULL:
        return Column(kind, rows, draw(OFFSETS), 0)
    if kind == IPC:
        return Column(kind, rows, draw(OFFSETS), draw(OFFSETS), row_begin=draw(st.integers(0, 1000)))
    return Column(
        kind, rows, draw(OFFSETS), 8 * (rows + 1), data_offset=draw(OFFSETS), data_nbytes=draw(OFFSETS),
        validity_offset=validity,
    )  # fmt: skip


SPECS = st.dictionaries(
    TEXTS,
    st.builds(
        TensorSpec,
        st.one_of(st.none(), st.sampled_from(DTYPES)),
        st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(0, 99)), max_size=4).map(tuple)),
    ),
    max_size=3,
)
STAGE_ERRORS = st.builds(StageError, TEXTS, TEXTS, TEXTS)
MESSAGES = st.one_of(
    st.builds(
        Batch,
        NUMBERS,
        NUMBERS,
        NUMBERS,
        NUMBERS,
        st.dictionaries(TEXTS, st.lists(columns(), max_size=3).map(tuple), max_size=3),
    ),
    st.builds(Result, NUMBERS, st.floats(0, 1e9), st.dictionaries(TEXTS, columns(), max_size=3)),
    st.builds(NeedSpace, NUMBERS, NUMBERS),
    st.builds(Space, NUMBERS, NUMBERS, NUMBERS),
    st.builds(Error, IDS, STAGE_ERRORS),
    st.builds(Control, TEXTS),
    st.builds(Predictor, IDS),
    st.builds(Exited, IDS, st.one_of(st.none(), IDS), st.one_of(st.none(), IDS), TEXTS),
    st.builds(Hello, IDS, IDS, TEXTS),
    st.builds(Arena, st.integers(1, 1 << 50)),
    st.builds(Load, TEXTS),
    st.builds(Ready, st.builds(Specs, SPECS, st.one_of(st.none(), SPECS)), st.floats(0, 1e6), st.floats(0, 1e6)),
    st.builds(Failed, STAGE_ERRORS),
    st.just(Closing()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(MESSAGES, max_size=4), st.data())
def test_messages_come_out_equal_however_the_bytes_are_cut(messages: list, data: st.DataObject) -> None:
    stream = b"".join(encode(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = Decoder()
    found = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[begin:end])
    assert found == messages


def test_what_is_no_unicode_in_a_message_is_made_visible() -> None:
    """A name of a file that isn't UTF-8, say, in the words of an exception: reports and rejects are UTF-8."""
    sent = Error(7, StageError("ValueError", "caf\udce9.jpg can't be read", ""))
    (found,) = Decoder().feed(encode(sent))
    assert found == Error(7, StageError("ValueError", "caf\\udce9.jpg can't be read", ""))


def test_a_stream_may_come_byte_by_byte() -> None:
    stream = encode(NeedSpace(7, 99)) + encode(Closing())
    decoder = Decoder()
    found = [message for byte in stream for message in decoder.feed(bytes([byte]))]
    assert found == [NeedSpace(7, 99), Closing()]


def feed_all(pieces: list[bytes]) -> None:
    decoder = Decoder()
    for piece in pieces:
        decoder.feed(piece)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_are_frames_or_a_protocol_error(pieces: list[bytes]) -> None:
    with suppress(ProtocolError):
        feed_all(pieces)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*range(1, 6), *range(16, 25)]), st.binary(max_size=300))
def test_any_body_of_any_kind_is_a_message_or_a_protocol_error(kind: int, body: bytes) -> None:
    frame = frames._HEADER.pack(len(body), frames.VERSION, kind, 0) + body
    with suppress(ProtocolError):
        feed_all([frame])


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["stage", "predictor", "batch", "error", "kind", "message", "specs", "inputs", "outputs"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([5, *range(16, 25)]), JSON)
def test_any_json_is_a_message_or_a_protocol_error(kind: int, value: object) -> None:
    body = json.dumps(value).encode()
    with suppress(ProtocolError):
        feed_all([frames._HEADER.pack(len(body), frames.VERSION, kind, 0) + body])


@settings(max_examples=200, deadline=None)
@given(MESSAGES, st.data())
def test_a_changed_byte_is_never_more_than_a_protocol_error(message: object, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        feed_all([bytes(frame)])


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (frames._HEADER.pack(0, 9, 24, 0), "version 9"),
        (frames._HEADER.pack(frames.FRAME_BYTES_MAX + 1, 1, 24, 0), "over"),
        (frames._HEADER.pack(0, 1, 99, 0), "kind 99"),
        (frames._HEADER.pack(0, 1, 24, 1), "kind 24"),
        (frames._HEADER.pack(2, 1, 24, 0) + b"[]", "fields"),
        (frames._HEADER.pack(9000, 1, 16, 0) + b"[" * 9000, "RecursionError"),
    ],
)
def test_what_this_protocol_does_not_have_is_refused_by_name(frame: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        Decoder().feed(frame)


def test_a_length_beyond_the_limit_is_refused_before_its_body_comes() -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(frames._HEADER.pack(1 << 31, 1, 1, 0))


def test_a_decoder_that_saw_garbage_stays_broken() -> None:
    decoder = Decoder()
    with pytest.raises(ProtocolError):
        decoder.feed(b"GET / HTTP/1.1\r\n")
    with pytest.raises(ProtocolError):
        decoder.feed(encode(Closing()))


def test_a_message_beyond_the_limit_is_not_sent() -> None:
    with pytest.raises(ValueError, match="over"):
        encode(Load("x" * frames.FRAME_BYTES_MAX))


@pytest.mark.parametrize(
    "column",
    [
        Column(TENSOR, 4, 0, 16, DTYPES.index("float32"), (5,)),  # rows and shape differ
        Column(TENSOR, 4, 0, 15, DTYPES.index("float32"), (4,)),  # bytes and shape differ
        Column(TENSOR, 4, 0, 16, len(DTYPES), (4,)),  # no such dtype
        Column(TENSOR, -1, 0, 4, 0, (-1,)),
        Column(TENSOR, 4, -64, 16, DTYPES.index("float32"), (4,)),
        Column(UTF8, 4, 0, 39),
        Column(UTF8, 4, 0, 40, validity_offset=-2),
        Column(9, 4, 0, 40),
        Column(IPC, 4, 0, 40, 3),
    ],
)
def test_a_column_that_contradicts_itself_is_refused(column: Column) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(encode(Result(1, 0.0, {"y": column})))


def test_within_looks_at_every_part_of_a_column() -> None:
    text = Column(UTF8, 3, 64, 32, data_offset=128, data_nbytes=10, validity_offset=192)
    assert is_within(text, 64, 195)
    assert not is_within(text, 64, 194)
    assert not is_within(text, 65, 195)
    assert not is_within(Column(UTF8, 3, 64, 32, data_offset=32, data_nbytes=10), 64, 195)
