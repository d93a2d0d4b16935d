"""What a trellis-coded table is read with: step, frequency tables, reconstruction, and which table each column has.

Shapes: G classes of rows, r columns, T tables, W = 1 + the largest magnitude of any table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor

from quantizers.coding.slots import spread

LEVELS = 3  # magnitudes 1, 2, and all above have a reconstruction of their own
STATE_NAMES = ("step", "precision", "slot_bytes", "table_row", "table_of", "largest", "frequency", "shrink")


@dataclasses.dataclass(frozen=True, eq=False)
class Numbers:
    """How the symbols of each context share the numbers below 2^P. A context's symbols are 0, 1, -1, 2, -2, ..

    Attributes:
        frequency: (2T, 2W - 1) int64, of each symbol.
        symbol: (2T, 2^P) int64, whose each number is.
        index: (2T, 2^P) int64, which of its symbol's numbers each number is.
        first: (2T, 2W - 1) int64, where a symbol's numbers begin in ``numbers``.
        numbers: (2T * 2^P,) int64, context by context and symbol by symbol.
    """

    frequency: np.ndarray
    symbol: np.ndarray
    index: np.ndarray
    first: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, frequency: np.ndarray, precision: int) -> Self:
        """Of the frequencies of magnitudes (2T, W)."""
        both = np.repeat(frequency, 2, axis=1)[:, 1:]
        symbol = np.stack([spread(one) for one in both])
        numbers = np.argsort(symbol, axis=1, kind="stable")
        start = both.cumsum(axis=1) - both
        place = np.empty_like(numbers)
        np.put_along_axis(place, numbers, np.arange(numbers.shape[1])[None], axis=1)
        index = place - np.take_along_axis(start, symbol, axis=1)
        first = start + (np.arange(len(both)) << precision)[:, None]
        return cls(both, symbol, index, first, numbers.reshape(-1))


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """The tables of a fit. A context is a table and a quantizer: 2 * table + q.

    Attributes:
        step: the distance of neighbouring values of both quantizers together, float32.
        precision: P; the frequencies of a context add up to 2^P.
        slot_bytes: (G,) int64, bytes of a row of each class.
        table_of: (G, r) int64; neighbouring classes may have the same row.
        frequency: (2T, W) int64, of each magnitude with one sign; 0 beyond the largest of a context.
        largest: (2T,) int64, the largest magnitude of each context.
        shrink: (2T, LEVELS) float32, how much nearer to 0 than its middle a magnitude is rebuilt, in steps.
    """

    step: Tensor
    precision: int
    slot_bytes: Tensor
    table_of: Tensor
    frequency: Tensor
    largest: Tensor
    shrink: Tensor

    @functools.cached_property
    def bits(self) -> Tensor:
        """(2T, W) float32, of a magnitude with its sign; infinite where there is none."""
        return self.precision - torch.log2(self.frequency.to(torch.float32))

    @functools.cached_property
    def values(self) -> Tensor:
        """(2T, W) float32: what a magnitude stands for, in steps."""
        return rebuilt_values(self.shrink, self.frequency.shape[1])

    @functools.cached_property
    def numbers(self) -> Numbers:
        """The numbers of all symbols of all contexts."""
        return Numbers.of(self.frequency.cpu().numpy(), self.precision)

    @classmethod
    def of_zeros(cls, rank: int, device: torch.device) -> Self:
        """For rows that have nothing but zeros, in slots of no bytes."""
        nothing = torch.zeros(2, dtype=torch.int64, device=device)
        return cls(
            step=torch.ones((), device=device),
            precision=12,
            slot_bytes=nothing[:1],
            table_of=nothing.new_zeros((1, rank)),
            frequency=torch.tensor([[1 << 12, 0]] * 2, device=device),
            largest=nothing,
            shrink=torch.zeros((2, LEVELS), device=device),
        )

    def state(self) -> dict[str, Tensor]:
        """As tensors of a file; the frequency of 0 follows from the others."""
        width = torch.arange(1, self.frequency.shape[1], device=self.frequency.device)
        rows, row_of_class = torch.unique_consecutive(self.table_of, dim=0, return_inverse=True)
        return {
            "step": self.step,
            "precision": torch.tensor(self.precision, dtype=torch.uint8, device=self.step.device),
            "slot_bytes": self.slot_bytes.to(torch.int16),
            "table_row": row_of_class.to(torch.uint8),
            "table_of": rows.to(torch.uint8),
            "largest": self.largest.to(torch.int16),
            "frequency": self.frequency[:, 1:][width <= self.largest[:, None]].to(torch.int16),
            "shrink": self.shrink.to(torch.float16),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Undo :meth:`state`; gradients of ``step`` and ``shrink`` pass."""
        largest, precision = state["largest"].to(torch.int64), int(state["precision"])
        width = 1 + int(largest.max())
        magnitude = torch.arange(width, device=largest.device)
        frequency = torch.zeros((len(largest), width), dtype=torch.int64, device=largest.device)
        frequency[(magnitude > 0) & (magnitude <= largest[:, None])] = state["frequency"].to(torch.int64)
        frequency[:, 0] = (1 << precision) - 2 * frequency.sum(dim=1)
        return cls(
            step=state["step"],
            precision=precision,
            slot_bytes=state["slot_bytes"].to(torch.int64),
            table_of=state["table_of"].to(torch.int64)[state["table_row"].to(torch.int64)],
            frequency=frequency,
            largest=largest,
            shrink=state["shrink"].to(torch.float32),
        )

    def size_bytes(self) -> int:
        """Bytes of :meth:`state`."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state().values())


def rebuilt_values(shrink: Tensor, width: int) -> Tensor:
    """What magnitudes below ``width`` stand for: shrink (2T, LEVELS) -> (2T, width), in steps."""
    magnitude = torch.arange(width, device=shrink.device)
    quantizer = torch.arange(len(shrink), device=shrink.device)[:, None] % 2
    level = magnitude.clamp(1, LEVELS) - 1
    return torch.where(magnitude > 0, 2.0 * magnitude - quantizer - shrink[:, level], 0.0)


def integer_frequencies(counts: np.ndarray, largest: int, precision: int) -> np.ndarray:
    """Frequencies (largest + 1,) of magnitudes with one sign, at least 1 each, that add up to 2^P with both signs.

    Args:
        counts: how often each magnitude occurs, with either sign (W,).
        largest: the largest that gets a frequency.
        precision: P; ``2 * largest`` must be below 2^P.
    """
    total, share = 1 << precision, counts[: largest + 1].astype(np.float64)
    share = share / max(1.0, share.sum()) * total
    found: np.ndarray = np.maximum(1, np.rint(share / 2)).astype(np.int64)
    while 2 * int(found[1:].sum()) >= total:  # many rare magnitudes, each of them rounded up
        over = 2 * int(found[1:].sum()) - total + 2
        where = 1 + np.argsort(-found[1:], kind="stable")[: max(1, over // 2)]
        found[where] -= found[where] > 1
    found[0] = total - 2 * int(found[1:].sum())
    return found
