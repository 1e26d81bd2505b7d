"""What planning lets pass, the workers' converter can do; what it refuses, the converter would refuse too."""

from typing import Any

import pyarrow as pa
import pytest

from coordinator.planning.inputs import Given, check_input
from coordinator.spec import CastSpec
from headrace.errors import BadJob
from headrace.local.messages import TensorSpec
from headrace.program import Cast
from sidecar.converter import Converter, SourceTensor

TYPES = [
    pa.null(), pa.bool_(), pa.int8(), pa.int64(), pa.uint8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(),
    pa.date32(), pa.date64(), pa.time32("s"), pa.time64("us"), pa.timestamp("ns"), pa.timestamp("s", "UTC"),
    pa.duration("ms"), pa.month_day_nano_interval(), pa.decimal128(9, 2), pa.decimal256(50, 3),
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(8),
    pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int8(), pa.float32()),
    pa.list_(pa.float32()), pa.large_list(pa.int8()), pa.list_(pa.float32(), 2), pa.list_(pa.list_(pa.int8(), 2), 1),
    pa.list_(pa.string()), pa.list_(pa.decimal128(5)), pa.list_view(pa.float32()),
    pa.fixed_shape_tensor(pa.float32(), [2]), pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=[1, 0]),
    pa.struct([("a", pa.int8())]), pa.map_(pa.string(), pa.int8()), pa.run_end_encoded(pa.int32(), pa.float32()),
    pa.bool8(), pa.uuid(),
]  # fmt: skip
CASTS: list[dict[str, Any]] = [
    {},
    {"dtype": "float32"},
    {"dtype": "int64"},
    {"dtype": "bool"},
    {"dtype": "datetime64[s]"},
    {"shape": [2]},
    {"shape": [1, 2], "dtype": "float32"},
    {"shape": [2, 2, 2]},
    {"fill": 0},
    {"fill": "x"},
    {"dtype": "int8", "fill": 300},
]
WANTED = [None, "bool", "int8", "int64", "float32", "float64", "utf8"]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("stacked", [False, True], ids=["plain", "stacked"])
def test_planning_and_conversion_say_the_same_of_a_column(kind: pa.DataType, stacked: bool) -> None:
    names = ("a", "b") if stacked else ("a",)
    schema = pa.schema([(name, kind) for name in names])
    given = [Given(f"inputs.x[{name}]", f"source.{name}", arrow=kind) for name in names]
    for cast in CASTS:
        for dtype in WANTED:
            said = CastSpec.model_validate(cast)
            faults = check_input("x", "c", given, stacked=stacked, cast=said, wanted=TensorSpec(dtype, None))
            tensor = SourceTensor(
                key="x",
                columns=names,
                stacked=stacked,
                cast=Cast(said.dtype, tuple(said.shape) if said.shape else None, said.fill),
                dtype=None if dtype == "utf8" else dtype,
            )
            try:
                Converter(schema, [tensor])
                refused = ""
            except BadJob as error:
                refused = str(error)
            # Planning alone says that a model wants text, that a column has no values, that times aren't stacked.
            if dtype != "utf8" and not pa.types.is_null(kind) and not (stacked and pa.types.is_temporal(kind)):
                assert bool(faults) == bool(refused), (cast, dtype, [str(fault) for fault in faults], refused)
            elif not faults:
                assert not refused, (cast, dtype)
