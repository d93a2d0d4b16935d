"""Scalar quantization: every value by itself, to one of 2**bits levels of its table, column or row.

Papers: Ling, Song & Roth, ACL 2016 (quantized word embeddings, QWE); May et al., NeurIPS 2019 (smallfry) for the clipping
at the least squared error. x_hat = zero_point_g + scale_g * level[code], g the table, the column or the row of the value.

Levels are 0 .. 2**bits - 1 (``uniform``), or one table of 2**bits levels, shared by all groups and fitted by k-means to the
values after each group's mean is taken off and its standard deviation divided out (``kmeans``, Lloyd-Max).

Left open there, chosen here: a uniform grid spans the group's range (``clip="none"``), or what a search finds to have the
least squared error (``clip="mse"``): golden section for the width around the mean and around the middle of the range, then
least squares for scale and zero point with the codes given, and codes anew, none of which makes the error larger. Scales
are rounded to ``scale_dtype`` before the codes are chosen.

Payload: ``N * ceil(D * bits / 8)`` bytes of codes, two numbers a group, and 4 bytes a level where levels are fitted.

Shapes: N rows, D columns, B batch, L code bytes a row, G groups: 1, D or N.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost, generator
from quantizers.coding.bits import pack, row_bytes, unpack
from quantizers.coding.dtypes import DTYPES, codebook_dtype_for
from quantizers.fitting.kmeans import kmeans, power_of_two
from quantizers.table import Table, TableStats

_GOLDEN = (5**0.5 - 1) / 2
_SEARCH_STEPS = 12  # leaves half a percent of the range; least squares does the rest
_LEAST_SQUARES_STEPS = 4
_LEVEL_VALUES = 1 << 18  # values that the levels are fitted to
_CHUNK_VALUES = 1 << 18  # values at once: a step holds several arrays of this many


class ScalarConfig(QuantizerConfig):
    """Parameters of scalar quantization.

    Attributes:
        bits: of one value, 1 to 8.
        scales: what shares one scale and zero point: the table, a column, or a row.
        levels: evenly spaced, or fitted by k-means.
        clip: for uniform levels: ``mse`` cuts values off at the least squared error, ``none`` spans them all.
        scale_dtype: what scales and zero points are stored in.
    """

    bits: int = Field(default=4, ge=1, le=8)
    scales: Literal["table", "column", "row"] = "column"
    levels: Literal["uniform", "kmeans"] = "uniform"
    clip: Literal["mse", "none"] = "mse"
    scale_dtype: Literal["float32", "float16"] = "float32"


class Scalar(Quantizer):
    """Scalar quantization (QWE)."""

    name = "scalar"
    Config = ScalarConfig
    reference = "Ling et al., ACL 2016; May et al., NeurIPS 2019"
    state_roles: ClassVar[dict[str, Role]] = {
        "codes": "code",
        "scale": "side",
        "zero_point": "side",
        "levels": "codebook",
    }
    uses_weights = True
    learns_on_sample = True

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[ScalarConfig] | Skip:
        """The most bits that fit, with the kind of scale that leaves the least error; then the even grid of the paper.

        Of equal bits, a scale for each row leaves less error than levels by k-means in columns, and those less than even
        levels in columns (on GloVe, 4 bits: half MSE 0.117, 0.141, 0.175); a row's scale takes 4 bytes.
        """
        kinds: list[dict[str, Any]] = [
            {"scales": "row"},
            {"scales": "column", "levels": "kmeans"},
            {"scales": "column"},
            {"scales": "table"},
        ]
        dtype = codebook_dtype_for(stats, smallest=1e-2)  # a step of 8 bits is 50 times smaller
        configs = [ScalarConfig(bits=bits, scale_dtype=dtype, **kind) for bits in range(8, 0, -1) for kind in kinds]
        fitting = [one for one in configs if cls.storage(one, stats.shape).payload_bytes <= budget.payload_bytes]
        if not fitting:
            return Skip(f"one bit a value, and scales, take more than {budget.payload_bytes} bytes")
        paper = [config for config in fitting if config.scales == "column" and config.levels == "uniform"]
        return list(dict.fromkeys(fitting[:1] + paper[:1]))

    @classmethod
    def examples(cls) -> Sequence[ScalarConfig]:
        """Every granularity, both kinds of levels, with and without clipping."""
        return [
            ScalarConfig(bits=4),
            ScalarConfig(bits=3, levels="kmeans", scale_dtype="float16"),
            ScalarConfig(bits=1, scales="row"),
            ScalarConfig(bits=8, scales="table", clip="none"),
            ScalarConfig(bits=2, scales="row", levels="kmeans"),
        ]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Codes, scales and zero points, levels; exact."""
        groups = {"table": 1, "column": shape[1], "row": shape[0]}[config.scales]
        return StorageCost(
            shape[0] * row_bytes(shape[1], config.bits),
            4 << config.bits if config.levels == "kmeans" else 0,
            2 * groups * DTYPES[config.scale_dtype].itemsize,
        )

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        config = self.config
        values = _Values(table.vectors, weights, config.scales)
        top = (1 << config.bits) - 1
        state = {}
        if config.levels == "kmeans":
            zero_point, scale = values.mean, values.deviation()
        elif config.clip == "mse":
            zero_point, scale = values.best_grid(top)
        else:
            low, high = values.range()
            zero_point, scale = low, (high - low) / top
        zero_point, scale = self._rounded(zero_point, values.unit), self._rounded(scale, values.unit)
        if config.levels == "kmeans":
            state["levels"] = values.fit_levels(zero_point, scale, top + 1, seed)
        yield FitStep("scales", 0.5)
        shape = table.num_embeddings, row_bytes(table.embedding_dim, config.bits)
        codes = torch.empty(shape, dtype=torch.uint8, device=table.vectors.device)
        error = 0.0
        begin = time.perf_counter()
        for rows, x in values.chunks(self.chunk_rows):
            shift, unit = _of(zero_point, rows), _of(scale, rows)
            if state:
                bounds = (state["levels"][1:] + state["levels"][:-1]) / 2
                found = torch.bucketize((x - shift) / torch.where(unit > 0, unit, 1.0), bounds)
                levels = state["levels"][found]
            else:
                levels = _grid_codes(x, shift, unit, top)
                found = levels.to(torch.int32)
            codes[rows] = pack(found, config.bits)
            error += float((x - (shift + unit * levels)).square().sum(dtype=torch.float64))
        self.encode_seconds = time.perf_counter() - begin
        dtype = DTYPES[config.scale_dtype]
        self._set_state(
            {
                "codes": codes,
                "scale": (scale * values.unit).reshape(-1).to(dtype),
                "zero_point": (zero_point * values.unit).reshape(-1).to(dtype),
                **state,
            }
        )
        half = 0.5 * error / len(table.vectors) * values.unit**2
        yield FitStep("encode", 1.0, half if math.isfinite(half) else None)

    def _rounded(self, x: Tensor, unit: float) -> Tensor:
        """As it will be read back."""
        dtype = DTYPES[self.config.scale_dtype]
        largest = torch.finfo(dtype).max
        return (x * unit).clamp(-largest, largest).to(dtype).to(torch.float32) / unit

    def codes(self, ids: Tensor | None = None) -> Tensor:
        """Codes of rows ``ids`` (default: of all): (B, D) int64."""
        packed = self.state()["codes"]
        return unpack(packed if ids is None else packed[ids], self.embedding_dim, self.config.bits)

    def reconstruct(self, ids: Tensor) -> Tensor:
        """See :meth:`Quantizer.reconstruct`."""
        self._require_fitted()
        state = self._state
        codes = self.codes(ids)
        levels = state["levels"][codes] if "levels" in state else codes.to(torch.float32)
        scale, zero_point = state["scale"].to(torch.float32), state["zero_point"].to(torch.float32)
        if self.config.scales == "row":
            scale, zero_point = scale[ids, None], zero_point[ids, None]
        return zero_point + scale * levels


