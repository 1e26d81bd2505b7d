"""`onCorrupt: reject` at the level of the command: what can't be read is listed with its reason; the rest is done."""

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.run_fixture import Ran, Site

pytestmark = pytest.mark.slow

GROUP = 500
ROWS = 4 * GROUP


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def damage(path: Path, group: int) -> None:
    """Overwrites the end of a row group's data; size and modification time stay."""
    status = path.stat()
    column = pq.ParquetFile(path).metadata.row_group(group).column(0)
    begin = min(at for at in (column.dictionary_page_offset, column.data_page_offset) if at)
    with open(path, "r+b") as file:
        file.seek(begin + column.total_compressed_size - 64)
        file.write(b"\xff" * 64)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def rejects(site: Site, target: str = "out") -> dict[str, Any]:
    """What `headrace rejects` says."""
    ran = site.headrace("rejects", target, "--state", str(site.state), "-o", "json")
    assert ran.code == 0, ran.text
    return ran.document


def corrupt(site: Site) -> list[tuple[str, int, int, str]]:
    """File, range and unit of what `headrace rejects` lists as unreadable."""
    return [(Path(part["path"]).name, part["begin"], part["end"], part["unit"]) for part in rejects(site)["corrupt"]]


def xs(site: Site) -> list[int]:
    """The x of all rows that came out, in order."""
    found: list[int] = site.rows()["x"].to_pylist()
    assert site.rows()["y"].to_pylist() == [2 * x for x in found]
    return found


def failure(ran: Ran) -> tuple[str, str]:
    """Reason and message of a failed job."""
    assert ran.code == 1, ran.text
    [failed] = [found for found in ran.document["conditions"] if found["type"] == "Failed" and found["status"]]
    return failed["reason"], failed["message"]


def test_a_damaged_row_group_is_listed_and_its_rows_are_counted(site: Site) -> None:
    path = site.parquet("in.parquet", {"x": range(ROWS)}, row_group_size=GROUP, compression="zstd")
    damage(path, 2)
    job = site.job(
        source={"format": "parquet", "uri": "in.parquet", "onCorrupt": "reject"}, errors={"maxRejected": GROUP}
    )

    done = site.run_complete(job)

    assert (done["rows_out"], done["rows_rejected"], done["rows_corrupt"]) == (ROWS - GROUP, 0, GROUP)
    assert done["progress"] == f"{ROWS}/{ROWS}"
    assert xs(site) == [x for x in range(ROWS) if not 2 * GROUP <= x < 3 * GROUP]
    assert corrupt(site) == [("in.parquet", 1000, 1500, "row")]
    found = site.verify()
    assert (found["units"], found["rows_read"], found["corrupt_total"]) == (ROWS, ROWS - GROUP, 1)
    assert "row group 2 (rows 1000 to 1500)" in found["corrupt"][0]


def test_corrupt_rows_spend_the_budget_of_rejects(site: Site) -> None:
    path = site.parquet("in.parquet", {"x": range(ROWS)}, row_group_size=GROUP, compression="zstd")
    damage(path, 2)
    source = {"format": "parquet", "uri": "in.parquet", "onCorrupt": "reject"}
    reason, message = failure(site.run(site.job(source=source, errors={"maxRejected": GROUP - 1})))
    assert reason == "ErrorBudgetExceeded"
    assert "500 rows were rejected, errors.maxRejected allows 499" in message
    assert "rows 1000 to 1500" in message
    site.run_complete(site.job(source=source, errors={"maxRejected": "25%"}))
    assert corrupt(site) == [("in.parquet", 1000, 1500, "row")]


