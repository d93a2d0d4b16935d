"""Low rank: a row is the mean plus r coordinates times r axes, and the coordinates may be quantized.

Papers: Eckart & Young, "The approximation of one matrix by another of lower rank" (Psychometrika 1936); for embedding tables
Chen et al., "GroupReduce" (NeurIPS 2018), whose weighted singular value decomposition is what row weights give here.
Equation: x_hat = mean + a B, with B (r, D) the first principal axes and a = (x - mean) B^T; with ``factor_bits`` of 8 or 4,
a = zero + scale * code, each column of coordinates with its own range.

Chosen where the papers are silent: the mean is taken off (D floats buy more than the axis that would go on it); the range
of a column clips at both ends where that lowers its squared error; the proposed rank and bits are those of the least error
that the table's spectrum and the distortion of a uniform quantizer predict. The decomposition is taken from the D x D
covariance, into which row weights enter: a row times sqrt(w) has the same axes.

Shapes: N rows, D columns, B batch, r rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost
from quantizers.coding.bits import pack, row_bytes, unpack
from quantizers.coding.dtypes import DTYPES
from quantizers.fitting.chunks import joined
from quantizers.fitting.principal_axes import Coordinates, principal_axes, sums_per_part
from quantizers.table import Table, TableStats

_FLOAT_BITS = {32: torch.float32, 16: torch.float16}
# Squared error of a coordinate of variance 1: rounding of float16; the best uniform quantizers of 256 and 16 values for a
# Gaussian (Max 1960, table II).
_DISTORTION = {32: 0.0, 16: 2.0**-25, 8: 8.77e-5, 4: 0.01154}
_PARTS = 128
_CHUNK_VALUES = 1 << 20


class LowRankConfig(QuantizerConfig):
    """How many axes, and how the coordinates are kept.

    Attributes:
        rank: r; more than D is the same as D.
        factor_bits: bits of one coordinate: 32 and 16 are floats, 8 and 4 a uniform quantizer with a range per column.
        basis_dtype: what the axes are stored in.
        center: take the mean off, and store it (D float32).
    """

    rank: int = Field(default=32, ge=1)
    factor_bits: Literal[32, 16, 8, 4] = 32
    basis_dtype: Literal["float32", "float16"] = "float32"
    center: bool = True


class LowRank(Quantizer):
    """The first principal axes and every row's coordinates along them."""

    name = "lowrank"
    Config = LowRankConfig
    reference = "Eckart & Young 1936; Chen et al. 2018 (weighted)"
    state_roles: ClassVar[dict[str, Role]] = {
        "factors": "code",
        "basis": "codebook",
        "mean": "side",
        "scale": "side",
        "zero": "side",
    }
    uses_weights = True
    linear_state = ("basis", "mean")
    lookup = False
    learns_on_sample = True

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[LowRankConfig] | Skip:
        """Rank and bits with the least predicted error."""
        spectrum = np.maximum(stats.eigenvalues, 0)
        kept = np.concatenate([[0.0], np.cumsum(spectrum)])
        best: tuple[float, int, LowRankConfig] | None = None
        for bits in (32, 16, 8, 4):
            rank = cls._largest_rank(budget, stats, bits)
            if rank == 0:
                continue
            config = cls._proposal(rank, bits)
            error = kept[-1] - kept[rank] + _DISTORTION[bits] * kept[rank]
            found = (float(error), cls.storage(config, stats.shape).payload_bytes, config)
            if best is None or found[:2] < best[:2]:
                best = found
        if best is None:
            least = cls.storage(cls._proposal(1, 4), stats.shape).payload_bytes
            return Skip(f"one axis with coordinates of 4 bits takes {least} bytes")
        return [best[2]]

    @staticmethod
    def _proposal(rank: int, bits: int) -> LowRankConfig:
        return LowRankConfig(rank=rank, factor_bits=bits, basis_dtype="float32" if bits == 32 else "float16")

    @classmethod
    def _largest_rank(cls, budget: Budget, stats: TableStats, bits: int) -> int:
        low, high = 0, min(stats.shape)
        while low < high:
            middle = (low + high + 1) // 2
            fits = cls.storage(cls._proposal(middle, bits), stats.shape).payload_bytes <= budget.payload_bytes
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Coordinates, axes, mean and ranges, exact."""
        rank = min(config.rank, shape[1])
        ranges = 2 * 4 * rank if config.factor_bits <= 8 else 0
        return StorageCost(
            shape[0] * row_bytes(rank, config.factor_bits),
            codebook_bytes=rank * shape[1] * DTYPES[config.basis_dtype].itemsize,
            side_bytes=ranges + (4 * shape[1] if config.center else 0),
        )

    @classmethod
    def check(cls, config: Any, shape: tuple[int, int]) -> Skip | None:
        """A rank above the table's own makes no sense."""
        if config.rank > min(shape):
            return Skip(f"rank {config.rank} is more than a table of {shape[0]} x {shape[1]} can have")
        return None

    @classmethod
    def examples(cls) -> Sequence[LowRankConfig]:
        """Each kind of coordinates."""
        return [
            LowRankConfig(rank=6),
            LowRankConfig(rank=8, factor_bits=16, basis_dtype="float16", center=False),
            LowRankConfig(rank=7, factor_bits=8),
            LowRankConfig(rank=7, factor_bits=4, basis_dtype="float16"),
        ]

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        config = self.config
        mean, _, axes = principal_axes(table.vectors, weights, center=config.center)
        basis = axes[: config.rank]
        coordinates = Coordinates(table.vectors, mean, basis)
        state = {"basis": _cast(basis, DTYPES[config.basis_dtype])}
        if config.center:
            state["mean"] = mean.to(torch.float32)
        chunks = (values for _, values in coordinates.chunks(self.chunk_rows))
        if config.factor_bits in _FLOAT_BITS:
            factors = (_cast(values, _FLOAT_BITS[config.factor_bits]) for values in chunks)
        else:
            state["scale"], state["zero"] = column_ranges(coordinates, config.factor_bits, weights)
            factors = (_encode(values, state["scale"], state["zero"], config.factor_bits) for values in chunks)
        state["factors"] = joined(factors, len(coordinates))
        self._set_state(state)
        yield FitStep("decompose", 1.0)

    def coordinates(self, ids: Tensor) -> Tensor:
        """Coordinates of rows ``ids``: (B,) -> (B, r) float32."""
        self._require_fitted()
        factors = self._state["factors"][ids]
        if "scale" not in self._state:
            return factors.to(torch.float32)
        codes = unpack(factors, len(self._state["scale"]), self.config.factor_bits)
        return self._state["zero"] + codes * self._state["scale"]

    def reconstruct(self, ids: Tensor) -> Tensor:
        """Coordinates times axes, plus the mean."""
        rows = self.coordinates(ids) @ self._state["basis"].to(torch.float32)
        return rows + self._state["mean"] if "mean" in self._state else rows


