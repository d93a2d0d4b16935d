"""Transform coding: rotate to the principal axes, give each axis its share of the bits, quantize each coordinate by itself.

Papers: Huang & Schultheiss, "Block Quantization of Correlated Gaussian Random Variables" (IEEE Trans. Commun. 1963); Goyal,
"Theoretical Foundations of Transform Coding" (IEEE Signal Process. Mag. 2001); the levels: Max 1960, Lloyd 1982.
Equation: y = (x - mean) B^T with B (r, D) the first principal axes (the Karhunen-Loeve transform); y_j is given b_j bits,
0 to 8, of ``row_bits`` in all; x_hat = mean + sum_j scale_j * level[b_j, code_j] * B_j.

The bits go, one after another, to the axis whose error falls the most (on a Gaussian that is reverse water-filling), by
distortions measured on the table. The levels of b bits are those of the Lloyd-Max quantizer of a standard Gaussian,
constants that need no storing, which each axis scales; coordinates of embedding tables are so nearly Gaussian that levels
fitted to them would gain 1 %, and equal steps lose 10 to 20 % at 3 and 4 bits. All rows have the same length, so that one
can be read alone. Chosen where the papers are silent: at most 8 bits an axis; the mean in float32 and, in proposals, the
axes in float16, with the rank and the bits of a row that minimize the error which the table's spectrum predicts.

Shapes: N rows, D columns, B batch, r rank, L bytes a row.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import special
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost
from quantizers.coding.bits import row_bytes
from quantizers.coding.dtypes import DTYPES
from quantizers.coding.streams import pack_widths, unpack_widths
from quantizers.errors import InputError
from quantizers.fitting.chunks import joined
from quantizers.fitting.principal_axes import Coordinates, principal_axes, sums_per_part
from quantizers.table import Table, TableStats

_MOST_BITS = 8
_PARTS = 2048
_SCALES = [1.1**power for power in range(-3, 7)]  # of the root mean square
_RANKS_TRIED = 256
_CHUNK_VALUES = 1 << 20


class TransformConfig(QuantizerConfig):
    """The length of a row's code and the axes that it is spent on.

    Attributes:
        row_bits: bits of one row; more than 8 for each axis are not used.
        rank: axes that are kept; more than D is the same as D.
        basis_dtype: what the axes are stored in.
    """

    row_bits: int = Field(default=128, ge=1)
    rank: int = Field(default=64, ge=1)
    basis_dtype: Literal["float32", "float16"] = "float32"


@functools.cache
def gaussian_levels(bits: int) -> Tensor:
    """The 2^b levels of the Lloyd-Max quantizer of a standard Gaussian: (2^b,) float32, ascending.

    Lloyd's iteration from the levels of Panter & Dite's point density. Its length is part of the format: what is stored are
    codes of these levels.
    """
    count = 1 << bits
    levels = 3**0.5 * special.ndtri((np.arange(count) + 0.5) / count)
    for _ in range(300):
        mass, first, _ = _cells(levels)
        levels = first / mass
    return torch.from_numpy((levels - levels[::-1]) / 2).to(torch.float32)


def _cells(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integrals of 1, x and x^2 times the standard Gaussian over the values nearest to each level."""
    edges = (levels[1:] + levels[:-1]) / 2
    density = np.exp(-(edges**2) / 2) / (2 * np.pi) ** 0.5
    mass = np.diff(special.ndtr(edges), prepend=0.0, append=1.0)
    first = -np.diff(density, prepend=0.0, append=0.0)
    return mass, first, mass - np.diff(edges * density, prepend=0.0, append=0.0)


@functools.cache
def gaussian_distortion(bits: int) -> float:
    """Mean squared error of :func:`gaussian_levels` on a standard Gaussian: 1, 0.3634, 0.1175, 0.0345, .."""
    if bits == 0:
        return 1.0
    levels = gaussian_levels(bits).to(torch.float64).numpy()
    mass, first, second = _cells(levels)
    return float((second - 2 * levels * first + levels**2 * mass).sum())


