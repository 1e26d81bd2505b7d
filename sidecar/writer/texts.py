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

from sidecar.converter.nested import is_list, is_list_view, list_rows, plain

NULL = "null"
_NEEDS_ESCAPE = '["\\\\\\x00-\\x1f]'
_WHOLE_NUMBER = r"^(-?[0-9]+)$"


def json_texts(array: pa.Array) -> pa.Array:
    """JSON of every value, as strings without nulls."""
    array = plain(array)
    kind = array.type
    if pa.types.is_null(kind):
        return pa.array([NULL] * len(array), pa.string())
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
        texts = pc.binary_join_element_wise('"', iso_texts(array), '"', "")
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = _quoted(array.cast(pa.string()))
    elif is_binary(kind):
        texts = pc.binary_join_element_wise('"', base64_texts(array), '"', "")
    else:
        return pa.array([json.dumps(value, default=str) for value in array.to_pylist()], pa.string())
    return texts.fill_null(NULL) if texts.null_count else texts


def iso_texts(array: pa.Array) -> pa.Array:
    """Dates, times and timestamps as ISO 8601; nulls stay null."""
    kind = array.type
    if not pa.types.is_timestamp(kind):
        return array.cast(pa.string())
    # Without its zone a timestamp is the instant in UTC.
    texts = pc.replace_substring(array.cast(pa.timestamp(kind.unit)).cast(pa.string()), " ", "T")
    return texts if kind.tz is None else pc.binary_join_element_wise(texts, "Z", "")


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
        texts = pc.if_else(finite, texts, pa.scalar(None, pa.string()))
    # A reader that sees "1" and no other number takes the column for integers.
    if pc.any(pc.match_substring_regex(texts, _WHOLE_NUMBER)).as_py():
        texts = pc.replace_substring_regex(texts, _WHOLE_NUMBER, r"\1.0")
    return texts


def _quoted(array: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(array, _NEEDS_ESCAPE)).as_py():
        special = np.asarray(pc.match_substring_regex(array, _NEEDS_ESCAPE).fill_null(False))
        escaped = [json.dumps(value, ensure_ascii=False)[1:-1] for value in array.filter(pa.array(special)).to_pylist()]
        array = pc.replace_with_mask(array, pa.array(special), pa.array(escaped, pa.string()))
    return pc.binary_join_element_wise('"', array, '"', "")


def _lists(array: pa.Array) -> pa.Array:
    count = len(array)
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        offsets = np.arange(count + 1, dtype=np.int64) * size
        values = array.values.slice(array.offset * size, count * size)
    elif is_list_view(array.type):
        present = np.asarray(array.is_valid())
        offsets = np.append(0, np.cumsum(np.where(present, list_rows(array)[1], 0)))
        values = array.flatten()
    else:
        offsets = array.offsets.to_numpy().astype(np.int64)
        values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        offsets -= offsets[0]
    texts = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), json_texts(values))
    joined = pc.binary_join_element_wise("[", pc.binary_join(texts, ","), "]", "")
    return _with_nulls_of(array, joined)


def _structs(array: pa.Array) -> pa.Array:
    parts: list[pa.Array | str] = []
    for number, field in enumerate(array.type):
        parts += [
            ("," if number else "{") + json.dumps(field.name, ensure_ascii=False) + ":",
            json_texts(array.field(number)),
        ]
    if not parts:
        return _with_nulls_of(array, pa.array(["{}"] * len(array), pa.string()))
    return _with_nulls_of(array, pc.binary_join_element_wise(*parts, "}", ""))


def _with_nulls_of(array: pa.Array, texts: pa.Array) -> pa.Array:
    if not array.null_count:
        return texts
    return pc.if_else(array.is_valid(), texts, pa.scalar(None, pa.string()))
