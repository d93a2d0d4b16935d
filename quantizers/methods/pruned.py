"""Magnitude pruning: the smallest values become 0, the others are kept as they are, in a sparse layout.

Paper: Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural Networks" (NIPS 2015).
Equation: x_hat = x where |x| * sqrt(w) is among the ``round((1 - sparsity) * N * D)`` largest of the whole table, else 0
(w is the weight of the row: dropping a value costs w * x^2). Of equal magnitudes the first in row order are kept, so that
the number of kept values, and with it the size, is exact.

The paper reports N * D / kept ("x10" at 90 %), which leaves out where the kept values are: ``published_ratio``. The payload
counts that too, in whichever of two layouts is smaller for the shape and the kept count:

- mask: a bit per value, ceil(D / 8) bytes a row;
- index: ceil(log2 D) bits per kept value (its column) and ceil(log2 (D + 1)) bits per row (how many it keeps), each packed
  without gaps.

The paper leaves the storage of an embedding table open, and retrains after pruning; here the kept values are stored as they
are, and a task may go on training them (``training_module``). Where each row starts follows from the mask or the counts: it
is worked out when the first row is read and not stored.

Shapes: N rows, D columns, B batch, T kept values of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost
from quantizers.coding.bits import MAX_BITS, bits_for, pack, row_bytes, unpack
from quantizers.coding.dtypes import DTYPES
from quantizers.coding.streams import pack_stream, read_stream, unpack_stream
from quantizers.errors import InputError
from quantizers.table import Table, TableStats

_CHUNK_VALUES = 1 << 20  # bounds the temporaries to some tens of MB
_SPARSITY_STEPS = 10**6
_LARGEST_KEY = 0x7FFFFFFF


class PrunedConfig(QuantizerConfig):
    """How much is dropped.

    Attributes:
        sparsity: share of the table's values that become 0, 0 to 1.
        value_dtype: what the kept values are stored in.
    """

    sparsity: float = Field(default=0.9, ge=0, le=1)
    value_dtype: Literal["float32", "float16"] = "float32"


def kept_values(sparsity: float, shape: tuple[int, int]) -> int:
    """How many values stay: round((1 - sparsity) * N * D)."""
    return round((1 - sparsity) * shape[0] * shape[1])


def _mask_bytes(shape: tuple[int, int]) -> int:
    return shape[0] * row_bytes(shape[1], 1)


def _index_bytes(kept: int, shape: tuple[int, int]) -> int | None:
    """Bytes of columns and row counts; None where a column number is wider than a code may be."""
    if bits_for(shape[1] + 1) > MAX_BITS:
        return None
    return row_bytes(kept, bits_for(shape[1])) + row_bytes(shape[0], bits_for(shape[1] + 1))


def _uses_mask(kept: int, shape: tuple[int, int]) -> bool:
    index = _index_bytes(kept, shape)
    return index is None or _mask_bytes(shape) <= index


class Pruned(Quantizer):
    """The values of largest magnitude, and where they are."""

    name = "pruned"
    Config = PrunedConfig
    reference = "Han et al. 2015, section 3"
    state_roles: ClassVar[dict[str, Role]] = {"values": "code", "mask": "side", "columns": "side", "row_counts": "side"}
    uses_weights = True

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        self._rows: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[PrunedConfig] | Skip:
        """As many float16 values as fit with their positions (half the bytes of float32 keep more of the energy)."""
        shape, total = stats.shape, stats.num_embeddings * stats.embedding_dim
        width = DTYPES["float16"].itemsize
        kept = (budget.payload_bytes - _mask_bytes(shape)) // width
        fixed = _index_bytes(0, shape)
        if fixed is not None:
            kept = max(kept, (budget.payload_bytes - fixed) * 8 // (8 * width + bits_for(shape[1])))
        # Rounded to a readable number of digits, upwards: never more values than fit.
        steps = math.ceil((1 - min(kept, total) / total) * _SPARSITY_STEPS)
        while steps <= _SPARSITY_STEPS:
            config = PrunedConfig(sparsity=max(0, steps) / _SPARSITY_STEPS, value_dtype="float16")
            if kept_values(config.sparsity, shape) == 0:
                break
            if cls.storage(config, shape).payload_bytes <= budget.payload_bytes:
                return [config]
            steps += 1
        return Skip(f"not even one value in {_SPARSITY_STEPS} fits beside the positions: {cls._least(shape)} bytes")

    @staticmethod
    def _least(shape: tuple[int, int]) -> int:
        fixed = _index_bytes(0, shape)
        return _mask_bytes(shape) if fixed is None else min(_mask_bytes(shape), fixed)

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Kept values and the smaller layout of their positions, exact."""
        kept = kept_values(config.sparsity, shape)
        index = _index_bytes(kept, shape)
        side = _mask_bytes(shape) if index is None else min(index, _mask_bytes(shape))
        return StorageCost(kept * DTYPES[config.value_dtype].itemsize, side_bytes=side)

    @classmethod
    def examples(cls) -> Sequence[PrunedConfig]:
        """Both layouts, both types, and both ends."""
        return [
            PrunedConfig(sparsity=0.5),
            PrunedConfig(sparsity=0.95, value_dtype="float16"),
            PrunedConfig(sparsity=0),
            PrunedConfig(sparsity=1),
        ]

    @property
    def published_ratio(self) -> float:
        """N * D / kept: the ratio as the paper counts it, positions left out. Infinite where nothing is kept."""
        kept = self.state()["values"].numel()
        return self.num_embeddings * self.embedding_dim / kept if kept else math.inf

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        shape = table.shape
        kept = kept_values(self.config.sparsity, shape)
        dtype = DTYPES[self.config.value_dtype]
        scale = None if weights is None else weights.sqrt()
        threshold, ties = _threshold(table.vectors, scale, kept)
        largest = torch.finfo(dtype).max
        use_mask = _uses_mask(kept, shape)
        # Room for all that is kept is made first: small results between large temporaries would pin the allocator's memory.
        device = table.vectors.device
        values = torch.empty(kept, dtype=dtype, device=device)
        mask = torch.empty((shape[0] if use_mask else 0, row_bytes(shape[1], 1)), dtype=torch.uint8, device=device)
        columns = torch.empty(0 if use_mask else kept, dtype=torch.int32, device=device)
        counts = torch.empty(0 if use_mask else shape[0], dtype=torch.int32, device=device)
        done = begin = 0
        for rows, keys in _key_chunks(table.vectors, scale):
            keep = keys > threshold
            equal = keys == threshold
            allowed = equal.reshape(-1).cumsum(0).reshape(equal.shape) <= ties
            keep |= equal & allowed
            ties -= int((equal & allowed).sum())
            found = rows[keep]
            values[done : done + len(found)] = found.clamp_(-largest, largest)
            if use_mask:
                mask[begin : begin + len(rows)] = pack(keep, 1)
            else:
                columns[done : done + len(found)] = keep.nonzero()[:, 1]
                counts[begin : begin + len(rows)] = keep.sum(dim=1)
            done, begin = done + len(found), begin + len(rows)
        state = {"values": values}
        if use_mask:
            state["mask"] = mask
        else:
            state["columns"] = pack_stream(columns, bits_for(shape[1]))
            state["row_counts"] = pack_stream(counts, bits_for(shape[1] + 1))
        self._rows = None
        self._set_state(state)
        yield FitStep("prune", 1.0)

    def _row_starts(self) -> tuple[Tensor, Tensor]:
        """For each row its first kept value and how many there are: two (N,) tensors, worked out once."""
        if self._rows is None:
            if "mask" in self._state:
                mask = self._state["mask"]
                ones = unpack(torch.arange(256, dtype=torch.uint8, device=mask.device)[:, None], 8, 1).sum(dim=1)
                step = max(1, _CHUNK_VALUES // mask.shape[1])
                counts = torch.cat([ones[part.to(torch.int64)].sum(dim=1) for part in torch.split(mask, step)])
            else:
                counts = unpack_stream(self._state["row_counts"], self.num_embeddings, bits_for(self.embedding_dim + 1))
            self._rows = (counts.cumsum(0) - counts, counts)
        return self._rows

    def verify(self) -> None:
        """As many places as values, each in a column of the table."""
        kept, counts = len(self._state["values"]), self._row_starts()[1]
        if int(counts.sum()) != kept or int(counts.max()) > self.embedding_dim:
            raise InputError(f"its rows say that they keep {int(counts.sum())} values, and {kept} are stored")
        if "columns" in self._state and kept:
            largest = int(unpack_stream(self._state["columns"], kept, bits_for(self.embedding_dim)).max())
            if largest >= self.embedding_dim:
                raise InputError(f"a value stands in column {largest} of {self.embedding_dim}")

    def reconstruct(self, ids: Tensor) -> Tensor:
        """The kept values in their places, 0 elsewhere."""
        self._require_fitted()
        step = max(1, _CHUNK_VALUES // self.embedding_dim)
        return torch.cat([self._scatter(part) for part in torch.split(ids, step)])

    def _scatter(self, ids: Tensor) -> Tensor:
        starts, all_counts = self._row_starts()
        counts = all_counts[ids]
        first = counts.cumsum(0) - counts
        rows = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), counts)
        # The kept values of one row lie one after another: (T,) where each is.
        positions = torch.arange(len(rows), device=ids.device) + (starts[ids] - first)[rows]
        if "mask" in self._state:
            columns = unpack(self._state["mask"][ids], self.embedding_dim, 1).nonzero()[:, 1]
        else:
            columns = read_stream(self._state["columns"], positions, bits_for(self.embedding_dim))
        out = torch.zeros((len(ids), self.embedding_dim), dtype=torch.float32, device=ids.device)
        return out.index_put((rows, columns), self._state["values"][positions].to(torch.float32))


