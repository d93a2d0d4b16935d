"""Hashed memory pool: all values of the table are read from one small pool, at addresses that a hash function gives.

Papers: Chen et al., "Compressing Neural Networks with the Hashing Trick" (ICML 2015); Desai, Chou & Shrivastava, "Random
Offset Block Embedding (ROBE)" (MLSys 2022). With Z = 1 (the default) it is a memory pool addressed value by value:
    x_hat[x, j] = s * pool[hash(x * D + j)],
with blocks of Z values, which share one address and lie side by side, so that a row costs D / Z reads instead of D:
    x_hat[x, b * Z + o] = s * pool[hash(x * ceil(D / Z) + b) * Z + o]          (aligned blocks, the default)
    x_hat[x, b * Z + o] = s * pool[(hash(x * ceil(D / Z) + b) + o) mod S]      (``overlapping``: ROBE's own, slower to train)
s is 1, or with ``signs`` a random sign of each block.

Nothing but the pool is stored: the addresses follow from the configuration. The papers train the pool with the task
(``untrained`` starts there, with values of N(0, 0.05)); fitted to a table it has a closed form: every value of the pool is
the weighted mean of the (signed) table values that read it, which is the least-squares solution for any hash.

Left open by the papers and chosen: the hash is murmur3's 32-bit finalizer, brought into [0, S) by a multiplication
(h * S >> 32; ten times faster than a remainder and as uniform); the sign is the hash's last bit. Proposals take blocks of a
quarter of a row: measured on GloVe, a table fits them a little better than single values (columns differ in their means),
they train many times faster, and two words still share a whole row only by rare chance, unlike with blocks of D values.
They keep the pool in float16: twice as many values, half as many collisions, are worth far more than the bits lost.

Shapes: N rows, D columns, B batch, S pool_size, Z block_size, P blocks a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost, generator
from quantizers.coding.dtypes import DTYPES
from quantizers.table import Table, TableStats

_CHUNK_VALUES = 1 << 20
_MAX_POOL = (1 << 31) - 1
_MASK = 0xFFFFFFFF
# Multipliers of murmur3's finalizer and of the high word, as signed 32-bit numbers.
_FIRST, _SECOND, _HIGH = 0x85EBCA6B - (1 << 32), 0xC2B2AE35 - (1 << 32), 0x9E3779B9 - (1 << 32)


class HashedConfig(QuantizerConfig):
    """The pool and how it is addressed.

    Attributes:
        pool_size: S, values in the pool; rounded down to whole blocks where blocks are aligned.
        block_size: Z, values that share one address.
        overlapping: blocks may begin anywhere in the pool, not only at multiples of Z.
        signs: multiply each block by a random sign.
        hash_seed: chooses the hash function.
        pool_dtype: what the pool is stored in.
    """

    pool_size: int = Field(default=65_536, ge=1, le=_MAX_POOL)
    block_size: int = Field(default=1, ge=1, le=65_536)
    overlapping: bool = False
    signs: bool = False
    hash_seed: int = Field(default=0, ge=0, le=_MASK)
    pool_dtype: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _block_fits(self) -> Self:
        if self.block_size > self.pool_size:
            raise ValueError(f"a block of {self.block_size} values does not fit a pool of {self.pool_size}")
        return self

    @property
    def stored_values(self) -> int:
        """Values that the pool really has."""
        return self.pool_size if self.overlapping else self.pool_size // self.block_size * self.block_size


class Hashed(Quantizer):
    """A pool of values and a hash function."""

    name = "hashed"
    Config = HashedConfig
    reference = "Chen et al. 2015, eq. 3; ROBE: Desai et al. 2022, section 2"
    state_roles: ClassVar[dict[str, Role]] = {"pool": "codebook"}
    uses_weights = True

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[HashedConfig] | Skip:
        """The largest float16 pool, in blocks of a quarter of a row."""
        size = min(budget.payload_bytes // DTYPES["float16"].itemsize, _MAX_POOL)
        if size < 1:
            return Skip("a pool of one value takes 2 bytes")
        width = min(-(-stats.embedding_dim // 4), size)
        return [HashedConfig(pool_size=size // width * width, block_size=width, pool_dtype="float16")]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """The pool, exact; it does not depend on the table's shape."""
        return StorageCost(0, codebook_bytes=config.stored_values * DTYPES[config.pool_dtype].itemsize)

    @classmethod
    def examples(cls) -> Sequence[HashedConfig]:
        """Value by value; aligned blocks that do not divide 16 columns; overlapping blocks with signs."""
        return [
            HashedConfig(pool_size=500),
            HashedConfig(pool_size=1000, block_size=5, pool_dtype="float16"),
            HashedConfig(pool_size=501, block_size=8, overlapping=True, signs=True),
        ]

    @classmethod
    def untrained(cls, config: HashedConfig, shape: tuple[int, int], *, seed: int, std: float = 0.05) -> Self:
        """A pool of N(0, std) to train from scratch with a task, in place of a table of ``shape`` (N, D)."""
        pool = torch.randn(config.stored_values, generator=generator(seed)) * std
        return cls.from_state(config, {"pool": pool.to(DTYPES[config.pool_dtype])}, shape=shape)

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        device, dim, width = table.vectors.device, table.embedding_dim, self.config.block_size
        # float64: a slot sums up to millions of values, and on a GPU in no fixed order.
        sums = torch.zeros(self.config.stored_values, dtype=torch.float64, device=device)
        totals = torch.zeros_like(sums)
        padding = -dim % width
        step = max(1, _CHUNK_VALUES // dim)
        for start in range(0, table.num_embeddings, step):
            rows = table.vectors[start : start + step].to(torch.float64)
            share = torch.ones_like(rows) if weights is None else weights[start : start + step, None].expand_as(rows)
            ids = torch.arange(start, start + len(rows), device=device)
            blocks, sign = self._addresses(ids)
            # What fills up a row's last block counts with weight 0.
            values = torch.nn.functional.pad(rows * share, (0, padding)).reshape(-1, width)
            share = torch.nn.functional.pad(share.to(torch.float64), (0, padding)).reshape(-1, width)
            if sign is not None:
                values *= sign[:, None]
            for total, part in ((sums, values), (totals, share)):
                if self.config.overlapping:
                    total.index_add_(0, self._slots(blocks).reshape(-1), part.reshape(-1))
                else:
                    total.view(-1, width).index_add_(0, blocks, part)
        dtype = DTYPES[self.config.pool_dtype]
        largest = torch.finfo(dtype).max
        sums /= totals.clamp_min_(1e-300)  # what no value reads stays 0
        self._set_state({"pool": sums.clamp_(-largest, largest).to(dtype)})
        yield FitStep("average", 1.0)

    def _addresses(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Address of each block of rows ``ids``, and its sign (1.0 or -1.0): (B * P,) int64, (B * P,) float32 or None.

        An address counts blocks where they are aligned, values where they overlap.
        """
        per_row = -(-self.embedding_dim // self.config.block_size)
        places = self.config.pool_size if self.config.overlapping else self.config.pool_size // self.config.block_size
        blocks = torch.arange(per_row, device=ids.device)
        # int32 arithmetic wraps, which leaves the key's low word: ten times faster here than int64.
        keys = (ids * per_row).to(torch.int32)[:, None] + blocks.to(torch.int32)
        if self.num_embeddings * per_row > _MASK:
            keys ^= ((ids * per_row)[:, None] + blocks >> 32).to(torch.int32) * _HIGH
        hashed = _mix(keys.reshape(-1) ^ _signed(_mix_number(self.config.hash_seed)))
        addresses = hashed.to(torch.int64)
        addresses &= _MASK
        addresses *= places
        addresses >>= 32
        return addresses, 1.0 - 2.0 * (hashed & 1) if self.config.signs else None

    def _slots(self, starts: Tensor) -> Tensor:
        """Where the values of overlapping blocks lie: (B * P,) -> (B * P, Z)."""
        slots: Tensor = starts[:, None] + torch.arange(self.config.block_size, device=starts.device)
        return slots.remainder_(self.config.pool_size)

    def reconstruct(self, ids: Tensor) -> Tensor:
        """Read each block from the pool."""
        self._require_fitted()
        width = self.config.block_size
        addresses, sign = self._addresses(ids)
        pool = self._state["pool"]
        # index_select: its gradient is one index_add, several times faster than those of pool[...] or embedding().
        if self.config.overlapping:
            blocks = pool.index_select(0, self._slots(addresses).reshape(-1)).reshape(-1, width)
        elif width == 1:
            blocks = pool.index_select(0, addresses)[:, None]
        else:
            blocks = pool.view(-1, width).index_select(0, addresses)
        blocks = blocks.to(torch.float32)
        if sign is not None:
            blocks = blocks * sign[:, None]
        per_row = -(-self.embedding_dim // width)
        rows = blocks.reshape(len(ids), per_row * width)
        # A slice of everything would still cost its gradient a copy.
        return rows if per_row * width == self.embedding_dim else rows[:, : self.embedding_dim]


def _mix(values: Tensor) -> Tensor:
    """murmur3's 32-bit finalizer, in place on int32; the masks make the right shifts unsigned."""
    values ^= (values >> 16) & 0xFFFF
    values *= _FIRST
    values ^= (values >> 13) & 0x7FFFF
    values *= _SECOND
    values ^= (values >> 16) & 0xFFFF
    return values


def _mix_number(value: int) -> int:
    """:func:`_mix` of one unsigned number."""
    value = (value ^ value >> 16) * _FIRST & _MASK
    value = (value ^ value >> 13) * _SECOND & _MASK
    return value ^ value >> 16


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value
