"""The floating-point types that state tensors are stored in, by the names that configurations use."""

from __future__ import annotations

import math
from typing import Literal

import torch

from quantizers.table import TableStats

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


def codebook_dtype_for(stats: TableStats, *, smallest: float = 1e-4) -> Literal["float32", "float16"]:
    """``float16`` unless the table's values are so small or large that it would round or clip them visibly.

    Rounding a codeword to float16 costs nothing that can be measured (relative 2**-11), and the bytes saved buy codes.

    Args:
        stats: spectrum of the table.
        smallest: standard deviation of the values down to which float16 will do.
    """
    deviation = math.sqrt(max(0.0, float(stats.eigenvalues.mean())))
    return "float16" if smallest <= deviation <= 1e3 else "float32"
