"""Vectors in whole numbers of 8 bits, with a factor for each vector or for each of its blocks.

Shapes: D columns, M blocks of columns as of ``numpy.array_split``: the first D mod M are a column wider than the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 127


def to_int8(
    vectors: Tensor, *, factor_dtype: torch.dtype = torch.float32, blocks: int | None = None
) -> tuple[Tensor, Tensor]:
    """Vectors as whole numbers and factors: the largest value that a factor is for becomes 127 or -127.

    Whole numbers are of the factors as stored. A float16 factor is rounded up, so that no value is cut off, and ends at the
    type's largest; a vector of zeros has the factor 0. What was read by :func:`from_int8` becomes the same again, unless a
    float16 factor is below 2**-14, where the type has fewer digits.

    Args:
        vectors: (.., D), floating-point.
        factor_dtype: float32 or float16.
        blocks: M, how many factors a vector has; None for one.

    Returns:
        (.., D) int8, and factors (..), or (.., M) where ``blocks`` are given.
    """
    parts = [vectors] if blocks is None else vectors.tensor_split(blocks, dim=-1)
    peaks = torch.stack([part.abs().amax(dim=-1) for part in parts], dim=-1) / _LARGEST
    factors = peaks.clamp(max=torch.finfo(factor_dtype).max).to(factor_dtype)
    if factor_dtype == torch.float16:
        above = (factors.view(torch.int16) + 1).view(torch.float16)  # the next larger one
        factors = torch.where((factors.to(peaks.dtype) < peaks) & above.isfinite(), above, factors)
    factors = factors[..., 0] if blocks is None else factors
    divisors = _wide(factors, vectors.shape).to(vectors.dtype).clamp_min(torch.finfo(torch.float32).tiny)
    whole = (vectors / divisors).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
    return whole, factors


def from_int8(whole: Tensor, factors: Tensor) -> Tensor:
    """Undo :func:`to_int8` nearly: (.., D) int8 and factors (..) or (.., M) -> (.., D) float32.

    A product of a float16 factor is exact: it is the same on every machine.
    """
    return whole.to(torch.float32) * _wide(factors, whole.shape)


def to_int8_like(vectors: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`to_int8` with factors of the type and the blocks that ``factors`` have."""
    blocks = factors.shape[-1] if factors.ndim == vectors.ndim else None
    return to_int8(vectors, factor_dtype=factors.dtype, blocks=blocks)


def _wide(factors: Tensor, shape: torch.Size) -> Tensor:
    """Factors as float32, such that they can be multiplied with vectors of ``shape``."""
    factors = factors.to(torch.float32)
    if factors.ndim < len(shape):
        return factors[..., None]
    widths = [len(part) for part in torch.arange(shape[-1]).tensor_split(factors.shape[-1])]
    return factors.repeat_interleave(torch.tensor(widths, device=factors.device), dim=-1)
