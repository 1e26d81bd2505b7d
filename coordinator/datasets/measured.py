"""What planning finds out about each file, whatever the format, and how that becomes a Dataset."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coordinator.datasets.listing import InputFile
from headrace.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Measured:
    """The input's files with their lengths.

    Shapes: `units` is int64, one entry per file; `cuts` are dataset units, sorted and unique.
    """

    unit: str  # row | byte | file
    files: Sequence[InputFile]
    units: npt.NDArray[np.int64]
    cuts: npt.NDArray[np.int64]
    divisible: bool
    bytes_total: int
    rows_total: int | None
    schema: pa.Schema  # the columns inside of the files
    rows_estimated: bool = False
    limit_path: str = ""  # a compressed file of which only `limit_rows` rows count
    limit_rows: int | None = None

    def dataset(self) -> Dataset:
        """The files laid end to end."""
        return Dataset(
            unit=self.unit,
            paths=tuple(file.path for file in self.files),
            sizes=np.array([file.size for file in self.files], np.int64),
            versions=tuple(file.version for file in self.files),
            origins=origins(self.units),
            cuts=self.cuts,
            divisible=self.divisible,
            bytes_total=self.bytes_total,
            rows_total=self.rows_total,
            rows_estimated=self.rows_estimated,
        )


def origins(units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The dataset unit at which each file begins, and the end: int64 ``[files + 1]``."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(units, dtype=np.int64)])


def first_units(units: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """The files' units when only the first `limit` of all count, without the files that nothing is left of."""
    kept = np.clip(limit - origins(units)[:-1], 0, units)
    return kept[: int(np.searchsorted(origins(units)[:-1], limit))] if limit < int(units.sum()) else units
