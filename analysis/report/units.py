"""Sizes in one unit for a whole report, so that any two can be compared by their digits. MB = 10^6 bytes."""

from __future__ import annotations

import dataclasses
import math

import pyarrow as pa
import pyarrow.compute as pc

from analysis import text

_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "KB"))


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of sizes.

    Attributes:
        num_bytes: what 1 of it is.
        name: ``KB``, ``MB``, ``GB`` or ``B``.
    """

    num_bytes: int
    name: str

    def __call__(self, num_bytes: float | None, *, short: bool = False) -> str:
        """A size with three significant digits: ``1,234 KB``; ``short`` leaves out zeros at the end. Nothing for None."""
        if num_bytes is None or not math.isfinite(num_bytes):
            return ""
        number = text.ratio(num_bytes / self.num_bytes, short=short).removeprefix("×")
        return f"{number} {self.name}"


def unit_of(trials: pa.Table) -> Unit:
    """The largest unit in which a middling size is 1 at least: half-way, in powers, from the smallest to the largest."""
    sizes = [
        size
        for name in ("payload_bytes", "dense_bytes")
        for size in pc.min_max(trials[name]).as_py().values()
        if size is not None and size > 0
    ]
    middling = math.sqrt(min(sizes) * max(sizes)) if sizes else 0.0
    return next((Unit(*unit) for unit in _UNITS if middling >= unit[0]), Unit(1, "B"))
