"""Uniform scalar quantization of every value to 1 to 8 bits (QWE).

Ling, Song & Roth, "Word Embeddings with Limited Memory", ACL 2016: every value is rounded to one of 2^b evenly spaced
levels. x_hat = code * scale + zero_point, codes 0 .. 2^b - 1.

The paper truncates to a fixed range. Here the range comes from the data, one for the whole table, each column, or each
row: ``clip="none"`` spans the smallest to the largest value; ``clip="mse"`` (the default) takes the width with the smallest
squared error, by golden-section search around the mean and around the middle (May et al., "On the Downstream Performance
of Compressed Word Embeddings", NeurIPS 2019, smallfry), and then alternates between codes and the least-squares scale and
zero point for them, neither of which can make the error larger.

Shapes: N rows, D columns, G groups (1, D or N), b bits, L code bytes a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from quantizers.additive import codebook_dtype_for
from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost
from quantizers.packing import pack, row_bytes, unpack
from quantizers.table import Table, TableStats

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_GOLDEN = (5**0.5 - 1) / 2
_SEARCH_STEPS = 12  # leaves half a per cent of the range; the alternation does the rest
_REFINE_STEPS = 10
_CHUNK_VALUES = 1 << 22


class ScalarConfig(QuantizerConfig):
    """Parameters of uniform scalar quantization.

    Attributes:
        bits: b, bits a value.
        scales: what shares one range: the table, each column, or each row.
        clip: ``mse`` narrows the range to where the squared error is smallest; ``none`` spans all values.
        scale_dtype: what scales and zero points are stored in.
    """

    bits: int = Field(default=4, ge=1, le=8)
    scales: Literal["table", "column", "row"] = "column"
    clip: Literal["mse", "none"] = "mse"
    scale_dtype: Literal["float32", "float16"] = "float32"


class Scalar(Quantizer):
    """Every value rounded to one of 2^bits even levels. State: ``codes`` (N, L), ``scale`` and ``zero_point`` (G,)."""

    name = "scalar"
    Config = ScalarConfig
    reference = "Ling et al., ACL 2016 (QWE); clipping as in May et al., NeurIPS 2019"
    state_roles: ClassVar[dict[str, Role]] = {"codes": "code", "scale": "side", "zero_point": "side"}
    uses_weights = True

    @classmethod
    def examples(cls) -> Sequence[ScalarConfig]:
        """A range for each kind of group, clipped and not."""
        return [
            ScalarConfig(),
            ScalarConfig(bits=3, scales="row", scale_dtype="float16"),
            ScalarConfig(bits=8, scales="table", clip="none"),
        ]

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[ScalarConfig] | Skip:
        """The most bits that fit with a range for each column; beside it a range for each row, where that fits too.

        Which of the two is better depends on whether columns or rows differ more in spread; the rows' ranges cost bytes.
        """
        small = codebook_dtype_for(stats)
        for bits in range(8, 0, -1):
            candidates = [
                ScalarConfig(bits=bits, scales="column"),
                ScalarConfig(bits=bits, scales="row", scale_dtype=small),
                ScalarConfig(bits=bits, scales="table"),
            ]
            sizes = [cls.storage(config, stats.shape).payload_bytes for config in candidates]
            fitting = [one for one, size in zip(candidates, sizes, strict=True) if size <= budget.payload_bytes]
            if fitting:
                return fitting[:-1] or fitting  # a range for the whole table only where nothing finer fits
        return Skip(f"one bit a value takes {sizes[-1]} bytes with its scale")

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """``N * ceil(D * b / 8)`` bytes of codes and two numbers a group."""
        groups = {"table": 1, "column": shape[1], "row": shape[0]}[config.scales]
        side = 2 * groups * _DTYPES[config.scale_dtype].itemsize
        return StorageCost(shape[0] * row_bytes(shape[1], config.bits), 0, side)

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        scale, zero_point = _ranges(table.vectors, self.config, weights)
        yield FitStep("range", 0.5)
        # Codes are for the scales as they are stored, so that rounding those costs as little as it can.
        dtype = _DTYPES[self.config.scale_dtype]
        squared = self._encode(table.vectors, _stored(scale, dtype), _stored(zero_point, dtype))
        yield FitStep("encode", 1.0, squared / (2 * table.num_embeddings))

    @torch.no_grad()
    def _encode(self, vectors: Tensor, scale: Tensor, zero_point: Tensor) -> float:
        """Keep the codes; returns the squared error."""
        codes = torch.empty((len(vectors), row_bytes(vectors.shape[1], self.config.bits)), dtype=torch.uint8)
        codes = codes.to(vectors.device)
        squared = 0.0
        for start, rows in _chunks(vectors):
            step, zero = _of(scale, start, rows, self.config.scales), _of(zero_point, start, rows, self.config.scales)
            code = _codes(rows, step, zero, self.config.bits)
            squared += float((code * step + zero - rows).square_().sum(dtype=torch.float64))
            codes[start : start + len(rows)] = pack(code.to(torch.int64), self.config.bits)
        self._set_state({"codes": codes, "scale": scale, "zero_point": zero_point})
        return squared

    def codes(self, ids: Tensor | None = None) -> Tensor:
        """Codes of rows ``ids`` (default: of all): (B, D) int64."""
        packed = self.state()["codes"]
        return unpack(packed if ids is None else packed[ids], self.embedding_dim, self.config.bits)

    def reconstruct(self, ids: Tensor) -> Tensor:
        """``code * scale + zero_point``: (B, D) float32."""
        self._require_fitted()
        scale, zero_point = (self._state[name].to(torch.float32) for name in ("scale", "zero_point"))
        if self.config.scales == "row":
            scale, zero_point = scale[ids, None], zero_point[ids, None]
        return self.codes(ids).to(torch.float32) * scale + zero_point


def _stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max
    return values.clamp(-largest, largest).to(dtype)


def _of(values: Tensor, start: int, rows: Tensor, scales: str) -> Tensor:
    """The groups' values as float32, shaped to go with ``rows``, the rows from ``start`` on."""
    values = values.to(torch.float32)
    return values[start : start + len(rows), None] if scales == "row" else values


