"""What methods trained by gradient share: minibatches, chunks of rows, a table's unit.

Reference: none of its own; used by Bin (Tissier et al. 2019), AdaComp (Kim et al. 2020) and DPQ (Chen et al. 2020).

Shapes: N rows, D columns, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from quantizers.base import CHUNK_ROWS


class Minibatches(Iterator[Tensor]):
    """Row numbers of ``steps`` batches, (B,) int64, drawn on the CPU when they are asked for.

    Without weights an epoch is a permutation. With weights rows are drawn in proportion to them, so that each draw counts
    the same: the mean over batches is the weighted mean over rows, and no single gradient is large. Equal weights are none.

    Args:
        num_rows: N.
        batch_size: B, cut to N.
        steps: how many batches.
        generator: a CPU generator.
        weights: (N,) not negative, or None.

    Attributes:
        done: batches drawn so far.
    """

    def __init__(
        self, num_rows: int, batch_size: int, steps: int, *, generator: torch.Generator, weights: Tensor | None = None
    ) -> None:
        self._num_rows, self._batch_size, self._steps = num_rows, min(batch_size, num_rows), steps
        self._generator = generator
        if weights is not None and bool((weights == weights[0]).all()):
            weights = None
        self._cumulative = None if weights is None else weights.to("cpu", torch.float64).cumsum(0)
        self._order, self._position = torch.empty(0, dtype=torch.int64), 0
        self.done = 0

    def __next__(self) -> Tensor:
        if self.done == self._steps:
            raise StopIteration
        self.done += 1
        if self._cumulative is not None:
            draws = torch.rand(self._batch_size, generator=self._generator, dtype=torch.float64) * self._cumulative[-1]
            return torch.searchsorted(self._cumulative, draws, right=True).clamp_max(self._num_rows - 1)
        if self._position + self._batch_size > len(self._order):
            self._order, self._position = torch.randperm(self._num_rows, generator=self._generator), 0
        self._position += self._batch_size
        return self._order[self._position - self._batch_size : self._position]

    def state_dict(self) -> dict[str, Any]:
        """What the next batches depend on, the generator's state (whoever else draws from it) among it."""
        names = {"order": self._order, "position": self._position, "done": self.done}
        return {"generator": self._generator.get_state(), **names}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        self._generator.set_state(state_dict["generator"])
        self._order, self._position, self.done = (state_dict[name] for name in ("order", "position", "done"))


def chunks(vectors: Tensor, width: int) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive rows, few enough that ``width`` values for each take some tens of MB."""
    step = max(64, min(CHUNK_ROWS, (1 << 22) // max(1, width)))
    for start in range(0, len(vectors), step):
        yield slice(start, start + step), vectors[start : start + step]


def moments(vectors: Tensor) -> tuple[Tensor, float, float]:
    """Mean (D,), root mean square deviation from it, and largest magnitude, of tables of any scale without overflow."""
    largest = float(vectors.abs().max())
    if largest == 0:
        return torch.zeros(vectors.shape[1], device=vectors.device), 0.0, 0.0
    mean = sum((part / largest).sum(dim=0, dtype=torch.float64) for _, part in chunks(vectors, vectors.shape[1]))
    mean = torch.as_tensor(mean / len(vectors)).to(torch.float32)
    squares = sum(
        float((part / largest - mean).square().sum(dtype=torch.float64)) for _, part in chunks(vectors, vectors.shape[1])
    )
    deviation = (squares / vectors.numel()) ** 0.5
    # Rounding of the mean leaves about 1e-7 of a table whose rows are all equal.
    return mean * largest, deviation * largest if deviation > 1e-6 else 0.0, largest