class _Values:
    """The table in a unit in which its values are at most 1, seen group by group.

    What is per group has the shape (1, 1), (1, D) or (N, 1), so that it broadcasts against rows.
    """

    def __init__(self, x: Tensor, weights: Tensor | None, scale: str) -> None:
        self.x = x
        self.unit = power_of_two(x)
        self.weights = torch.ones(len(x), device=x.device) if weights is None else weights
        self.dims = {"table": (0, 1), "column": (0,), "row": (1,)}[scale]
        self.mean = self.averages(lambda x, rows: [x])[0]

    def chunks(self, chunk_rows: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and their values; for sums always as many at a time, so that they are the same bit for bit."""
        most = max(1, _CHUNK_VALUES // self.x.shape[1])
        step = min(chunk_rows or most, most)
        for start in range(0, len(self.x), step):
            rows = slice(start, start + step)
            yield rows, self.x[rows] / self.unit

    def averages(self, function: Callable[[Tensor, slice], Sequence[Tensor]]) -> list[Tensor]:
        """Weighted means of functions of the values over each group. Within a row all weights are the same."""
        if self.dims == (1,):
            parts = [[each.mean(dim=1, keepdim=True) for each in function(x, rows)] for rows, x in self.chunks()]
            return [torch.cat(each) for each in zip(*parts, strict=True)]
        # Added up as they come: small results kept between large temporaries would pin the allocator's memory.
        totals: list[Tensor] = []
        for rows, x in self.chunks():
            for number, each in enumerate(function(x, rows)):
                total = (each * self.weights[rows, None]).sum(dim=self.dims, keepdim=True, dtype=torch.float64)
                if number == len(totals):
                    totals.append(torch.zeros_like(total))
                totals[number] += total
        count = self.weights.sum(dtype=torch.float64) * (self.x.shape[1] if self.dims == (0, 1) else 1)
        return [(total / count).to(torch.float32) for total in totals]

    def range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value."""
        low = [x.amin(dim=self.dims, keepdim=True) for _, x in self.chunks()]
        high = [x.amax(dim=self.dims, keepdim=True) for _, x in self.chunks()]
        if self.dims == (1,):
            return torch.cat(low), torch.cat(high)
        return torch.cat(low).amin(dim=0, keepdim=True), torch.cat(high).amax(dim=0, keepdim=True)

    def deviation(self) -> Tensor:
        """Standard deviation."""
        return self.averages(lambda x, rows: [(x - _of(self.mean, rows)).square()])[0].sqrt()

    def best_grid(self, top: int) -> tuple[Tensor, Tensor]:
        """Start and step of ``top + 1`` even levels with the least squared error that a search finds.

        Golden section for the width around the mean and around the middle of the range, then least squares for start and
        step with the codes given, and codes anew: of all, and of the whole range, the best for each group.
        """
        low, high = self.range()
        best = low, (high - low) / top
        error = self.error(*best, top)

        def consider(start: Tensor, step: Tensor) -> None:
            nonlocal best, error
            found = self.error(start, step, top)
            better = found < error
            best = torch.where(better, start, best[0]), torch.where(better, step, best[1])
            error = torch.minimum(error, found)

        for centre in (self.mean, (low + high) / 2):
            consider(*self._narrowed(centre, torch.maximum(high - centre, centre - low), top))
        for _ in range(_LEAST_SQUARES_STEPS):
            consider(*self._least_squares(*best, top))
        return best

    def error(self, start: Tensor, step: Tensor, top: int) -> Tensor:
        """Mean squared error of each group."""

        def squares(x: Tensor, rows: slice) -> Sequence[Tensor]:
            first, unit = _of(start, rows), _of(step, rows)
            return [_grid_codes(x, first, unit, top).mul_(unit).add_(first).sub_(x).square_()]

        return self.averages(squares)[0]

    def _narrowed(self, centre: Tensor, reach: Tensor, top: int) -> tuple[Tensor, Tensor]:
        """The grid from centre - r to centre + r, r at most ``reach``, by golden-section search for all groups at once."""

        def grid(radius: Tensor) -> tuple[Tensor, Tensor]:
            return centre - radius, 2 * radius / top

        left, right = torch.zeros_like(reach), reach
        inner, outer = right - _GOLDEN * right, _GOLDEN * right
        at_inner, at_outer = self.error(*grid(inner), top), self.error(*grid(outer), top)
        for _ in range(_SEARCH_STEPS):
            go_left = at_inner < at_outer
            left, right = torch.where(go_left, left, inner), torch.where(go_left, outer, right)
            new = torch.where(go_left, right - _GOLDEN * (right - left), left + _GOLDEN * (right - left))
            at_new = self.error(*grid(new), top)
            inner, outer = torch.where(go_left, new, outer), torch.where(go_left, inner, new)
            at_inner, at_outer = torch.where(go_left, at_new, at_outer), torch.where(go_left, at_inner, at_new)
        return grid(torch.where(at_inner < at_outer, inner, outer))

    def _least_squares(self, start: Tensor, step: Tensor, top: int) -> tuple[Tensor, Tensor]:
        """The best start and step for the codes that ``start`` and ``step`` give."""

        def moments(x: Tensor, rows: slice) -> Sequence[Tensor]:
            code = _grid_codes(x, _of(start, rows), _of(step, rows), top) - top / 2
            value = x - _of(self.mean, rows)
            return code, code.square(), value, code * value

        code, square, value, product = self.averages(moments)
        spread = square - code.square()
        slope = torch.where(spread > 1e-6, (product - code * value) / spread.clamp_min(1e-6), step).clamp_min(0)
        return self.mean + value - slope * (code + top / 2), slope

    def fit_levels(self, zero_point: Tensor, scale: Tensor, count: int, seed: int) -> Tensor:
        """Levels of least squared error for the values (x - zero_point) / scale of all groups, ascending: (count,)."""
        random = generator(seed)
        rows = torch.randperm(len(self.x), generator=random)[: -(-_LEVEL_VALUES // self.x.shape[1])].to(self.x.device)
        shift, unit = (part[rows] if len(part) > 1 else part for part in (zero_point, scale))
        normalized = (self.x[rows] / self.unit - shift) / torch.where(unit > 0, unit, 1.0)
        importance = (self.weights[rows, None] * unit.square()).expand_as(normalized).reshape(-1)
        if not bool((importance > 0).any()):
            importance = torch.ones_like(importance)  # constant groups only
        levels = kmeans(normalized.reshape(-1, 1), count, generator=random, weights=importance, max_rows=_LEVEL_VALUES)
        return levels.flatten().sort().values


def _of(per_group: Tensor, rows: slice) -> Tensor:
    return per_group[rows] if len(per_group) > 1 else per_group


def _grid_codes(x: Tensor, start: Tensor, step: Tensor, top: int) -> Tensor:
    """The nearest of even levels, as floating-point numbers; code 0 where the step is 0."""
    return ((x - start) / torch.where(step > 0, step, torch.inf)).round_().clamp_(0, top)
