"""What planning finds in a job against its source's columns and its models' inputs, before anything runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.planning import Probe, check_system, find_faults, probes_from_json, probes_to_json, source_columns
from coordinator.planning.stages import batch_rows
from coordinator.spec import BatchSpec, InferenceJob, graph_faults, running_order
from headrace.dataset import Dataset
from headrace.errors import BadJob
from headrace.local.messages import TensorSpec

FOLDER = Path("/job")


UNCOUNTED = Dataset("row", (), np.zeros(0, np.int64), (), np.zeros(1, np.int64), np.zeros(0, np.int64), True, 0, None)
NO_ROWS = replace(UNCOUNTED, rows_total=0)


@dataclass(frozen=True)
class Source:
    """A planned source of which only the columns matter."""

    schema: pa.Schema
    dataset: Dataset


def source(**columns: pa.DataType) -> Source:
    return Source(pa.schema(list(columns.items())), UNCOUNTED)


def spec(dtype: str | None, *shape: int | None) -> TensorSpec:
    """Type of a tensor with free rows and `shape` per row."""
    return TensorSpec(dtype, (None, *shape))


def onnx(name: str, inputs: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "onnx": "m.onnx", "inputs": inputs, **more}


def python(name: str, inputs: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "python": "m:C", "inputs": inputs, **more}


def job(*stages: dict[str, Any], columns: dict[str, str] | None = None) -> InferenceJob:
    plain = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": "t"},
        "spec": {
            "source": {"format": "parquet", "uri": "in/"},
            "pipeline": list(stages),
            "sink": {"format": "jsonl", "uri": "out", "columns": columns or {"y": f"{stages[-1]['name']}.y"}},
        },
    }
    return InferenceJob.model_validate(plain).absolute(FOLDER)


def model(inputs: dict[str, TensorSpec], **outputs: TensorSpec) -> Probe:
    return Probe(inputs, outputs or {"y": spec("float32")})


UNKNOWN = Probe({}, None)
"""The probe of a python stage, whose outputs nobody knows before its first batch."""


def faults(made: InferenceJob, planned: Source | None, **probes: Probe) -> list[str]:
    return [str(fault) for fault in find_faults(made, planned, probes)]


# ---------------------------------------------------------------- graph


def test_stages_run_as_written_wherever_the_graph_allows() -> None:
    stages = job(
        python("late", {"x": "early.y"}), python("other", {"x": "source.a"}), python("early", {"x": "source.a"})
    ).spec.pipeline
    assert [stage.name for stage in running_order(stages)] == ["other", "early", "late"]


@given(st.data())
def test_every_stage_runs_after_those_it_reads(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    needs = [data.draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set() for i in range(count)]
    place = data.draw(st.permutations(range(count)))
    made = [python(f"s{i}", {f"x{n}": f"s{n}.y" for n in need} or {"x": "source.a"}) for i, need in enumerate(needs)]
    graph = job(*[made[i] for i in place])
    assert graph_faults(graph) == []
    order = [int(stage.name[1:]) for stage in running_order(graph.spec.pipeline)]
    assert sorted(order) == list(range(count))
    assert all(order.index(need) < order.index(i) for i in range(count) for need in needs[i])
    in_order = job(*made)
    assert running_order(in_order.spec.pipeline) == in_order.spec.pipeline


def test_a_cycle_is_shown_with_its_path() -> None:
    made = job(
        python("in", {"x": "source.a"}),
        python("a", {"x": "c.y", "z": "in.y"}),
        python("b", {"x": "a.y"}),
        python("c", {"x": "b.y"}),
    )
    assert faults(made, None) == ["spec.pipeline[1].inputs: a cycle: a → c → b → a; stages that need only earlier ones"]


def test_cycles_apart_from_each_other_are_all_shown() -> None:
    made = job(
        python("a", {"x": "b.y", "z": "c.y"}),
        python("b", {"x": "a.y"}),
        python("c", {"x": "d.y", "q": "none.y"}),
        python("d", {"x": "c.y"}),
    )
    assert [fault.split("; ")[0] for fault in faults(made, None)] == [
        "spec.pipeline[2].inputs.q: no stage is called 'none'",
        "spec.pipeline[0].inputs: a cycle: a → b → a",
        "spec.pipeline[2].inputs: a cycle: c → d → c",
    ]


def test_a_stage_that_reads_itself_is_a_cycle() -> None:
    assert faults(job(python("a", {"x": "a.y"})), None) == [
        "spec.pipeline[0].inputs: a cycle: a → a; stages that need only earlier ones"
    ]


def test_two_stages_of_one_name_are_a_fault() -> None:
    made = job(python("a", {"x": "source.a"}), python("a", {"x": "source.a"}))
    assert faults(made, None) == ["spec.pipeline[1].name: 'a' is spec.pipeline[0] already; another name"]


def test_a_stage_that_does_not_exist_is_named_with_the_nearest() -> None:
    made = job(python("tokens", {"x": "source.a"}), python("embed", {"x": ["token.ids", "zzz.y"]}))
    assert faults(made, None) == [
        "spec.pipeline[1].inputs.x[0]: no stage is called 'token'; did you mean 'tokens.ids'?",
        "spec.pipeline[1].inputs.x[1]: no stage is called 'zzz'; there are: source, tokens, embed",
    ]


def test_a_cast_of_no_input_is_a_fault() -> None:
    made = job(python("a", {"text": "source.a"}, cast={"txt": {"dtype": "int8"}}))
    assert faults(made, None) == ["spec.pipeline[0].cast.txt: no such input; did you mean 'text'?"]


# ---------------------------------------------------------------- columns


def test_a_column_that_does_not_exist_is_named_with_those_that_do() -> None:
    made = job(python("a", {"x": "source.txt", "z": "source.q"}), columns={"y": "a.y", "i": "source.idd"})
    assert faults(made, source(id=pa.int64(), text=pa.string()), a=UNKNOWN) == [
        "spec.pipeline[0].inputs.x: the source has no column 'txt'; did you mean 'text'? there are: id, text",
        "spec.pipeline[0].inputs.z: the source has no column 'q'; there are: id, text",
        "spec.sink.columns.i: the source has no column 'idd'; did you mean 'id'? there are: id, text",
    ]


def test_columns_that_the_job_does_not_list_are_not_there() -> None:
    plain = job(python("a", {"x": "source.text"})).model_dump(by_alias=True, exclude_unset=True)
    plain["spec"]["source"]["columns"] = ["id", "tex"]
    made = InferenceJob.model_validate(plain)
    assert faults(made, source(id=pa.int64(), text=pa.string()), a=UNKNOWN) == [
        "spec.source.columns[1]: no column 'tex'; did you mean 'text'? there are: id, text",
        "spec.pipeline[0].inputs.x: 'text' isn't in spec.source.columns; add it there, or leave that list out",
    ]


def test_an_output_that_a_model_does_not_have_is_named_with_those_it_has() -> None:
    made = job(
        onnx("m", {"x": "source.a"}), python("p", {"x": "m.labels"}), columns={"s": "m.scores", "any": "p.thing"}
    )
    probe = model({"x": spec("float32")}, label=spec("int64"), score=spec("float32"))
    assert faults(made, source(a=pa.float32()), m=probe, p=UNKNOWN) == [
        "spec.pipeline[1].inputs.x: stage 'm' has no output 'labels'; did you mean 'label'? there are: label, score",
        "spec.sink.columns.s: stage 'm' has no output 'scores'; did you mean 'score'? there are: label, score",
    ]


def test_the_error_column_of_a_stage_cannot_be_read() -> None:
    made = job(python("a", {"x": "source.a"}), columns={"e": "a._error"})
    assert faults(made, None) == ["spec.sink.columns.e: '_error' rejects rows and is no column; another output"]


def test_a_star_that_meets_a_column_of_the_same_name_is_a_fault() -> None:
    made = job(python("a", {"x": "source.id"}), columns={"*": "source", "id": "a.y"})
    assert faults(made, source(id=pa.int64(), text=pa.string()), a=UNKNOWN) == [
        "spec.sink.columns.id: '*' brings a column 'id' already; another name, or no '*'"
    ]


def test_the_source_is_read_only_for_what_is_named() -> None:
    named = job(python("a", {"x": ["source.b", "source.c"]}), columns={"i": "source.id", "c": "source.c", "y": "a.y"})
    assert source_columns(named) == ["b", "c", "id"]
    assert source_columns(job(python("a", {"x": "source.b"}), columns={"*": "source"})) is None


# ---------------------------------------------------------------- models


def test_inputs_that_do_not_match_the_model_are_all_named() -> None:
    made = job(onnx("m", {"input_idz": "source.a", "q": "source.a"}))
    probe = model({"input_ids": spec("int64"), "mask": spec("int64")})
    assert faults(made, source(a=pa.int64()), m=probe) == [
        "spec.pipeline[0].inputs.input_idz: the model has no input 'input_idz'; "
        "did you mean 'input_ids'? there are: input_ids, mask",
        "spec.pipeline[0].inputs.q: the model has no input 'q'; there are: input_ids, mask",
        "spec.pipeline[0].inputs: nothing for the model's input_ids, mask; a reference for each, such as source.COLUMN",
    ]


def test_a_model_whose_inputs_want_different_batches_is_a_fault() -> None:
    made = job(onnx("m", {"a": "source.a", "b": "source.a"}))
    probe = model({"a": TensorSpec("float32", (4,)), "b": TensorSpec("float32", (8,))})
    assert faults(made, source(a=pa.float32()), m=probe) == [
        "spec.pipeline[0].onnx: the model's inputs have first dimensions of 4 and 8; "
        "one number of rows, or a free dimension"
    ]


@pytest.mark.parametrize(
    ("batch", "fixed", "rows"),
    [
        ({}, None, 1024),
        ({"max": 100}, None, 100),
        ({"rows": 7}, None, 7),
        ({}, 100, 1000),
        ({}, 5000, 5000),
        ({"max": 3}, 2, 2),
    ],
)
def test_a_batch_is_whole_calls_of_the_model(batch: dict[str, int], fixed: int | None, rows: int) -> None:
    assert batch_rows(BatchSpec.model_validate(batch), fixed) == rows


CAST = "spec.pipeline[0].cast.x"


@pytest.mark.parametrize(
    ("columns", "reference", "wanted", "cast", "expected"),
    [
        # the same type, or one that no value changes in
        ({"a": pa.float32()}, "source.a", spec("float32"), None, None),
        ({"a": pa.int16()}, "source.a", spec("float32"), None, None),
        ({"a": pa.bool_()}, "source.a", spec("float32"), None, None),
        ({"a": pa.uint8()}, "source.a", spec("int64"), None, None),
        ({"a": pa.dictionary(pa.int8(), pa.string())}, "source.a", spec("utf8"), None, None),
        ({"a": pa.list_(pa.float32(), 3)}, "source.a", spec("float32", 3), None, None),
        ({"a": pa.list_(pa.float32())}, "source.a", spec("float32", 3), None, None),
        ({"a": pa.list_(pa.list_(pa.int8(), 2), 3)}, "source.a", spec("int8", 3, 2), None, None),
        ({"a": pa.fixed_shape_tensor(pa.float32(), [3, 2])}, "source.a", spec("float32", None, 2), None, None),
        ({"a": pa.float32(), "b": pa.int8()}, ["source.a", "source.b"], spec("float32", 2), None, None),
        ({"a": pa.float32()}, ["source.a"], spec("float32", 1), None, None),
        ({"a": pa.float32()}, "source.a", TensorSpec("float32", ()), None, None),
        # a type in which a value could change
        ({"a": pa.int64()}, "source.a", spec("float32"), None,
         "spec.pipeline[0].inputs.x: found int64 [rows], and the model takes float32: values could change; "
         f"{CAST}: {{dtype: float32}} to accept that"),
        ({"a": pa.float64()}, "source.a", spec("float32"), None,
         "spec.pipeline[0].inputs.x: found float64 [rows], and the model takes float32: values could change; "
         f"{CAST}: {{dtype: float32}} to accept that"),
        ({"a": pa.float64()}, "source.a", spec("float32"), {"dtype": "float32"}, None),
        ({"a": pa.float64()}, "source.a", spec("float32"), {"dtype": "int64"},
         f"{CAST}.dtype: found int64 [rows], and the model takes float32; float32"),
        ({"a": pa.float64()}, "source.a", spec("float32"), {"dtype": "float16"}, None),
        # text and numbers
        ({"a": pa.string()}, "source.a", spec("float32"), None,
         "spec.pipeline[0].inputs.x: found utf8 [rows], and the model takes float32; a numeric column"),
        ({"a": pa.string()}, "source.a", spec("int64"), {"dtype": "int64"},
         f"{CAST}.dtype: utf8 can't be cast to int64; a python stage that parses it"),
        ({"a": pa.int64()}, "source.a", spec("utf8"), None,
         "spec.pipeline[0].inputs.x: found int64 [rows], and the model takes utf8; a column of text"),
        ({"a": pa.timestamp("us")}, "source.a", spec("int64"), None,
         "spec.pipeline[0].inputs.x: found datetime64[us] [rows], and the model takes int64: values could change; "
         f"{CAST}: {{dtype: int64}} to accept that"),
        ({"a": pa.timestamp("us", "UTC")}, "source.a", spec("int64"), {"dtype": "int64"}, None),
        ({"a": pa.timestamp("us")}, "source.a", spec("float32"), {"dtype": "float32"},
         f"{CAST}.dtype: datetime64[us] can't be cast to float32; a dtype of the same kind"),
        # decimals only as the job says
        ({"a": pa.decimal128(10, 2)}, "source.a", spec("float64"), None,
         "spec.pipeline[0].inputs.x: source.a: decimal128(10, 2) has no dtype that holds every value; "
         "cast: {INPUT: {dtype: float64}}"),
        ({"a": pa.decimal128(10, 2)}, "source.a", spec("float64"), {"dtype": "float64"}, None),
        # shapes
        ({"a": pa.float32()}, "source.a", spec("float32", 1), None,
         "spec.pipeline[0].inputs.x: found float32 [rows], and the model takes float32 [rows, 1]; "
         "a list with the one column"),
        ({"a": pa.float32()}, "source.a", spec("float32", 3), None,
         "spec.pipeline[0].inputs.x: found float32 [rows], and the model takes float32 [rows, 3]; "
         "a list of 3 columns, or a column of lists"),
        ({"a": pa.float32(), "b": pa.float32()}, ["source.a", "source.b"], spec("float32", 3), None,
         "spec.pipeline[0].inputs.x: found float32 [rows, 2], and the model takes float32 [rows, 3]; "
            "columns of that shape"),
        ({"a": pa.list_(pa.float32(), 6)}, "source.a", spec("float32", 3, 2), None,
         "spec.pipeline[0].inputs.x: found float32 [rows, 6], and the model takes float32 [rows, 3, 2]; "
         f"{CAST}: {{shape: [3, 2]}}"),
        ({"a": pa.list_(pa.float32(), 6)}, "source.a", spec("float32", 3, 2), {"shape": [3, 2]}, None),
        ({"a": pa.list_(pa.float32(), 6)}, "source.a", spec("float32", 3, 3), {"shape": [3, 3]},
         f"{CAST}.shape: 6 values a row don't fill [3, 3]; as many values"),
        # raw bytes
        ({"a": pa.binary(12)}, "source.a", spec("uint8", 3, 2, 2), {"shape": [3, 2, 2]}, None),
        ({"a": pa.binary(12)}, "source.a", spec("float32", 3, 2, 2), {"shape": [3, 2, 2]}, None),
        ({"a": pa.binary(48)}, "source.a", spec("float32", 3, 2, 2), {"shape": [3, 2, 2]}, None),
        ({"a": pa.binary()}, "source.a", spec("float32", 3, 2, 2), {"shape": [3, 2, 2]}, None),
        ({"a": pa.binary(13)}, "source.a", spec("uint8", 3, 2, 2), {"shape": [3, 2, 2]},
         "spec.pipeline[0].inputs.x: source.a: 13 bytes a row; 12 of uint8 [3, 2, 2]"),
        ({"a": pa.binary()}, "source.a", spec("uint8", 3), None,
         "spec.pipeline[0].inputs.x: found binary [rows], and the model takes uint8; "
         f"a numeric column, or {CAST}: {{shape: [...]}} for raw bytes"),
        # stacks
        ({"a": pa.float32(), "b": pa.string()}, ["source.a", "source.b"], spec("float32", 2), None,
         "spec.pipeline[0].inputs.x[1]: source.b is utf8 [rows]; a numeric column: only these are stacked"),
        ({"a": pa.float32(), "b": pa.list_(pa.float32(), 2)}, ["source.a", "source.b"], spec("float32", 2), None,
         "spec.pipeline[0].inputs.x[1]: source.b is float32 [rows, 2]; one number a row: only these are stacked"),
        ({"a": pa.int64(), "b": pa.float32()}, ["source.a", "source.b"], spec("float32", 2), None,
         f"spec.pipeline[0].inputs.x: no dtype holds all values of float32, int64; "
            f"{CAST}: {{dtype: ...}} to say which"),
        ({"a": pa.int64(), "b": pa.float32()}, ["source.a", "source.b"], spec("float32", 2),
            {"dtype": "float32"}, None),
        # what is no array at all
        ({"a": pa.struct([("b", pa.int8())])}, "source.a", spec("float32"), None,
         "spec.pipeline[0].inputs.x: source.a: struct<b: int8> has no array type; "
            "batch: {as: arrow} on a python stage"),
        ({"a": pa.list_(pa.string())}, "source.a", spec("utf8", None), None,
         "spec.pipeline[0].inputs.x: source.a: list<item: string> has no array type; "
            "batch: {as: arrow} on a python stage"),
        ({"a": pa.null()}, "source.a", spec("float32"), None,
         "spec.pipeline[0].inputs.x: source.a: all its values are null; "
         "cast: {INPUT: {fill: NUMBER}}, or batch: {as: arrow}"),
        ({"a": pa.null()}, "source.a", spec("float32"), {"fill": 0}, None),
        # fill values
        ({"a": pa.int8()}, "source.a", spec("int8"), {"fill": 200}, f"{CAST}.fill: found 200; a value of int8"),
        ({"a": pa.int8()}, "source.a", spec("int8"), {"fill": 0.5}, f"{CAST}.fill: found 0.5; a value of int8"),
        ({"a": pa.int8()}, "source.a", spec("float32"), {"fill": 0.5}, None),
        ({"a": pa.string()}, "source.a", spec("utf8"), {"fill": 0}, f"{CAST}.fill: found 0; a value of utf8"),
        ({"a": pa.string()}, "source.a", spec("utf8"), {"fill": ""}, None),
    ],
)  # fmt: skip
def test_a_model_gets_what_it_takes_or_the_job_is_told(
    columns: dict[str, pa.DataType], reference: Any, wanted: TensorSpec, cast: Any, expected: str | None
) -> None:
    more = {"cast": {"x": cast}} if cast else {}
    made = job(onnx("m", {"x": reference}, **more))
    assert faults(made, source(**columns), m=model({"x": wanted})) == ([expected] if expected else [])


def test_columns_of_a_dataset_without_rows_have_types_only_where_the_files_say_them() -> None:
    made = job(onnx("m", {"x": "source.a", "t": "source.b"}), columns={"y": "m.y", "c": "source.c"})
    wanted = model({"x": spec("float32"), "t": spec("utf8")})
    unknown = pa.schema([("a", pa.null()), ("b", pa.null()), ("c", pa.null())])
    assert faults(made, Source(unknown, NO_ROWS), m=wanted) == []
    typed = pa.schema([("a", pa.string()), ("b", pa.null()), ("c", pa.null())])
    assert faults(made, Source(typed, NO_ROWS), m=wanted) == [
        "spec.pipeline[0].inputs.x: found utf8 [rows], and the model takes float32; a numeric column"
    ]


def test_what_a_stage_before_gives_is_checked_as_the_source_is() -> None:
    made = job(onnx("a", {"x": "source.a"}), onnx("b", {"x": "a.y"}))
    first = model({"x": spec("float32")}, y=spec("float64", 4))
    second = model({"x": spec("float32", 5)})
    assert faults(made, source(a=pa.float32()), a=first, b=second) == [
        "spec.pipeline[1].inputs.x: found float64 [rows, 4], and the model takes float32: values could change; "
        "spec.pipeline[1].cast.x: {dtype: float32} to accept that",
        "spec.pipeline[1].inputs.x: found float64 [rows, 4], and the model takes float32 [rows, 5]; "
        "columns of that shape",
    ]
    assert faults(made, source(a=pa.float32()), b=second) == []


def test_a_python_stage_takes_any_array_and_arrow_takes_any_column() -> None:
    columns = {"t": pa.string(), "s": pa.struct([("a", pa.int8())])}
    arrays = job(python("a", {"t": "source.t", "s": "source.s"}))
    arrow = job(python("a", {"t": "source.t", "s": "source.s"}, batch={"as": "arrow"}))
    assert [fault.split(":")[0] for fault in faults(arrays, source(**columns), a=UNKNOWN)] == [
        "spec.pipeline[0].inputs.s"
    ]
    assert faults(arrow, source(**columns), a=UNKNOWN) == []


def test_a_stage_that_takes_arrow_has_neither_lists_nor_casts() -> None:
    made = job(python("a", {"x": ["source.a"], "y": "source.a"}, batch={"as": "arrow"}, cast={"y": {"dtype": "int8"}}))
    assert faults(made, source(a=pa.int64()), a=UNKNOWN) == [
        "spec.pipeline[0].inputs.x: a list of columns; one column for each input: batch.as is arrow",
        "spec.pipeline[0].cast.y: a cast; none: a stage that takes Arrow gets columns as they are",
    ]


def test_faults_of_different_kinds_are_found_together() -> None:
    made = job(
        onnx("m", {"x": "source.a", "z": "source.b"}),
        onnx("n", {"x": "m.q"}),
        columns={"o": "source.o", "y": "n.y"},
    )
    probes = {"m": model({"x": spec("int8"), "w": spec("int8")}), "n": model({"x": spec("utf8")})}
    assert [fault.split(": ")[0] for fault in faults(made, source(a=pa.float32()), **probes)] == [
        "spec.pipeline[0].inputs.z",
        "spec.pipeline[1].inputs.x",
        "spec.sink.columns.o",
        "spec.pipeline[0].inputs.z",
        "spec.pipeline[0].inputs",
        "spec.pipeline[0].inputs.x",
    ]


def test_what_is_not_known_is_not_a_fault() -> None:
    made = job(onnx("m", {"x": "source.a"}), python("p", {"x": "m.q"}))
    assert faults(made, None) == []
    assert faults(made, source(a=pa.struct([("b", pa.int8())])), p=UNKNOWN)[0].startswith("spec.pipeline[0].inputs.x")


# ---------------------------------------------------------------- the rest


def test_probes_travel_as_json() -> None:
    probes = {"a": UNKNOWN, "b": model({"x": spec("float32", 3, None), "z": TensorSpec(None, None)})}
    assert probes_from_json(probes_to_json(probes)) == probes
    assert probes_from_json("") == {}
    for text in ("[]", "{", json.dumps({"a": {"inputs": 3, "outputs": None}}), json.dumps({"a": {}})):
        with pytest.raises(BadJob):
            probes_from_json(text)


def test_only_linux_runs_jobs() -> None:
    check_system("linux")
    with pytest.raises(BadJob, match="machine: found darwin; Linux"):
        check_system("darwin")