def _key_chunks(vectors: Tensor, scale: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and their magnitudes as int32 that sort alike (the bits of a positive float are in its order)."""
    step = max(1, _CHUNK_VALUES // vectors.shape[1])
    for start in range(0, len(vectors), step):
        rows = vectors[start : start + step]
        magnitude = rows.abs() if scale is None else rows.abs() * scale[start : start + step, None]
        yield rows, magnitude.view(torch.int32)


def _threshold(vectors: Tensor, scale: Tensor | None, kept: int) -> tuple[int, int]:
    """The key above which all is kept, and how many values that equal it are kept too.

    Two histograms, of the upper and of the lower 16 bits, find it exactly without a sort or a copy of the table.
    """
    if kept == 0:
        return _LARGEST_KEY, 0
    upper = torch.zeros(1 << 16, dtype=torch.int64, device=vectors.device)
    for _, keys in _key_chunks(vectors, scale):
        upper += torch.bincount((keys >> 16).reshape(-1), minlength=1 << 16)
    high, above = _bucket(upper, kept)
    lower = torch.zeros(1 << 16, dtype=torch.int64, device=vectors.device)
    for _, keys in _key_chunks(vectors, scale):
        lower += torch.bincount(keys[(keys >> 16) == high] & 0xFFFF, minlength=1 << 16)
    low, more = _bucket(lower, kept - above)
    return (high << 16) | low, kept - above - more


def _bucket(histogram: Tensor, kept: int) -> tuple[int, int]:
    """The bucket that holds the ``kept``-th largest, and how many lie above it."""
    from_top = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, kept))
    return len(histogram) - 1 - place, int(from_top[place - 1]) if place else 0
