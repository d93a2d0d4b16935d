"""Rows that are encoded some at a time, put together without a second copy of what comes out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def joined(parts: Iterable[Tensor], count: int) -> Tensor:
    """Consecutive rows as one tensor: parts (n, ...), ``count`` rows in all."""
    out: Tensor | None = None
    begin = 0
    for part in parts:
        if out is None:
            out = torch.empty((count, *part.shape[1:]), dtype=part.dtype, device=part.device)
        out[begin : begin + len(part)] = part
        begin += len(part)
    if out is None or begin != count:
        raise ValueError(f"{begin} of {count} rows")
    return out
