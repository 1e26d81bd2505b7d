"""Types of text files' columns: what fits no given one is a bad row, what fits no inferred one ends the job."""

import gzip
import json
from pathlib import Path

import pytest

from headrace.errors import InferredWrong, InputChanged
from sidecar.reader import Cursor
from tests.integration.test_reader import Csv, Spec, bad, opened, rows, whole

HEAD = b"n,day,note\n" + b"1,2026-11-22,x\n" * 80_000
"""More than planning looks at."""


def written(path: Path, content: bytes) -> Spec:
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return Spec("csv", [str(path)], columns=["n", "day", "note"])


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            b"1.5,2026-11-23,y",
            "column 'n' was inferred to be int64 from the first rows, and here it is '1.5'; say its type in "
            "spec.source.csv.types: {n: double} takes this value, {n: int64} rejects such rows",
        ),
        (b'"many",2026-11-23,y', "here it is 'many'; say its type in spec.source.csv.types: {n: string} takes"),
        (b"99999999999999999999,2026-11-23,y", "{n: double} takes this value"),
        (b"1,soon,y", "column 'day' was inferred to be date32[day] from the first rows, and here it is 'soon'"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_a_value_that_does_not_fit_an_inferred_type_ends_the_job(
    tmp_path: Path, name: str, record: bytes, said: str
) -> None:
    spec = written(tmp_path / name, HEAD + record + b"\n" + b"1,2026-11-22,x\n" * 10)
    for by_line in (False, True):
        spec.csv = Csv(line_breaks_in_fields=not by_line)
        with pytest.raises(InferredWrong) as raised:
            whole(spec)
        assert str(raised.value).startswith(f"{tmp_path / name}, line 80002 (byte {len(HEAD)}): ")
        assert said in str(raised.value)


def test_a_value_that_does_not_fit_a_given_type_is_a_bad_row(tmp_path: Path) -> None:
    spec = written(tmp_path / "x.csv", HEAD + b"1.5,2026-11-23,y\n")
    spec.csv.types["n"] = "int64"
    blocks = whole(spec)
    assert sum(block.rows.num_rows for block in blocks) == 80_000
    assert [address for address, _ in bad(blocks)] == [len(HEAD)]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("x,1,0.5,2026-11-22,abc", "column 'n': 'abc' is no int8"),
        ("x,1,0.5,2026-11-22,300", "column 'n': '300' is no int8"),
        ("x,1,0.5,2026-13-22,3", "column 'day': '2026-13-22' is no date32[day]"),
        ("x,maybe,0.5,2026-11-22,3", "column 'flag': 'maybe' is no bool"),
        ('x,1,0.5,2026-11-22,"a ""b""\n\'c"', "column 'n': 'a \"b\"\\n\\'c' is no int8"),
        (f"x,1,0.5,2026-11-22,{'9' * 99}", f"column 'n': '{'9' * 78}… is no int8"),
    ],
)
def test_a_bad_csv_value_is_told_with_its_column_and_its_byte(tmp_path: Path, record: str, said: str) -> None:
    head = "text,flag,x,day,n\n" + "x,true,0.5,2026-11-22,1\n" * 1000
    (tmp_path / "x.csv").write_text(f"{head}{record}\nx,false,0.5,2026-11-22,1\n")
    types = {"n": "int8", "day": "date32", "flag": "bool"}
    for columns in (None, ["n", "day", "flag"]):
        spec = Spec("csv", [str(tmp_path / "x.csv")], columns=columns, csv=Csv(types=types))
        assert bad(whole(spec, columns)) == [(len(head), said)]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("n", "abc", "column 'n': \"abc\" is no int64"),
        ("n", 1.5, "column 'n': 1.5 is no int64"),
        ("n", {"a": 1}, "column 'n': {\"a\": 1} is no int64"),
        ("text", 7, "column 'text': 7 is no string"),
        ("m/s", "fast", "column 'm/s': \"fast\" is no double"),
        ("many", [1, "ä"], "column 'many': [1, \"ä\"] is no list<item: int64>"),
        ("many", [1.5], "column 'many': [1.5] is no list<item: int64>"),
        ("many", ["x" * 99], "column 'many': [\"" + "x" * 77 + "… is no list<item: int64>"),
    ],
)
def test_a_bad_json_value_is_told_with_its_column_and_its_byte(
    tmp_path: Path, name: str, value: object, said: str
) -> None:
    row = {"n": 1, "text": "x", "m/s": 0.5, "many": [1, 2], "other": 3}
    good = json.dumps(row) + "\n"
    (tmp_path / "x.jsonl").write_text(good * 50_000 + json.dumps({**row, name: value}) + "\n" + good)
    blocks = whole(Spec("jsonl", [str(tmp_path / "x.jsonl")]))
    assert bad(blocks) == [(50_000 * len(good), said)]


def test_bad_json_is_told_without_a_row_of_some_inner_piece(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n' * 100 + '{"a": tru}\n{"a": 1, "a": 2}\n')
    blocks = whole(Spec("jsonl", [str(tmp_path / "x.jsonl")]))
    assert bad(blocks) == [
        (900, "JSON parse error: Invalid value."),
        (911, "JSON parse error: Column(/a) was specified twice"),
    ]


@pytest.mark.parametrize("record", [b"1.5,2026-11-22", b"1.5,2026-11-22,x,y", b"\xff,2026-11-22,x", b"1.5,soon,x"])
def test_a_row_that_is_bad_anyhow_says_nothing_about_inferred_types(tmp_path: Path, record: bytes) -> None:
    spec = written(tmp_path / "x.csv", HEAD + record + b"\n")
    spec.csv.types["day"] = "date32"
    assert len(bad(whole(spec))) == 1


def test_a_column_that_is_not_read_may_hold_anything(tmp_path: Path) -> None:
    spec = written(tmp_path / "x.csv", HEAD + b"many,2026-11-23,y\n")
    source, dataset = opened(spec, ["day"])
    blocks = list(source.read(list(dataset.slices(0, dataset.units_total)), Cursor(0, dataset.units_total)))
    assert sum(block.rows.num_rows for block in blocks) == 80_001


def test_among_small_files_the_one_with_the_value_is_named(tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"{i}.csv").write_bytes(b"n\n1\n" if i < 5 else b"n\n2\nmany\n")
    with pytest.raises(InferredWrong, match=r"5\.csv, line 3 \(byte 4\): column 'n'.*'many'"):
        whole(Spec("csv", [str(tmp_path)]))


def test_rows_past_a_limit_say_nothing_about_types(tmp_path: Path) -> None:
    spec = written(tmp_path / "x.csv.gz", HEAD + b"many,2026-11-23,y\n")
    source, dataset = opened(spec, None, 80_000)
    blocks = list(source.read(list(dataset.slices(0, dataset.units_total)), Cursor(0, dataset.units_total)))
    assert len(rows(blocks)) == 80_000


def test_a_file_that_changed_is_said_to_have_changed(tmp_path: Path) -> None:
    spec = written(tmp_path / "x.csv", b"n,day,note\n1,2026-11-22,x\n")
    source, dataset = opened(spec)
    (tmp_path / "x.csv").write_bytes(b"n,day,note\na,2026-11-22,x\n")
    with pytest.raises(InputChanged):
        list(source.read(list(dataset.slices(0, dataset.units_total)), Cursor(0, dataset.units_total)))
