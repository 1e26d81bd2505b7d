"""Real predictors over a real arena: what a stage is given, and what becomes of what it returns."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.local.columns import IPC, NULL, TENSOR, Column
from headrace.local.messages import ARROW_INPUT, Specs
from headrace.program import Cast
from tests.integration.predictor_fixture import DOUBLE, X, in_loop, python_stage, serving, stage_input


@in_loop
async def test_a_python_stage_turns_batches_into_batches(folder: Path) -> None:
    async with serving(python_stage(folder, DOUBLE, config='{"by": 3}'), folder) as desk:
        assert await desk.next("ready") == (0, Specs({}, None))
        np.testing.assert_array_equal((await desk.predict(0, 1, x=X))["y"], X * 3)
        desk.send(0, 2, x=X)
        desk.send(0, 3, x=X + 1)
        assert [(await desk.next("done"))[0] for _ in range(2)] == [2, 3]


@in_loop
async def test_text_bytes_and_nulls_go_in_and_out(folder: Path) -> None:
    code = """
        import numpy as np
        class Model:
            def __call__(self, batch):
                assert batch["t"].dtype == object
                return {
                    "t": [None if t is None else t.upper() for t in batch["t"]],
                    "b": np.array(list(batch["b"]), object),
                    "n": [1, None, 3],
                    "u": np.array(["a", "bc", ""]),
                    "day": np.array(["2026-11-22"] * 3, "datetime64[D]"),
                    "big": np.array([1, 2, 3], ">i4"),
                    "ok": [True, False, True],
                    "_error": [None, "too short", None],
                }
    """
    texts, data = ["ä", None, "strasse"], [b"\x00\xff\x00", b"", None]
    stage = python_stage(folder, code, stage_input("t"), stage_input("b"))
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        outputs = await desk.predict(0, 1, t=desk.put_texts(texts), b=desk.put_texts(data))
    found = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in outputs.items()}
    assert str(found.pop("day")[0]) == "2026-11-22"
    assert found == {
        "t": ["Ä", None, "STRASSE"],
        "b": data,
        "n": [1, None, 3],
        "u": ["a", "bc", ""],
        "big": [1, 2, 3],
        "ok": [True, False, True],
        "_error": [None, "too short", None],
    }


@in_loop
async def test_a_result_beyond_its_region_asks_for_space_and_is_computed_once(folder: Path) -> None:
    code = """
        import numpy as np
        class Model:
            calls = 0
            def __call__(self, batch):
                self.calls += 1
                return {"y": np.full((4, 1000), self.calls), "s": ["é" * 1000] * 4}
    """
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, 64, x=X)
        desk.send(0, 2, x=X)  # it waits behind the question
        batch, nbytes = await desk.next("space")
        assert (batch, nbytes) == (1, 32_000 + 64 + 8_000)
        assert desk.host is not None
        desk.host.give_space(0, 1, desk.region(nbytes), nbytes)
        _, columns, _ = await desk.next("done")
        assert desk.get(columns["y"]).tolist() == [[1] * 1000] * 4
        assert desk.get(columns["s"]) == ["é" * 1000] * 4
        _, columns, _ = await desk.next("done")
        assert desk.get(columns["y"])[0, 0] == 2


@in_loop
async def test_an_exception_fails_the_batch_with_the_users_frames_and_the_predictor_lives(folder: Path) -> None:
    code = """
        def inner(x):
            raise KeyError("no such token")
        class Model:
            def __call__(self, batch):
                if batch["x"][0, 0] == 0:
                    try:
                        inner(batch)
                    except KeyError as error:
                        raise ValueError("bad batch") from error
                return {"y": batch["x"]}
    """
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, x=X)
        batch, error = await desk.next("failed")
        assert (batch, error.kind, error.message) == (1, "ValueError", "bad batch")
        files = {line.split('"')[1] for line in error.traceback.splitlines() if line.startswith("  File")}
        assert files == {str(folder / "model.py")}
        assert "in inner" in error.traceback
        assert "KeyError: 'no such token'" in error.traceback
        np.testing.assert_array_equal((await desk.predict(0, 2, x=X + 1))["y"], X + 1)


@in_loop
async def test_a_result_that_is_no_batch_says_what_it_is(folder: Path) -> None:
    code = """
        import numpy as np
        RESULTS = [
            {"y": np.zeros(3)}, {"y": np.float32(1)}, [1, 2], None, {"y": np.zeros(4, complex)},
            {"y": [[1], ["a"], [], []]}, {"y": [{}, {}, {}, {}]}, {"y": "abcd"},
            {"y": np.array([["a"]] * 4)}, {1: np.zeros(4)}, {"\\ud800": np.zeros(4)}, {"y": np.zeros((4,) + (1,) * 32)},
        ]
        class Model:
            def __call__(self, batch):
                return RESULTS[int(batch["x"][0, 0])]
    """
    found = []
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        for number in range(12):
            desk.send(0, number, x=np.full((4, 1), number))
            batch, error = await desk.next("failed")
            assert batch == number
            found.append(str(error)[:57])
    assert found == [
        "WrongRows: output y has 3 rows, the batch has 4",
        "WrongRows: output y is a single value, not one per row",
        "BadOutput: the stage returned a list, not a dict of array",
        "BadOutput: the stage returned nothing, not a dict of arra",
        "BadOutput: output y: no column has dtype complex128",
        "BadOutput: output y: rows that are no lists of one type: ",
        "BadOutput: output y: no column holds objects of dict",
        "BadOutput: output y is a str, not an array",
        "BadOutput: output y: strings and objects must be of rank ",
        "BadOutput: an output's name is 1, not a string",
        "BadOutput: an output's name is no Unicode of at most 1000",
        "BadOutput: output y is of rank 33, more than 32",
    ]


@in_loop
async def test_inputs_are_read_only_and_what_is_printed_breaks_nothing(folder: Path) -> None:
    code = """
        import os, sys
        class Model:
            def __call__(self, batch):
                print("a line for the log")
                os.write(1, b"\\x00\\xffraw\\n")
                batch["x"][0] = 1
    """
    async with serving(python_stage(folder, code), folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, x=X)
        _, error = await desk.next("failed")
        assert str(error) == "ValueError: assignment destination is read-only"
        assert desk.host is not None
        desk.host.end_predictor(0)
        _, ended = await desk.next("ended")
        assert "a line for the log" in ended.stderr_tail
        assert (ended.status, ended.asked, ended.executing) == (0, True, ())


@in_loop
async def test_inputs_from_earlier_stages_are_stacked_cast_filled_and_shaped(folder: Path) -> None:
    code = """
        class Model:
            def __call__(self, batch):
                assert batch["pixels"].base is not None
                return {name: value for name, value in batch.items()}
    """
    stage = python_stage(
        folder,
        code,
        stage_input("pair", "a.u", "b.v", stacked=True, dtype="float64"),
        stage_input("one", "a.u", stacked=True),
        stage_input("pixels", "a.bytes", cast=Cast(dtype="uint8", shape=(2, 1))),
        stage_input("filled", "a.n", cast=Cast(fill=7)),
    )
    u, v = np.array([1, 2], np.float32), np.array([3, 4], np.int32)
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        holes = desk.put(np.array([1, 0], np.int64))
        valid = desk.put(np.array([True, False]))
        holes = Column(TENSOR, 2, holes.offset, 16, holes.dtype, (2,), validity_offset=valid.offset)
        data = desk.put_texts([b"\x01\x02", b"\x03\x04"])
        outputs = await desk.predict(0, 1, pair=[desk.put(u), desk.put(v)], one=u, pixels=data, filled=holes)
        assert {name: found.tolist() for name, found in outputs.items()} == {
            "pair": [[1, 3], [2, 4]],
            "one": [[1], [2]],
            "pixels": [[[1], [2]], [[3], [4]]],
            "filled": [1, 7],
        }
        assert outputs["pair"].dtype == np.float64
        short = desk.put_texts([b"\x01\x02", b"\x03"])
        desk.send(0, 2, pair=[desk.put(u), desk.put(v)], one=u, pixels=short, filled=v)
        _, error = await desk.next("failed")
        assert error.message == "input pixels: 1 bytes at row 1 of the batch, 2 expected"


@in_loop
async def test_a_cast_that_could_change_values_is_refused_by_name(folder: Path) -> None:
    stage = python_stage(folder, DOUBLE, stage_input("x", "a.x", dtype="float32"))
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, x=X.astype(np.float64))
        _, error = await desk.next("failed")
        told = "input x: the model takes float32, it is float64; say cast: {x: {dtype: float32}} if values may change"
        assert error.message == told


@in_loop
async def test_a_cast_that_the_job_asks_for_fails_only_on_values_beyond_the_target(folder: Path) -> None:
    stage = python_stage(folder, DOUBLE, stage_input("x", "a.x", cast=Cast(dtype="int8")))
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        assert (await desk.predict(0, 1, x=np.array([1.9, -1.9])))["y"].tolist() == [2, -2]
        for number, (values, told) in enumerate(
            [
                (np.array([0.0, np.nan]), "nan at row 1 of the batch is beyond int8"),
                (np.array([300.0, 0.0]), "300.0 at row 0 of the batch is beyond int8"),
                (np.array([0, 1, -129]), "-129 at row 2 of the batch is beyond int8"),
                (np.array([255], np.uint8), "255 at row 0 of the batch is beyond int8"),
            ],
            start=2,
        ):
            desk.send(0, number, x=values)
            _, error = await desk.next("failed")
            assert error.message == f"input x: {told}"


@in_loop
async def test_a_stage_that_takes_arrow_gets_one_record_batch(folder: Path) -> None:
    code = """
        import pyarrow as pa
        class Model:
            def __call__(self, batch):
                assert batch.schema.names == ["text", "vector", "label"], batch.schema
                batch.validate(full=True)
                rows = batch.to_pylist()
                return {
                    "out": [f"{r['text']} {r['vector']} {r['label']}" for r in rows],
                    "text": batch["text"],
                    "sums": pa.array([sum(rows[0]["vector"]), None]),
                }
    """
    inputs = [stage_input("text"), stage_input("vector", "a.vector"), stage_input("label", "a.label")]
    async with serving(python_stage(folder, code, *inputs, as_arrow=True), folder) as desk:
        await desk.next("ready")
        sink = pa.BufferOutputStream()
        table = pa.record_batch({"text": ["skipped", "p", None]})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_batch(table)
        data = np.frombuffer(sink.getvalue(), np.uint8)
        source = Column(IPC, 2, desk.put(data).offset, len(data), row_begin=1)
        vector, label = np.array([[1, 2], [3, 4]], np.int16), desk.put_texts(["k", None])
        desk.send(0, 1, **{ARROW_INPUT: source}, vector=vector, label=label)
        _, columns, _ = await desk.next("done")
        assert {name: desk.get(column) for name, column in columns.items()} == {
            "out": ["p [1, 2] k", "None [3, 4] None"],
            "text": ["p", None],
            "sums": [3, None],
        }


@in_loop
async def test_a_batch_of_none_reaches_a_later_stage_as_none_or_as_what_the_job_fills_in(folder: Path) -> None:
    code = """
        class Model:
            def __call__(self, batch):
                return {"is_none": [x is None for x in batch["text"]], "filled": batch["filled"]}
    """
    stage = python_stage(
        folder, code, stage_input("text", "a.t"), stage_input("filled", "a.n", cast=Cast(dtype="int8", fill=7))
    )
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        nulls = Column(NULL, 2, 0, 0)
        outputs = await desk.predict(0, 1, text=nulls, filled=nulls)
        assert {name: values.tolist() for name, values in outputs.items()} == {
            "is_none": [True, True],
            "filled": [7, 7],
        }
    stage = python_stage(folder, DOUBLE, stage_input("x", "a.x", dtype="float32"))
    async with serving(stage, folder) as desk:
        await desk.next("ready")
        desk.send(0, 1, x=Column(NULL, 2, 0, 0))
        _, error = await desk.next("failed")
        assert error.message == "input x: null at row 0 of the batch; say cast: {x: {fill: ...}}"
