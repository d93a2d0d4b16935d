"""Tensor train: the table as a tensor of many short sides, kept as a chain of small cores.

Papers: Oseledets, "Tensor-Train Decomposition" (SIAM J. Sci. Comput. 2011), algorithm 1 (TT-SVD); Hrinchuk et al.,
"Tensorized Embedding Layers" (Findings of EMNLP 2020); Yin et al., "TT-Rec" (MLSys 2021).
Equation: N = n_1 .. n_K and D = d_1 .. d_K (padded), row i has the digits i_1 .. i_K in the mixed radix n_1 .. n_K, and
    x_hat[i, (j_1 .. j_K)] = G_1[i_1, j_1] G_2[i_2, j_2] .. G_K[i_K, j_K],
where core G_k holds an r_{k-1} x r_k matrix for each of n_k * d_k pairs, r_0 = r_K = 1, and no r_k is above ``tt_rank`` or
above what an exact train of the table has.

Chosen where the papers are silent: the factors of N and D are as even as numbers near them allow, the smallest in the middle
of the train, where a core's size goes with the square of the rank; all cores are scaled alike after the decomposition, so
that float16 neither overflows nor underflows. The papers train the cores with the task, from random ones; here they start
from TT-SVD of a table and a task may go on training them (``training_module``). Rows keep their order: sorting them so that
similar rows share digits would need the order stored, 16 bits a row for 50,000 rows, as much as many a whole train. Row
weights are not used: the error of a train is not a sum over rows that a singular value decomposition could weigh.

Shapes: N rows, D columns, B batch, K num_cores, r ranks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost, generator
from quantizers.coding.dtypes import DTYPES
from quantizers.errors import InputError
from quantizers.table import Table, TableStats

_CHUNK_VALUES = 1 << 22
_EXACT_SIDE = 2048  # up to here the Gram matrix is decomposed as a whole
_OVERSAMPLING, _POWER_STEPS = 16, 2


class TTConfig(QuantizerConfig):
    """The shape of the train.

    Attributes:
        tt_rank: the most that any rank between two cores may be.
        num_cores: K, 2 to 4.
        core_dtype: what the cores are stored in.
    """

    tt_rank: int = Field(default=16, ge=1, le=65_536)
    num_cores: int = Field(default=3, ge=2, le=4)
    core_dtype: Literal["float32", "float16"] = "float32"


@functools.lru_cache(maxsize=1024)
def factors_of(number: int, count: int) -> tuple[int, ...]:
    """``count`` factors for a side of ``number``: their product is the next number that has even ones.

    Even: none above twice the count-th root. The smallest are in the middle, the largest is first.
    """
    root = 1
    while root**count < number:
        root += 1
    product = number
    while (found := _split(product, count, 2 * root)) is None:
        product += 1
    ordered = sorted(found, reverse=True)
    return tuple(ordered[::2] + ordered[1::2][::-1])


def _split(product: int, count: int, most: int) -> tuple[int, ...] | None:
    """``count`` factors of ``product``, none above ``most``, of the least sum; None where there are none."""
    if count == 1:
        return (product,) if product <= most else None
    best: tuple[int, ...] | None = None
    for factor in range(-(-product // most ** (count - 1)), most + 1):
        if product % factor == 0:
            rest = _split(product // factor, count - 1, most)
            if rest is not None and (best is None or factor + sum(rest) < sum(best)):
                best = (factor, *rest)
    return best


def core_shapes(config: Any, shape: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """(n_k, r_{k-1}, d_k, r_k) of each core, as they are stored."""
    rows, columns = factors_of(shape[0], config.num_cores), factors_of(shape[1], config.num_cores)
    sides = [n * d for n, d in zip(rows, columns, strict=True)]
    ranks = [1]
    for k in range(1, config.num_cores):
        ranks.append(min(config.tt_rank, math.prod(sides[:k]), math.prod(sides[k:])))
    ranks.append(1)
    return [(n, ranks[k], d, ranks[k + 1]) for k, (n, d) in enumerate(zip(rows, columns, strict=True))]


class TT(Quantizer):
    """A chain of cores that multiply to a row."""

    name = "tt"
    Config = TTConfig
    reference = "Oseledets 2011, algorithm 1; Hrinchuk et al. 2020, section 3"
    state_roles: ClassVar[dict[str, Role]] = {f"core_{k}": "codebook" for k in range(4)}
    lookup = False

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[TTConfig] | Skip:
        """The largest rank that fits, in float16, of two cores, whose one decomposition is optimal."""
        fitting = [cls._largest(budget, stats.shape, num_cores) for num_cores in (2, 3)]
        found = [config for config in fitting if config is not None]
        if found:
            return found
        least = min(cls.storage(cls._proposal(1, num_cores), stats.shape).payload_bytes for num_cores in (2, 3))
        return Skip(f"a train of rank 1 takes {least} bytes")

    @staticmethod
    def _proposal(rank: int, num_cores: int) -> TTConfig:
        return TTConfig(tt_rank=rank, num_cores=num_cores, core_dtype="float16")

    @classmethod
    def _largest(cls, budget: Budget, shape: tuple[int, int], num_cores: int) -> TTConfig | None:
        low, high = 0, cls._full_rank(shape, num_cores)
        while low < high:
            middle = (low + high + 1) // 2
            fits = cls.storage(cls._proposal(middle, num_cores), shape).payload_bytes <= budget.payload_bytes
            low, high = (middle, high) if fits else (low, middle - 1)
        return cls._proposal(low, num_cores) if low else None

    @staticmethod
    def _full_rank(shape: tuple[int, int], num_cores: int) -> int:
        """The rank of a train that is exact whatever the table."""
        return max(core[3] for core in core_shapes(TTConfig(tt_rank=65_536, num_cores=num_cores), shape))

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """The cores, exact."""
        values = sum(math.prod(core) for core in core_shapes(config, shape))
        return StorageCost(0, codebook_bytes=values * DTYPES[config.core_dtype].itemsize)

    @classmethod
    def from_state(cls, config: Any, state: Mapping[str, Tensor], *, shape: tuple[int, int]) -> Self:
        """See :meth:`Quantizer.from_state`.

        Raises:
            InputError: the table has more rows or columns than the cores do. Factors of such numbers could take for ever.
        """
        sides = [tuple(state[f"core_{k}"].shape) for k in range(config.num_cores)]
        if any(len(core) != 4 or 0 in core for core in sides):
            raise InputError(f"its cores have the shapes {', '.join(map(str, sides))}, not four sides each")
        most = math.prod(core[0] for core in sides), math.prod(core[2] for core in sides)
        if shape[0] > most[0] or shape[1] > most[1]:
            raise InputError(f"its cores have {most[0]} rows of {most[1]} columns")
        return super().from_state(config, state, shape=shape)

    @classmethod
    def examples(cls) -> Sequence[TTConfig]:
        """Two to four cores."""
        return [
            TTConfig(tt_rank=8, num_cores=3),
            TTConfig(tt_rank=20, num_cores=2, core_dtype="float16"),
            TTConfig(tt_rank=4, num_cores=4),
        ]

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        shapes = core_shapes(self.config, table.shape)
        rest = _as_tensor(table.vectors, [core[0] for core in shapes], [core[2] for core in shapes])
        # Values of about 1, so that Gram matrices neither overflow nor vanish; the scale goes back in at the end.
        unit = float(torch.linalg.vector_norm(rest, torch.inf)) or 1.0
        rest = rest.div_(unit).reshape(1, -1)
        cores = []
        for k, (n, before, d, after) in enumerate(shapes[:-1]):
            matrix = rest.reshape(before * n * d, -1)
            axes = _left_axes(matrix, after, generator(seed, k))
            rest = axes.T @ matrix
            cores.append(axes.reshape(before, n, d, after).transpose(0, 1))
            yield FitStep("decompose", (k + 1) / len(shapes))
        n, before, d, after = shapes[-1]
        cores.append(rest.reshape(before, n, d, after).transpose(0, 1))
        self._set_state(_levelled(cores, unit, DTYPES[self.config.core_dtype]))
        yield FitStep("decompose", 1.0)

    def reconstruct(self, ids: Tensor) -> Tensor:
        """Multiply the cores at the digits of each id."""
        self._require_fitted()
        cores = [self._state[f"core_{k}"].to(torch.float32) for k in range(self.config.num_cores)]
        widest = max(core[0].numel() for core in cores)
        parts = torch.split(ids, max(1, _CHUNK_VALUES // max(widest, self.embedding_dim)))
        return torch.cat([_product(cores, part).flatten(1)[:, : self.embedding_dim] for part in parts])


def _product(cores: Sequence[Tensor], ids: Tensor) -> Tensor:
    """Rows ``ids`` of a train of K cores (n_k, r_{k-1}, d_k, r_k): (B,) -> (B, d_1 * .. * d_K, r_K)."""
    n, before, d, after = cores[-1].shape
    if len(cores) == 1:
        return cores[0].index_select(0, ids).reshape(len(ids), d, after)
    # Rows that agree in all digits but the last share the product of all cores but the last.
    prefixes, which = torch.unique(torch.div(ids, n, rounding_mode="floor"), return_inverse=True)
    left = _product(cores[:-1], prefixes).index_select(0, which)
    right = cores[-1].index_select(0, ids % n).reshape(len(ids), before, d * after)
    return torch.bmm(left, right).reshape(len(ids), left.shape[1] * d, after)


def _as_tensor(vectors: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """The padded table with its sides in the order n_1, d_1, n_2, d_2, ..: (N, D) -> (n_1 * d_1 * n_2 * ..,)."""
    count = len(rows)
    sides = [side for k in range(count) for side in (k, count + k)]
    # Blocks of rows with the same first digit, each padded and laid out alone: never a second copy of the table.
    block = math.prod(rows[1:])
    out = torch.zeros([size for pair in zip(rows, columns, strict=True) for size in pair], device=vectors.device)
    for first, part in enumerate(torch.split(vectors, block)):
        padding = (0, math.prod(columns) - vectors.shape[1], 0, block - len(part))
        padded = torch.nn.functional.pad(part, padding).reshape(1, *rows[1:], *columns)
        out[first] = padded.permute(sides)[0]
    return out.reshape(-1)


def _left_axes(matrix: Tensor, rank: int, random: torch.Generator) -> Tensor:
    """The first left singular vectors of a matrix: (a, b) -> (a, rank).

    From the shorter side's Gram matrix in float64; where that would be large, from a random subspace that is turned towards
    them (Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.1).
    """
    a, b = matrix.shape
    if min(a, b) > _EXACT_SIDE:
        return _sampled_axes(matrix, rank, random)
    if a <= b:
        return _first_axes(matrix.T, rank)[1].to(torch.float32)
    values, vectors = _first_axes(matrix, rank)
    # Axes that the matrix does not reach are left 0: nothing is read through them.
    inverse = torch.where(values > 1e-12 * values[0], values, torch.inf).rsqrt()
    return torch.mm(matrix, (vectors * inverse).to(torch.float32))


def _first_axes(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Of X^T X, in float64, the largest eigenvalues and their vectors: (a, b) -> (rank,), (b, rank)."""
    total = torch.zeros((matrix.shape[1], matrix.shape[1]), dtype=torch.float64, device=matrix.device)
    for part in torch.split(matrix, max(1, _CHUNK_VALUES // matrix.shape[1])):
        rows = part.to(torch.float64)
        total.addmm_(rows.T, rows)
    values, vectors = torch.linalg.eigh(total)
    return values.flip(0)[:rank].clamp_min(0), vectors.flip(1)[:, :rank]


def _sampled_axes(matrix: Tensor, rank: int, random: torch.Generator) -> Tensor:
    width = min(rank + _OVERSAMPLING, *matrix.shape)
    basis = matrix @ torch.randn(matrix.shape[1], width, generator=random).to(matrix.device)
    for _ in range(_POWER_STEPS):
        basis, _ = torch.linalg.qr(basis)
        basis = matrix @ torch.linalg.qr(matrix.T @ basis)[0]
    basis, _ = torch.linalg.qr(basis)
    _, vectors = _first_axes((basis.T @ matrix).T, rank)
    return torch.mm(basis, vectors.to(torch.float32))


def _levelled(cores: Sequence[Tensor], unit: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """The cores times numbers whose product is ``unit``, such that their largest values are equal."""
    largest = [float(core.abs().max()) or 1.0 for core in cores]
    common = math.exp((math.log(unit) + sum(math.log(value) for value in largest)) / len(cores))
    limit = torch.finfo(dtype).max
    return {
        f"core_{k}": (core * (common / value)).clamp(-limit, limit).to(dtype)
        for k, (core, value) in enumerate(zip(cores, largest, strict=True))
    }
