"""Rows that a state is learned on, where it is learned on some of them.

Shapes: N rows, D columns, n rows drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRAIN_ROWS = 1 << 16
ROWS_A_WORD = 256


def default_rows(codebook_size: int) -> int:
    """Rows that k-means needs for codebooks of K codewords: 65,536, or 256 for each codeword where that is more."""
    return max(TRAIN_ROWS, ROWS_A_WORD * codebook_size)


def draw(x: Tensor, weights: Tensor | None, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Rows of ``x`` (N, D) at random without repetition, and their weights: (n, D) and (n,), n at most ``most``.

    Where there are no more, they are ``x`` and ``weights`` themselves, in their order.
    """
    rows = draw_rows(x, most, generator)
    if rows is None:
        return x, weights
    return x[rows], None if weights is None else weights[rows]


def draw_rows(x: Tensor, most: int, generator: torch.Generator) -> Tensor | None:
    """The numbers of the rows of :func:`draw`, (n,) int64; None for all."""
    return None if len(x) <= most else torch.randperm(len(x), generator=generator)[:most].to(x.device)
