"""The state machine of dependent quantization: which of two quantizers a column has, by the columns before it.

Papers: Ungerboeck, "Channel coding with multilevel/phase signals" (IEEE Trans. Inf. Theory 1982), table I, whose codes for
amplitude modulation these are; Marcellin & Fischer 1990 for quantization with them.

With the parity-check polynomials h0 and h1 the state s has one bit for each delay, and s = 0 before the first column. Its
lowest bit q says which quantizer the column has, and with p the parity of the column's symbol the next state is
(s >> 1) xor q * (h0 >> 1) xor p * (h1 >> 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

# States -> (h0, h1).
POLYNOMIALS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10), 64: (0o103, 0o24)}


def flips(states: int) -> list[int]:
    """What the shifted state is combined with (by exclusive or): the entry 2 * q + p."""
    h0, h1 = (polynomial >> 1 for polynomial in POLYNOMIALS[states])
    return [0, h1, h0, h0 ^ h1]


def transitions(states: int) -> tuple[Tensor, Tensor]:
    """Where each state comes from: the two states before it, and the branch 2 * q + p from each, both (2, states) int64."""
    before: list[list[tuple[int, int]]] = [[] for _ in range(states)]
    for state in range(states):
        for parity in (0, 1):
            branch = 2 * (state & 1) + parity
            before[state >> 1 ^ flips(states)[branch]].append((state, branch))
    return torch.tensor(before).permute(2, 1, 0).contiguous().unbind(0)  # type: ignore[return-value]
