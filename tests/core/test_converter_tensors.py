"""What the stages want of the source, each wish once."""

from headrace.local.messages import ARROW_INPUT
from headrace.program import Cast, Program, Ref, SinkProgram, SourceProgram, StageInput, StageProgram
from sidecar.converter import SourceTensor, source_tensors, stage_parts


def wanted(name: str, *refs: Ref, stacked: bool = False, cast: Cast | None = None) -> StageInput:
    return StageInput(name, refs, stacked=stacked, cast=cast or Cast())


def stage(name: str, *inputs: StageInput, as_arrow: bool = False) -> StageProgram:
    return StageProgram(name, "python", "m:C", inputs, as_arrow=as_arrow)


def program(*stages: StageProgram) -> Program:
    return Program("job", "uid", SourceProgram("parquet", (), ""), stages, SinkProgram("parquet", "/out", ()))


A, B, EARLIER = Ref("source", "a"), Ref("source", "b"), Ref("first", "y")


def described(tensor: SourceTensor) -> tuple[tuple[str, ...], bool, Cast, bool]:
    return (tensor.columns, tensor.stacked, tensor.cast, tensor.ipc)


def test_equal_wishes_of_two_stages_are_one_tensor() -> None:
    stacked = wanted("x", A, B, stacked=True)
    other = wanted("other", A, B, stacked=True)
    tensors = source_tensors(program(stage("first", stacked), stage("second", other, wanted("z", A))))
    assert [described(tensor) for tensor in tensors] == [
        (("a", "b"), True, Cast(), False),
        (("a",), False, Cast(), False),
    ]


def test_wishes_that_differ_in_anything_are_apart() -> None:
    inputs = [
        wanted("p", A),
        wanted("q", A, stacked=True),
        wanted("r", A, cast=Cast(fill=0)),
        wanted("s", A, cast=Cast(fill=False)),
        StageInput("t", (A,), dtype="float32"),
        StageInput("u", (A,), shape=(None, 1)),
    ]
    keys = [tensor.key for tensor in source_tensors(program(stage("first", *inputs)))]
    assert len(set(keys)) == len(inputs)


def test_a_mixed_input_has_a_piece_per_reference() -> None:
    mixed = wanted("x", A, EARLIER, stacked=True, cast=Cast("float32", (2,), 0))
    (first, second) = stage_parts(stage("second", mixed))["x"]
    assert isinstance(first, SourceTensor)
    assert described(first) == (("a",), False, Cast(fill=0), False)
    assert second == EARLIER


def test_a_stage_that_takes_arrow_gets_plain_columns_in_one_stream() -> None:
    parts = stage_parts(
        stage(
            "second",
            wanted("one", A),
            wanted("two", EARLIER),
            wanted("three", B),
            wanted("four", A, stacked=True),
            wanted("five", A, cast=Cast("float32")),
            as_arrow=True,
        )
    )
    assert set(parts) == {ARROW_INPUT, "two", "four", "five"}
    (stream,) = parts[ARROW_INPUT]
    assert isinstance(stream, SourceTensor)
    assert (stream.columns, stream.names, stream.ipc) == (("a", "b"), ("one", "three"), True)
    assert parts["two"] == (EARLIER,)
    assert not any(isinstance(part, SourceTensor) and part.ipc for name in ("four", "five") for part in parts[name])


def test_a_program_of_later_stages_only_wants_nothing_of_the_source() -> None:
    assert source_tensors(program(stage("second", wanted("x", EARLIER)))) == ()
