"""What every table that was compressed is measured by, and the processor's time of it.

Shapes: N rows, D columns, B rows looked up.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH = 4096
_BATCHES, _SINGLES = 9, 51


@dataclasses.dataclass
class Found:
    """A table compressed and rebuilt. Seconds are the processor's, of all threads together.

    Attributes:
        configuration: for people.
        payload_bytes: all that is needed to rebuild the rows.
        rebuilt: (N, D) float32.
        fit_seconds: of all that comes before the first look-up, the encoding of all rows too.
        batch_ms: milliseconds of a look-up of 4,096 random rows, the median.
        row_ms: of one row.
    """

    configuration: str
    payload_bytes: int
    rebuilt: np.ndarray
    fit_seconds: float
    batch_ms: float
    row_ms: float


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor, and what ``function`` gives."""
    begin = time.process_time()
    found = function()
    return time.process_time() - begin, found


def look_up_milliseconds(look_up: Callable[[np.ndarray], Any], rows: int) -> tuple[float, float]:
    """Milliseconds of 4,096 random rows and of one, medians of the processor's.

    Args:
        look_up: of row numbers (B,) int64; it is called once before it is measured.
        rows: N.
    """
    random, medians = np.random.default_rng(0), []
    for count, repeats in ((BATCH, _BATCHES), (1, _SINGLES)):
        asked = random.integers(rows, size=(repeats + 1, count))
        look_up(asked[0])
        medians.append(1000 * statistics.median(timed(functools.partial(look_up, ids))[0] for ids in asked[1:]))
    return medians[0], medians[1]
