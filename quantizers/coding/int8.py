"""Vectors in whole numbers of 8 bits, each with a factor of its own."""

from __future__ import annotations

import torch
from torch import Tensor


def to_int8(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (.., D) as int8 (.., D) and float32 factors (..): the largest value of each becomes 127 or -127.

    A vector of zeros has the factor 0.
    """
    scale = (vectors.abs().amax(dim=-1) / 127).to(torch.float32)
    whole = (vectors / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None]).round().clamp(-127, 127)
    return whole.to(torch.int8), scale