class Transform(Quantizer):
    """Rotation, bits by axis, and codes of Gaussian levels."""

    name = "transform"
    Config = TransformConfig
    reference = "Huang & Schultheiss 1963; Goyal 2001"
    state_roles: ClassVar[dict[str, Role]] = {
        "codes": "code",
        "basis": "codebook",
        "mean": "side",
        "bits": "side",
        "scale": "side",
    }
    uses_weights = True
    linear_state = ("basis", "mean")
    lookup = False
    learns_on_sample = True

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[TransformConfig] | Skip:
        """Rank and bits of a row with the least error that the spectrum predicts."""
        spectrum = np.maximum(stats.eigenvalues, 0)
        distortion = np.array([gaussian_distortion(bits) for bits in range(_MOST_BITS + 1)])
        gains = spectrum[:, None] * -np.diff(distortion)
        best: tuple[float, int, TransformConfig] | None = None
        most = min(stats.shape)
        for rank in range(most, 0, -most // _RANKS_TRIED):  # rounded down: at most so many
            side = cls.storage(TransformConfig(row_bits=1, rank=rank, basis_dtype="float16"), stats.shape).payload_bytes
            length = (budget.payload_bytes - side) // stats.num_embeddings + 1
            if length < 1:
                continue
            bits = min(8 * length, _MOST_BITS * rank)
            config = TransformConfig(row_bits=bits, rank=rank, basis_dtype="float16")
            left_over = spectrum.sum() + np.partition(-gains[:rank].reshape(-1), bits - 1)[:bits].sum()
            found = (float(left_over), cls.storage(config, stats.shape).payload_bytes, config)
            if best is None or found[:2] < best[:2]:
                best = found
        if best is None:
            least = cls.storage(TransformConfig(row_bits=1, rank=1, basis_dtype="float16"), stats.shape).payload_bytes
            return Skip(f"one axis and a byte a row take {least} bytes")
        return [best[2]]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Codes, axes, mean, and a number of bits and a scale for each axis: exact."""
        rank = min(config.rank, shape[1])
        return StorageCost(
            shape[0] * row_bytes(_used_bits(config, rank), 1),
            codebook_bytes=rank * shape[1] * DTYPES[config.basis_dtype].itemsize,
            side_bytes=4 * shape[1] + (1 + 4) * rank,
        )

    @classmethod
    def check(cls, config: Any, shape: tuple[int, int]) -> Skip | None:
        """More axes than the table has, or more bits than the axes take, make no sense."""
        if config.rank > min(shape):
            return Skip(f"rank {config.rank} is more than a table of {shape[0]} x {shape[1]} can have")
        if config.row_bits > _MOST_BITS * config.rank:
            return Skip(f"row_bits {config.row_bits} is more than {_MOST_BITS} for each of {config.rank} axes")
        return None

    @classmethod
    def examples(cls) -> Sequence[TransformConfig]:
        """Few bits, many bits, and not a whole number of bytes."""
        return [
            TransformConfig(row_bits=16, rank=8, basis_dtype="float16"),
            TransformConfig(row_bits=64, rank=16),
            TransformConfig(row_bits=27, rank=6),
        ]

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        mean, _, axes = principal_axes(table.vectors, weights)
        basis = axes[: self.config.rank]
        coordinates = Coordinates(table.vectors, mean, basis)
        distortion, scales = _measure(coordinates, weights)
        bits = allocate(distortion, _used_bits(self.config, len(basis)))
        state = {
            "basis": basis.to(DTYPES[self.config.basis_dtype]),
            "mean": mean.to(torch.float32),
            "bits": bits.to(torch.uint8),
            "scale": scales.gather(0, bits[None])[0].to(torch.float32),
        }
        chunks = coordinates.chunks(self.chunk_rows)
        state["codes"] = joined((_encode(values, bits, state["scale"]) for _, values in chunks), len(coordinates))
        self._set_state(state)
        yield FitStep("transform", 1.0)

    def coordinates(self, ids: Tensor) -> Tensor:
        """Coordinates of rows ``ids``: (B,) -> (B, r) float32."""
        self._require_fitted()
        bits = self._state["bits"].to(torch.int64)
        # All levels in one row: those of b bits begin at 2^b - 1, after the 0 of no bits.
        levels = torch.cat([torch.zeros(1)] + [gaussian_levels(b) for b in range(1, int(bits.max()) + 1)]).to(bits.device)
        codes = unpack_widths(self._state["codes"][ids], bits)
        return levels[codes + (1 << bits) - 1] * self._state["scale"]

    def verify(self) -> None:
        """No axis has more bits than there are levels for."""
        bits = self._state["bits"]
        most, used = int(bits.max()), _used_bits(self.config, len(self._state["basis"]))
        if most > _MOST_BITS or int(bits.sum(dtype=torch.int64)) != used:
            raise InputError(f"its axes have up to {most} bits, {used} in all are expected and at most {_MOST_BITS} each")

    def reconstruct(self, ids: Tensor) -> Tensor:
        """Coordinates times axes, plus the mean."""
        self._require_fitted()
        basis, mean = self._state["basis"].to(torch.float32), self._state["mean"]
        parts = torch.split(ids, max(1, _CHUNK_VALUES // len(basis)))
        return torch.cat([self.coordinates(part) @ basis + mean for part in parts])


def _used_bits(config: Any, rank: int) -> int:
    return int(min(config.row_bits, _MOST_BITS * rank))


def _measure(coordinates: Coordinates, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean squared error of each axis at 0 to 8 bits, and the scale of the levels: two (9, r) float64 tensors.

    Each scale of a grid is tried, on a histogram of all rows over 16 root mean squares.
    """
    unit = _root_mean_square(coordinates, weights)
    span = 16 * torch.where(unit > 0, unit, 1.0)
    count, first, second = sums_per_part(coordinates.chunks(), -span / 2, span, _PARTS, weights) / len(coordinates)
    middles = (torch.arange(_PARTS, dtype=torch.float64, device=unit.device) + 0.5) / _PARTS
    grid = torch.tensor(_SCALES, dtype=torch.float64, device=unit.device)[:, None]
    distortion = [(second - first + count / 4).sum(dim=0)]  # of the value 0, the middle of the span
    scales = [torch.zeros_like(unit, dtype=torch.float64)]
    for bits in range(1, _MOST_BITS + 1):
        nearest = _quantize((middles - 0.5) * 16 / grid, bits)[1] * grid / 16 + 0.5
        errors = second.sum(dim=0) - 2 * nearest @ first + nearest.square() @ count
        least, which = errors.min(dim=0)
        distortion.append(least)
        scales.append(grid[which, 0] * unit)
    return torch.stack(distortion) * span.square(), torch.stack(scales)


def _root_mean_square(coordinates: Coordinates, weights: Tensor | None) -> Tensor:
    """Of each axis, in units of its largest value, whose square may leave float32: (r,)."""
    low, high = coordinates.ends()
    largest = torch.maximum(-low, high)
    unit = torch.where(largest > 0, largest, 1.0)
    total = torch.zeros_like(unit)
    for rows, values in coordinates.chunks():
        squares = (values / unit).square()
        total += squares.sum(dim=0) if weights is None else weights[rows] @ squares
    return unit * (total / len(coordinates)).sqrt()


def _quantize(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes of the nearest levels, int32, and the levels."""
    levels = gaussian_levels(bits).to(values.device)
    codes = torch.bucketize(values.contiguous(), (levels[1:] + levels[:-1]) / 2, out_int32=True)
    return codes, levels[codes]


def allocate(distortion: Tensor, total_bits: int) -> Tensor:
    """Bits of each axis: ``total_bits``, one after another to where the distortion falls the most.

    Args:
        distortion: (most + 1, r), the error of each axis at 0 to ``most`` bits.
        total_bits: at most ``most * r``.

    Returns:
        (r,) int64, their sum ``total_bits``.
    """
    # A further bit never counts for more than the one before it, so that taking the largest gains takes bits in their order.
    gains = (distortion[:-1] - distortion[1:]).cummin(dim=0).values
    order = gains.reshape(-1).argsort(descending=True, stable=True)[:total_bits]
    return torch.bincount(order % distortion.shape[1], minlength=distortion.shape[1])


def _encode(coordinates: Tensor, bits: Tensor, scale: Tensor) -> Tensor:
    parts = []
    for part in torch.split(coordinates, max(1, _CHUNK_VALUES // len(bits))):
        codes = torch.zeros(part.shape, dtype=torch.int32, device=part.device)
        for width in range(1, int(bits.max()) + 1):
            if bool((bits == width).any()):
                mine = (bits == width).nonzero()[:, 0]
                codes[:, mine] = _quantize(part[:, mine] / torch.where(scale[mine] > 0, scale[mine], 1.0), width)[0]
        parts.append(pack_widths(codes, bits))
    return torch.cat(parts)
