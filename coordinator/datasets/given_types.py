"""Types that the job gives to CSV columns: which text can be read as them."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from headrace.arrow_types import type_from_text
from headrace.errors import Fault

TYPES_FIELD = "spec.source.csv.types"
TYPES_ALLOWED = (
    "bool, int8 to int64, uint8 to uint64, float (32 bits), double, string, binary, date32, date64, time32[s|ms], "
    "time64[us|ns], timestamp[s|ms|us|ns], timestamp[us, tz=UTC], duration[s|ms|us|ns] or decimal128(10, 2)"
)


def given_types(types: Mapping[str, str], names: Sequence[str], faults: list[Fault]) -> dict[str, pa.DataType]:
    """The types by column that the job gives and that text can be read as."""
    given = {}
    for name, text in types.items():
        field = f"{TYPES_FIELD}.{name}"
        try:
            kind = type_from_text(text)
        except ValueError as error:
            faults.append(Fault(field, str(error), f"expected {TYPES_ALLOWED}"))
        else:
            if _is_readable(kind):
                given[name] = kind
            else:
                faults.append(Fault(field, f"text can't be read as {text}", f"expected {TYPES_ALLOWED}"))
        if names and name not in names:
            faults.append(Fault(field, "there is no such column", "columns are: " + ", ".join(names)))
    return given


def _is_readable(kind: pa.DataType) -> bool:
    """Whether pyarrow makes values of the type from CSV text; of the null type there is none to be made."""
    import pyarrow.csv

    if pa.types.is_null(kind):
        return False
    try:
        pyarrow.csv.read_csv(
            pa.BufferReader(b",\n"),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, column_names=["a", "b"]),
            convert_options=pyarrow.csv.ConvertOptions(column_types={"a": kind}, include_columns=["a"]),
        )
    except pa.ArrowNotImplementedError:
        return False
    return True