def _cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max
    return values.clamp(-largest, largest).to(dtype)


def column_ranges(coordinates: Coordinates, bits: int, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Step and lowest value of a uniform quantizer for each axis, by least squared error: (r,) and (r,) float32.

    Every pair of ends on a grid of 128 parts of [min, max] is tried: values beyond an end cost their squared distance to it,
    values between them step^2 / 12. Sums per part, of all rows, give that without looking at a value twice.
    """
    low, high = coordinates.ends()
    span = torch.where(high > low, high - low, 1.0)
    sums = sums_per_part(coordinates.chunks(), low, span, _PARTS, weights)
    ends = torch.arange(_PARTS + 1, dtype=torch.float64, device=low.device)[:, None] / _PARTS
    below = torch.nn.functional.pad(sums.cumsum(dim=1), (0, 0, 1, 0))  # (3, parts + 1, r): of all parts below each end
    above = below[:, -1:] - below
    cost_below = below[2] - 2 * ends * below[1] + ends**2 * below[0]
    cost_above = above[2] - 2 * ends * above[1] + ends**2 * above[0]
    best = torch.full_like(low, torch.inf, dtype=torch.float64)
    bottom, top = torch.zeros_like(best), torch.ones_like(best)
    for part in range(_PARTS):
        width = ends[part + 1 :] - ends[part]
        inside = below[0, part + 1 :] - below[0, part]
        error = cost_below[part] + cost_above[part + 1 :] + (width / ((1 << bits) - 1)) ** 2 / 12 * inside
        least, at = error.min(dim=0)
        better = least < best
        best = torch.where(better, least, best)
        bottom, top = torch.where(better, ends[part], bottom), torch.where(better, ends[at + part + 1, 0], top)
    scale = (top - bottom) * (high - low) / ((1 << bits) - 1)
    return scale.to(torch.float32), (low + bottom * span).to(torch.float32)


def _codes(values: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
    return ((values - zero) / torch.where(scale > 0, scale, 1.0)).round().clamp(0, levels)


def _encode(values: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    step = max(1, _CHUNK_VALUES // values.shape[1])
    parts = torch.split(values, step)
    return torch.cat([pack(_codes(part, scale, zero, (1 << bits) - 1).to(torch.uint8), bits) for part in parts])
