"""Frequency tables of the symbols along many axes, shared by neighbours where that is shorter in all.

Paper: Rissanen, "Modeling by shortest data description" (Automatica 1978): of all ways to share tables, codes and tables
together decide; neighbours are merged greedily as long as that saves bits.

Shapes: N rows, r axes, C tables, T entries of all tables together, S symbols.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
import torch
from torch import Tensor

from quantizers.coding.range_coder import integer_frequencies

TABLE_BYTES, ENTRY_BYTES = 6, 2  # of a table: axes, size, shrink; of an entry: its frequency
_CHUNK_VALUES = 1 << 20


@dataclasses.dataclass(frozen=True)
class FrequencyTables:
    """Frequency tables: axes in order share them, and a table's symbols are -k .. k.

    Attributes:
        axes: (C,) int64, how many axes each table is for.
        sizes: (C,) int64, its symbols, 2 * k + 1.
        frequency: (T,) int64.
    """

    axes: Tensor
    sizes: Tensor
    frequency: Tensor

    @property
    def starts(self) -> Tensor:
        """(C,) each table's first entry."""
        return self.sizes.cumsum(0) - self.sizes

    @property
    def table_of_axis(self) -> Tensor:
        """(r,)."""
        return torch.repeat_interleave(torch.arange(len(self.axes), device=self.axes.device), self.axes)

    @property
    def table_of_entry(self) -> Tensor:
        """(T,)."""
        return torch.repeat_interleave(torch.arange(len(self.sizes), device=self.sizes.device), self.sizes)

    @property
    def symbol_of_entry(self) -> Tensor:
        """(T,) the k that each entry is for."""
        entries = torch.arange(len(self.frequency), device=self.sizes.device)
        return entries - (self.starts + self.sizes // 2)[self.table_of_entry]

    @property
    def before(self) -> Tensor:
        """(T,) sum of the frequencies of the entries before, in the same table."""
        total = self.frequency.cumsum(0) - self.frequency
        return total - total[self.starts][self.table_of_entry]

    @property
    def offsets(self) -> Tensor:
        """(r,) what turns an axis' symbols into entries."""
        return (self.starts + self.sizes // 2)[self.table_of_axis]

    @classmethod
    def of(cls, counts: np.ndarray, device: torch.device) -> Self:
        """Tables for the counts of :func:`count_symbols`."""
        shared = share(counts)
        frequency = np.concatenate([integer_frequencies(count) for _, count in shared])
        numbers = ([axes for axes, _ in shared], [len(count) for _, count in shared], frequency)
        return cls(*(torch.as_tensor(values, dtype=torch.int64, device=device) for values in numbers))


def count_symbols(symbols: Tensor) -> np.ndarray:
    """How often each symbol occurs on each axis: (N, r) -> (r, 2 * k + 1), of -k .. k for the largest k of all."""
    largest, rank = max(abs(int(end)) for end in torch.aminmax(symbols)), symbols.shape[1]
    width = 2 * largest + 1
    begin = torch.arange(rank, device=symbols.device) * width + largest
    total = torch.zeros(rank * width, dtype=torch.int64, device=symbols.device)
    for part in torch.split(symbols, max(1, _CHUNK_VALUES // rank)):
        total += torch.bincount((part + begin).reshape(-1), minlength=len(total))
    return total.reshape(rank, width).cpu().numpy().astype(np.float64)


def share(counts: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Which neighbouring axes share a table: (r, S) -> for each table its number of axes and their counts of -k .. k."""
    groups = [(1, count) for count in counts]
    costs = [table_bits(count) for _, count in groups]
    savings = [costs[at] + costs[at + 1] - table_bits(counts[at] + counts[at + 1]) for at in range(len(groups) - 1)]
    while savings and max(savings) > 0:
        at = int(np.argmax(savings))
        groups[at : at + 2] = [(groups[at][0] + groups[at + 1][0], groups[at][1] + groups[at + 1][1])]
        costs[at : at + 2] = [table_bits(groups[at][1])]
        del savings[at]
        for pair in (at - 1, at):
            if 0 <= pair < len(savings):
                merged = table_bits(groups[pair][1] + groups[pair + 1][1])
                savings[pair] = costs[pair] + costs[pair + 1] - merged
    return [(axes, _trimmed(count)) for axes, count in groups]


def table_bits(count: np.ndarray) -> float:
    """Bits of the symbols that were counted, coded with a table of their own, and of that table."""
    used = count[count > 0]
    total = used.sum()
    return float(total * np.log2(total) - used @ np.log2(used) + 8 * (TABLE_BYTES + ENTRY_BYTES * len(_trimmed(count))))


def _trimmed(count: np.ndarray) -> np.ndarray:
    """The counts of -k .. k for the largest k that occurs."""
    middle = len(count) // 2
    reach = int(np.abs(np.flatnonzero(count) - middle).max())
    return count[middle - reach : middle + reach + 1]
