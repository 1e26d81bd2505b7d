"""`headrace run` with outputs whose shape or type changes on the way."""

from pathlib import Path

import pyarrow as pa
import pytest

from tests.integration.run_fixture import Site

pytestmark = pytest.mark.slow

PARQUET = {"format": "parquet", "uri": "in.parquet"}

STAGE = """
import numpy as np

class Odd:
    def __call__(self, batch):
        x = batch["x"]
        if (x == 0).any():
            raise ValueError("zero")
        return {"y": x, "_error": ["odd one"] * len(x)}

class Changing:
    def __call__(self, batch):
        x = batch["x"]
        return {"y": x.astype("int64") if (x < 2000).all() else x.astype("float64")}


class Shapes:
    # Rows of lists, of one shape in some batches; fixed-size lists of another size from x = 8 on; None for a batch.

    def __call__(self, batch):
        x = batch["x"].astype(int)
        return {
            "lists": [[int(i)] * (int(i) % 3 if i >= 4 else 2) for i in x],
            "fixed": np.zeros((len(x), 3 if x[0] < 8 else 5)),
            "seldom": [None if i < 8 else i / 2 for i in x.tolist()],
        }
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.write("stage.py", STAGE)
    return made


def test_an_output_axis_that_the_model_leaves_open_becomes_lists(site: Site) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 1])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", "width"])
    # As wide as the batch is long: each batch but the last has another width than it.
    nodes = [
        helper.make_node("Transpose", ["x"], ["row"], perm=[1, 0]),
        helper.make_node("Add", ["x", "row"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "outer", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), site.folder / "m.onnx"
    )
    site.parquet("in.parquet", {"x": pa.array(range(10), pa.float32())})
    stage = {"name": "outer", "onnx": "m.onnx", "inputs": {"x": ["source.x"]}, "batch": {"rows": 4}}
    job = site.job(source=PARQUET, pipeline=[stage], sink={"columns": {"x": "source.x", "y": "outer.y"}})

    site.run_complete(job)

    site.verify()
    assert site.rows().schema.field("y").type == pa.list_(pa.float32())
    expected = [
        [float(i + j) for j in range(begin, min(begin + 4, 10))] for begin in (0, 4, 8) for i in range(begin, begin + 4)
    ]
    assert site.rows()["y"].to_pylist() == expected[:10]


def test_a_batch_of_which_nothing_is_left_after_halving_is_rejected_row_by_row(site: Site) -> None:
    site.parquet("in.parquet", {"x": [0.0, 1.0, 2.0, 3.0]})
    job = site.job(
        source=PARQUET,
        pipeline=[{"name": "odd", "python": "stage:Odd", "inputs": {"x": "source.x"}}],
        sink={"columns": {"y": "odd.y"}},
        errors={"maxRejected": "100%"},
    )

    done = site.run_complete(job)

    assert (done["rows_out"], done["rows_rejected"]) == (0, 4)
    assert [(row["x"], row["_message"]) for row in site.rejects()] == [
        (0.0, "zero"), (1.0, "odd one"), (2.0, "odd one"), (3.0, "odd one"),
    ]  # fmt: skip


def test_a_stage_that_changes_its_mind_about_a_type_fails_the_job_by_name(site: Site) -> None:
    site.parquet("in.parquet", {"x": [float(i) for i in range(4000)]})
    job = site.job(
        source=PARQUET,
        pipeline=[{"name": "changing", "python": "stage:Changing", "inputs": {"x": "source.x"}}],
        sink={"columns": {"y": "changing.y"}},
    )

    ran = site.run(job)

    assert ran.code == 1
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed"]
    assert failed["reason"] == "SchemaMismatch"
    assert "'y'" in failed["message"]
    assert "Traceback" not in ran.stderr


def shapes_job(site: Site, *outputs: str) -> Path:
    site.parquet("in.parquet", {"x": [float(i) for i in range(14)]})
    stage = {"name": "shapes", "python": "stage:Shapes", "inputs": {"x": "source.x"}, "batch": {"rows": 4}}
    columns = {"x": "source.x"} | {output: f"shapes.{output}" for output in outputs}
    return site.job(source=PARQUET, pipeline=[stage], sink={"columns": columns})


def test_rows_of_any_length_are_lists_also_where_a_batch_has_one_shape(site: Site) -> None:
    site.run_complete(shapes_job(site, "lists"))
    site.verify()
    assert site.rows().schema.field("lists").type == pa.list_(pa.int64())
    assert site.rows()["lists"].to_pylist() == [[i] * (i % 3 if i >= 4 else 2) for i in range(14)]


def test_a_shape_that_changes_between_batches_fails_the_job_and_says_what_to_do(site: Site) -> None:
    ran = site.run(shapes_job(site, "fixed"))
    assert ran.code == 1
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed"]
    assert failed["reason"] == "SchemaMismatch"
    told = "stage 'shapes': output 'fixed' has rows of shape [5], in the batches before they were [3]. Return a list of"
    assert failed["message"].startswith((told, told.replace("[5]", "[?]").replace("[3]", "[5]").replace("[?]", "[3]")))


def test_batches_of_none_have_the_type_of_the_others(site: Site) -> None:
    site.run_complete(shapes_job(site, "seldom"))
    site.verify()
    assert site.rows().schema.field("seldom").type == pa.float64()
    assert site.rows()["seldom"].to_pylist() == [None if i < 8 else i / 2 for i in range(14)]
