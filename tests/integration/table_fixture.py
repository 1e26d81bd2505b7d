"""One table with the values that files like to spoil, in every format."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

FORMATS = ("parquet", "arrow", "csv", "jsonl")

TABLE = pa.table(
    {
        "x": pa.array([3, 1, 4, -1, 5, -9, 2, 6], pa.int64()),
        "f": pa.array([0.5, -1.25, 1e300, 3.0, -0.0, 1e-7, 2.5, 1 / 3], pa.float64()),
        "b": pa.array([True, False, None, True, False, True, None, False]),
        "s": pa.array(["plain", 'with "quotes", commas', None, "", "zwei\nZeilen", "日本語 ☃", " spaces ", "null"]),
    }
)
TYPES = {"x": "int64", "f": "float64", "b": "bool", "s": "string", "y": "int64"}
COLUMNS = {"x": "source.x", "f": "source.f", "b": "source.b", "s": "source.s", "y": "double.y"}
EXPECTED = TABLE.append_column("y", pa.array([2 * x for x in TABLE["x"].to_pylist()], pa.int64()))


def write(path: Path, table: pa.Table) -> Path:
    """Writes a table in the format that the name's ending says."""
    match path.name.split(".")[1:]:
        case ["parquet"]:
            pq.write_table(table, path)
        case ["arrow"]:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        case ["csv", *_]:
            with pa.CompressedOutputStream(path, codec(path)) if codec(path) else pa.OSFile(str(path), "wb") as out:
                pa_csv.write_csv(table, out)
        case ["jsonl", *_]:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()).encode()
            with pa.CompressedOutputStream(path, codec(path)) if codec(path) else pa.OSFile(str(path), "wb") as out:
                out.write(text)
    return path


def codec(path: Path) -> str | None:
    return {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)


def read(paths: list[Path], schema: pa.Schema) -> pa.Table:
    """The rows of output files, as plain pyarrow reads them where the format doesn't say the types."""
    tables = []
    for path in paths:
        match path.suffix:
            case ".parquet":
                tables.append(pq.read_table(path))
            case ".arrow":
                tables.append(pa.ipc.open_file(path).read_all())
            case ".csv":
                options = pa_csv.ConvertOptions(
                    column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
                )
                parse = pa_csv.ParseOptions(newlines_in_values=True)
                tables.append(pa_csv.read_csv(path, convert_options=options, parse_options=parse))
            case ".jsonl":
                rows = [json.loads(line) for line in path.read_text().split("\n") if line]
                tables.append(pa.Table.from_pylist(rows, schema=schema))
    return pa.concat_tables(tables).cast(schema)


def expected_of(source: str) -> list[dict[str, Any]]:
    """The rows of EXPECTED as they come from a file: CSV has no null text, an empty field is empty text."""
    rows: list[dict[str, Any]] = EXPECTED.to_pylist()
    return [row | {"s": row["s"] or ""} for row in rows] if source == "csv" else rows


def source_of(kind: str, uri: str) -> dict[str, Any]:
    """CSV that says what a plain reader could only guess."""
    types = {name: TYPES[name] for name in TABLE.schema.names}
    return {"format": kind, "uri": uri} | ({"csv": {"types": types}} if kind == "csv" else {})
