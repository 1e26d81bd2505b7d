"""Arrow arrays as text, a whole array at a time: JSON values for JSONL, and what CSV can't hold by itself.

numbers       as short as they read back equal; floats keep a point or exponent; NaN and infinities are null in JSON
times         ISO 8601, timestamps with a zone in UTC with a Z; durations the number of their unit
bytes         base64
lists         arrays; structs objects; maps and unions by Python, row by row
"""

import base64
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidecar.converter.buffers import array_values, arrow_mask, arrow_text
from sidecar.converter.nested import is_list, is_list_view, list_rows, plain

_NULL = arrow_text("null")
_NO_TEXT = pa.nulls(1, pa.string())[0]
_QUOTE, _OPEN, _CLOSE, _COMMA, _ZULU, _NOTHING = (arrow_text(text) for text in ('"', "[", "]", ",", "Z", ""))
_NEEDS_ESCAPE = '["\\\\\\x00-\\x1f]'
_WHOLE_NUMBER = r"^(-?[0-9]+)$"


def json_texts(array: pa.Array) -> pa.Array:
    """JSON of every value, as strings without nulls."""
    array = plain(array)
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.string()).fill_null(_NULL)
    if is_list(kind):
        texts = _lists(array)
    elif pa.types.is_struct(kind):
        texts = _structs(array)
    elif pa.types.is_floating(kind):
        texts = _floats(array)
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        texts = array.cast(pa.string())
    elif pa.types.is_duration(kind):
        texts = array.cast(pa.int64()).cast(pa.string())
    elif pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        texts = pc.binary_join_element_wise(_QUOTE, iso_texts(array), _QUOTE, _NOTHING)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = _quoted(array.cast(pa.string()))
    elif is_binary(kind):
        texts = pc.binary_join_element_wise(_QUOTE, base64_texts(array), _QUOTE, _NOTHING)
    else:
        return pa.array([json.dumps(value, default=str) for value in array.to_pylist()], pa.string())
    return texts.fill_null(_NULL) if texts.null_count else texts


def iso_texts(array: pa.Array) -> pa.Array:
    """Dates, times and timestamps as ISO 8601; nulls stay null."""
    kind = array.type
    if not pa.types.is_timestamp(kind):
        return array.cast(pa.string())
    # Without its zone a timestamp is the instant in UTC.
    texts = pc.replace_substring(array.cast(pa.timestamp(kind.unit)).cast(pa.string()), " ", "T")
    return texts if kind.tz is None else pc.binary_join_element_wise(texts, _ZULU, _NOTHING)


def base64_texts(array: pa.Array) -> pa.Array:
    """Bytes as base64; nulls stay null."""
    texts = [None if value is None else base64.b64encode(value).decode() for value in array.to_pylist()]
    return pa.array(texts, pa.string())


def is_binary(kind: pa.DataType) -> bool:
    """Whether a plain type is bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _floats(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    finite = pc.is_finite(array)
    if not pc.all(finite, min_count=0).as_py():
        texts = pc.if_else(finite, texts, _NO_TEXT)
    # A reader that sees "1" and no other number takes the column for integers.
    if pc.any(pc.match_substring_regex(texts, _WHOLE_NUMBER)).as_py():
        texts = pc.replace_substring_regex(texts, _WHOLE_NUMBER, r"\1.0")
    return texts


def _quoted(array: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(array, _NEEDS_ESCAPE)).as_py():
        special = array_values(pc.match_substring_regex(array, _NEEDS_ESCAPE).fill_null(False))
        escaped = [
            json.dumps(value, ensure_ascii=False)[1:-1] for value in array.filter(arrow_mask(special)).to_pylist()
        ]
        array = pc.replace_with_mask(array, arrow_mask(special), pa.array(escaped, pa.string()))
    return pc.binary_join_element_wise(_QUOTE, array, _QUOTE, _NOTHING)


def _lists(array: pa.Array) -> pa.Array:
    count = len(array)
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        offsets = np.arange(count + 1, dtype=np.int64) * size
        values = array.values.slice(array.offset * size, count * size)
    elif is_list_view(array.type):
        present = array_values(array.is_valid())
        offsets = np.append(0, np.cumsum(np.where(present, list_rows(array)[1], 0)))
        values = array.flatten()
    else:
        offsets = array_values(array.offsets).astype(np.int64)
        values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        offsets -= offsets[0]
    texts = pa.Array.from_buffers(
        pa.list_(pa.string()), count, [None, pa.py_buffer(offsets.astype(np.int32))], children=[json_texts(values)]
    )
    joined = pc.binary_join_element_wise(_OPEN, pc.binary_join(texts, _COMMA), _CLOSE, _NOTHING)
    return with_nulls_of(array, joined)


def _structs(array: pa.Array) -> pa.Array:
    parts: list[pa.Array | pa.Scalar] = []
    for number, field in enumerate(array.type):
        key = ("," if number else "{") + json.dumps(field.name, ensure_ascii=False) + ":"
        parts += [arrow_text(key), json_texts(array.field(number))]
    if not parts:
        return with_nulls_of(array, pa.nulls(len(array), pa.string()).fill_null(arrow_text("{}")))
    return with_nulls_of(array, pc.binary_join_element_wise(*parts, arrow_text("}"), _NOTHING))


def with_nulls_of(array: pa.Array, texts: pa.Array) -> pa.Array:
    """`texts`, null where `array` is."""
    if not array.null_count:
        return texts
    return pc.if_else(array.is_valid(), texts, _NO_TEXT)
