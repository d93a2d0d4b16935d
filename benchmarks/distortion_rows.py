"""The results of benchmarks/distortion.py, and the CSV file that keeps them."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

from quantizers import InputError
from quantizers.files import replacing

OURS = "ours"
CSV, LOOKUPS = "distortion.csv", "lookups.csv"


@dataclasses.dataclass(frozen=True)
class Row:
    """A result, and a row of the CSV file.

    ``nmse`` and ``curve`` are squared errors over the column-centred variance; ``share`` is of the budget; seconds and
    milliseconds are the processor's, of all threads together (:class:`timing.Found`).
    """

    table: str
    digest: str
    rows: int
    columns: int
    ratio: float
    budget_bytes: int
    whose: str
    method: str
    version: str
    seed: int
    threads: int
    configuration: str
    payload_bytes: int
    share: float
    nmse: float
    curve: float
    recall: float
    fit_seconds: float
    batch_ms: float
    row_ms: float

    @property
    def place(self) -> tuple[str, int, str, str, int, int]:
        """What there is one result of."""
        return self.digest, self.budget_bytes, self.whose, self.method, self.seed, self.threads


_READ = {"int": int, "float": float, "str": str}


def read_rows(path: Path) -> list[Row]:
    """The results in a CSV file; none where there is no file.

    Raises:
        InputError: the file holds something else.
    """
    if not path.is_file():
        return []
    fields = {field.name: _READ[str(field.type)] for field in dataclasses.fields(Row)}
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [Row(**{name: kind(line[name]) for name, kind in fields.items()}) for line in csv.DictReader(file)]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not the results of this program ({error!r}); expected: {','.join(fields)}.") from None


class Store:
    """Results that outlive a run: written whole after each."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, {row.place: row for row in read_rows(path)}

    def put(self, row: Row) -> None:
        """Keep ``row`` in place of an older one."""
        self.rows[row.place] = row
        with replacing(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
            writer.writeheader()
            # In one order, whatever was measured when, so that a change shows what changed.
            for one in sorted(self.rows.values(), key=lambda one: (one.table, -one.rows, one.ratio, one.place)):
                writer.writerow(dataclasses.asdict(one))