def _chunks(vectors: Tensor) -> Iterator[tuple[int, Tensor]]:
    step = max(1, _CHUNK_VALUES // vectors.shape[1])
    for start in range(0, len(vectors), step):
        yield start, vectors[start : start + step]


def _codes(rows: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Nearest levels, as floats; a group without any width has scale 0 and code 0."""
    width = torch.where(scale > 0, scale, 1.0)
    return ((rows - zero_point) / width).round_().clamp_(0, (1 << bits) - 1).mul_(scale > 0)


@torch.no_grad()
def _ranges(vectors: Tensor, config: Any, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale and zero point of every group: (G,) each."""
    levels = (1 << config.bits) - 1
    low, high = _reduce(vectors, config.scales, torch.amin), _reduce(vectors, config.scales, torch.amax)
    whole = (high / levels - low / levels, low)  # two divisions: high - low may be more than float32 holds
    if config.clip == "none":
        return whole
    groups = _Groups(vectors, config, weights)
    best, at_best = whole, groups.error(*whole)
    for centre in (groups.means().clamp(low, high), low / 2 + high / 2):
        found = _golden_section(groups, centre, torch.maximum(high - centre, centre - low), levels)
        at_found = groups.error(*found)
        best = _better(found, best, at_found < at_best)
        at_best = torch.minimum(at_found, at_best)
    for _ in range(_REFINE_STEPS):
        found = groups.least_squares(*best)
        at_found = groups.error(*found)
        best = _better(found, best, at_found < at_best)
        at_best = torch.minimum(at_found, at_best)
    return best


_Range = tuple[Tensor, Tensor]


def _better(a: _Range, b: _Range, take_a: Tensor) -> _Range:
    return torch.where(take_a, a[0], b[0]), torch.where(take_a, a[1], b[1])


def _reduce(vectors: Tensor, scales: str, how: Callable[..., Tensor]) -> Tensor:
    if scales == "row":
        return torch.cat([how(rows, dim=1) for _, rows in _chunks(vectors)])
    per_column = how(torch.stack([how(rows, dim=0) for _, rows in _chunks(vectors)]), dim=0)
    return per_column if scales == "column" else how(per_column, dim=0, keepdim=True)


class _Groups:
    """Sums over the values that share a range; a row's weight does not change its own best range."""

    def __init__(self, vectors: Tensor, config: Any, weights: Tensor | None) -> None:
        self.vectors = vectors
        self.scales: str = config.scales
        self.bits: int = config.bits
        self.weights = None if self.scales == "row" else weights

    def sums(self, of: Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]], scale: Tensor, zero: Tensor) -> list[Tensor]:
        """``of(rows, scale, zero point)`` gives values like ``rows``; their weighted sums over each group, (G,) float64."""
        parts: list[list[Tensor]] = []
        for start, rows in _chunks(self.vectors):
            values = of(rows, _of(scale, start, rows, self.scales), _of(zero, start, rows, self.scales))
            if self.weights is not None:
                values = [value * self.weights[start : start + len(rows), None] for value in values]
            parts.append([value.sum(dim=1 if self.scales == "row" else 0, dtype=torch.float64) for value in values])
        columns = zip(*parts, strict=True)
        if self.scales == "row":
            return [torch.cat(column) for column in columns]
        totals = [torch.stack(column).sum(dim=0) for column in columns]
        return totals if self.scales == "column" else [total.sum(dim=0, keepdim=True) for total in totals]

    def means(self) -> Tensor:
        """Mean of every group."""
        none = torch.zeros(1, device=self.vectors.device).expand(len(self.vectors))
        total, count = self.sums(lambda rows, scale, zero: (rows, torch.ones_like(rows)), none, none[:1])
        return (total / count).to(torch.float32)

    def error(self, scale: Tensor, zero: Tensor) -> Tensor:
        """Squared error of every group."""
        return self.sums(
            lambda rows, scale, zero: [(_codes(rows, scale, zero, self.bits) * scale + zero - rows).square_()], scale, zero
        )[0]

    def least_squares(self, scale: Tensor, zero: Tensor) -> _Range:
        """The best scale and zero point for the codes that ``scale`` and ``zero`` give."""

        def moments(rows: Tensor, scale: Tensor, zero: Tensor) -> Sequence[Tensor]:
            code = _codes(rows, scale, zero, self.bits)
            return torch.ones_like(rows), code, code.square(), rows, code * rows

        count, k, kk, x, kx = self.sums(moments, scale, zero)
        spread = kk - k * k / count
        slope = torch.where(spread > 0, (kx - k * x / count) / spread.clamp_min(1e-12), scale.to(torch.float64))
        slope = slope.clamp_min(0)
        return slope.to(torch.float32), ((x - slope * k) / count).to(torch.float32)


def _golden_section(groups: _Groups, centre: Tensor, radius: Tensor, levels: int) -> _Range:
    """For every group at once the range around ``centre``, at most ``radius`` to each side, with the smallest error."""

    def range_of(share: Tensor) -> _Range:
        half = radius * share
        return half * (2 / levels), centre - half

    low, high = torch.zeros_like(radius), torch.ones_like(radius)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = groups.error(*range_of(left)), groups.error(*range_of(right))
    for _ in range(_SEARCH_STEPS):
        go_left = at_left < at_right
        high, low = torch.where(go_left, right, high), torch.where(go_left, low, left)
        new = torch.where(go_left, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        at_new = groups.error(*range_of(new))
        left, right = torch.where(go_left, new, right), torch.where(go_left, left, new)
        at_left, at_right = torch.where(go_left, at_new, at_right), torch.where(go_left, at_left, at_new)
    return range_of(torch.where(at_left < at_right, left, right))
