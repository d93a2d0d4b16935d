"""Rows of which some are worked on at a time, so that no second copy of them is made."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BLOCK_ROWS = 1 << 14  # of sums over rows: always the same, as sums in another order are rounded otherwise


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


class ShiftedRows:
    """The rows of a table over a scale and less a vector, made where they are read: (N, D).

    Args:
        vectors: (N, D) float32.
        scale: what they are divided by.
        shift: (D,) what is taken off then.
    """

    def __init__(self, vectors: Tensor, scale: float, shift: Tensor) -> None:
        self._vectors, self._scale, self._shift = vectors, scale, shift
        self.shape, self.device = vectors.shape, vectors.device

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return (self._vectors[rows] / self._scale).sub_(self._shift)

    def mean(self) -> Tensor:
        """Of all rows: (D,)."""
        parts = (slice(start, start + BLOCK_ROWS) for start in range(0, len(self), BLOCK_ROWS))
        return torch.stack([self[part].sum(dim=0) for part in parts]).sum(dim=0) / len(self)