def test_files_that_are_no_parquet_are_listed_among_good_ones(site: Site) -> None:
    site.write("in/a.parquet", b"")
    site.parquet("in/b.parquet", {"x": range(100)})
    site.write("in/c.parquet", b"x,y\n1,2\n" * 100)
    whole = site.parquet("in/d.parquet", {"x": range(100, 200)}).read_bytes()
    site.write("in/e.parquet", whole[: len(whole) // 2])
    source = {"format": "parquet", "uri": "in", "onCorrupt": "reject"}

    done = site.run_complete(site.job(source=source, errors={"maxRejected": 200}))

    assert (done["rows_out"], done["rows_corrupt"], done["files"]) == (200, 3, 5)
    assert done["parts_lost"] == 3
    assert 40 <= done["rows_lost"] <= 200  # 800 bytes and the half of a file like the others
    assert xs(site) == list(range(200))
    assert corrupt(site) == [(f"{name}.parquet", 0, 1, "row") for name in "ace"]
    assert site.verify()["input_files"] == 5


def test_files_that_are_lost_spend_the_budget_by_their_bytes(site: Site) -> None:
    for i in range(8):
        path = site.parquet(f"in/{i}.parquet", {"x": range(i * ROWS, i * ROWS + ROWS)}, row_group_size=GROUP)
        if i >= 3:
            whole = path.read_bytes()
            path.write_bytes(whole[:-4] + b"torn")
    source = {"format": "parquet", "uri": "in", "onCorrupt": "reject"}
    reason, message = failure(site.run(site.job(source=source)))
    assert reason == "ErrorBudgetExceeded"
    assert "errors.maxRejected allows 0.1000%; about " in message
    assert re.search(r"about [\d,]+ of them were in \d files? that can't be read", message)

    job = site.job(source=source, errors={"maxRejected": "64%"})
    ran = site.headrace("run", str(job), "--state", str(site.state))
    assert ran.code == 0, ran.text
    found = re.search(r"corrupt about ([\d,]+) rows of 5 files can't be read", ran.text)
    assert found, ran.text
    assert 9_500 <= int(found[1].replace(",", "")) <= 10_500
    assert site.verify()["corrupt_total"] == 5


def test_where_no_file_can_be_read_there_is_no_job(site: Site) -> None:
    for name in "ab":
        site.write(f"in/{name}.parquet", b"nothing of the kind")
    ran = site.run(site.job(source={"format": "parquet", "uri": "in", "onCorrupt": "reject"}))
    assert ran.code == 42, ran.text
    assert "a.parquet: can't be read" in ran.stderr
    assert "b.parquet: can't be read" in ran.stderr


def test_a_compressed_csv_that_is_cut_gives_no_rows_and_is_one_range(site: Site) -> None:
    lines = [f"{x}\n" for x in range(60_000)]
    site.write("in/a.csv.gz", gzip.compress("".join(["x\n", *lines[:30_000]]).encode()))
    body = gzip.compress("".join(["x\n", *lines[30_000:]]).encode())
    cut = site.write("in/b.csv.gz", body[: len(body) // 2])
    source = {"format": "csv", "uri": "in/*.csv.gz", "onCorrupt": "reject"}

    reason, message = failure(site.run(site.job(source=source, errors={"maxRejected": 10_000})))
    assert reason == "ErrorBudgetExceeded"
    assert "of them were in 1 range that can't be read" in message

    done = site.run_complete(site.job(source=source, errors={"maxRejected": "50%"}))

    assert (done["rows_out"], done["rows_corrupt"], done["parts_lost"]) == (30_000, 1, 1)
    assert 12_000 <= done["rows_lost"] <= 18_000
    assert xs(site) == list(range(30_000))
    assert corrupt(site) == [("b.csv.gz", 0, cut.stat().st_size, "byte")]
    assert site.verify()["corrupt_total"] == 1


def test_garbage_between_json_lines_is_rejected_line_by_line(site: Site) -> None:
    lines = [json.dumps({"x": x}) for x in range(1000)]
    lines[300] = "\x00\xff garbage"
    lines[301] = '{"x": 301'
    site.write("in.jsonl", "\n".join(lines).encode("latin-1") + b"\n")
    source = {"format": "jsonl", "uri": "in.jsonl", "onCorrupt": "reject"}

    done = site.run_complete(site.job(source=source, errors={"maxRejected": 2}))

    assert (done["rows_out"], done["rows_rejected"], done["rows_corrupt"]) == (998, 2, 0)
    assert xs(site) == [x for x in range(1000) if x not in (300, 301)]
    assert [(group["class"], group["rows"]) for group in rejects(site)["groups"]] == [("BadRecord", 2)]
    site.verify()


def test_an_arrow_stream_that_is_cut_gives_the_rows_before(site: Site) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("x", pa.int64())])) as writer:
        for first in range(0, 1000, 100):
            writer.write_batch(pa.record_batch({"x": list(range(first, first + 100))}))
    whole = sink.getvalue().to_pybytes()
    site.write("in.arrows", whole[: len(whole) * 2 // 3])
    source = {"format": "arrow", "uri": "in.arrows", "onCorrupt": "reject"}

    done = site.run_complete(site.job(source=source, errors={"maxRejected": 1}))

    assert done["rows_corrupt"] == 1
    assert 500 <= done["rows_out"] < 1000
    assert xs(site) == list(range(done["rows_out"]))
    assert corrupt(site) == [("in.arrows", done["rows_out"], done["rows_out"] + 1, "row")]
    site.verify()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_no_corrupt_one(site: Site) -> None:
    site.parquet("in/a.parquet", {"x": range(100)})
    site.parquet("in/b.parquet", {"x": range(100)}).chmod(0)
    ran = site.run(site.job(source={"format": "parquet", "uri": "in", "onCorrupt": "reject"}))
    assert ran.code == 42, ran.text
    assert "permission denied" in ran.stderr


def test_a_limit_counts_a_file_that_cannot_be_read_as_planned(site: Site) -> None:
    site.write("in/a.parquet", b"no Parquet")
    site.parquet("in/b.parquet", {"x": range(1000)})
    source = {"format": "parquet", "uri": "in", "onCorrupt": "reject"}
    done = site.run_complete(site.job(source=source, errors={"maxRejected": 1}), "--limit", "100")
    assert (done["rows_out"], done["rows_corrupt"], done["progress"]) == (99, 1, "100/100")
    assert xs(site) == list(range(99))
    site.verify()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_text_whose_first_files_are_damaged_is_planned_by_the_others(site: Site, form: str) -> None:
    for i in range(4):
        site.write(f"in/{i}.{form}.gz", b"not compressed at all")
    text = (
        "x\n" + "".join(f"{x}\n" for x in range(100))
        if form == "csv"
        else "".join(f'{{"x":{x}}}\n' for x in range(100))
    )
    site.write(f"in/5.{form}.gz", gzip.compress(text.encode()))
    source = {"format": form, "uri": f"in/*.{form}.gz", "onCorrupt": "reject"}
    done = site.run_complete(site.job(source=source, errors={"maxRejected": 100}), "--limit", "50")
    assert (done["rows_out"], done["rows_corrupt"]) == (50, 4)
    assert xs(site) == list(range(50))
    assert [path for path, *_ in corrupt(site)] == [f"{i}.{form}.gz" for i in range(4)]
    site.verify()


def test_damage_does_not_hide_behind_several_workers(site: Site) -> None:
    for i in range(6):
        path = site.parquet(
            f"in/{i}.parquet", {"x": range(i * ROWS, i * ROWS + ROWS)}, row_group_size=GROUP, compression="zstd"
        )
        damage(path, i % 4)
    source = {"format": "parquet", "uri": "in", "onCorrupt": "reject"}
    done = site.run_complete(site.job(source=source, errors={"maxRejected": "25%"}), "--workers", "2")
    assert (done["rows_out"], done["rows_corrupt"]) == (6 * (ROWS - GROUP), 6 * GROUP)
    lost = {i * ROWS + i % 4 * GROUP + row for i in range(6) for row in range(GROUP)}
    assert sorted(xs(site)) == sorted(set(range(6 * ROWS)) - lost)
    site.verify()
