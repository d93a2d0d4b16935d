"""Optimized product quantization: product quantization of a rotated table.

Paper: Ge, He, Ke & Sun, CVPR 2013 (non-parametric solution). x_hat = R y_hat, y_hat the product code of y = R^T x. From the
paper's parametric start (principal axes dealt out to the blocks so that the products of their variances are equal) codebooks
with R given (k-means, going on from the round before) and R with the codes given (orthogonal Procrustes: R = U V^T of the
singular value decomposition of X^T Y_hat) take turns.

Payload: that of product quantization (:mod:`quantizers.methods.pq`) and ``D * D * 4`` bytes of R, which is stored as the
codebooks are (``D * D * 2`` in float16, ``D * (D + 2)`` in int8, with a factor for each of its rows).

Shapes: N rows, D columns, B batch, M num_codebooks, K codebook_size.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Budget, FitStep, Role, Skip, StorageCost
from quantizers.coding.codebooks import codewords, stored, stored_bytes
from quantizers.fitting.kmeans import power_of_two
from quantizers.methods.pq import (
    PQ,
    FloatArray,
    PQConfig,
    block_errors,
    block_widths,
    choose,
    fit_books,
    nearest_codes,
)
from quantizers.table import Table, TableStats

_SUMMED_ROWS = 1 << 12  # at a time
_ROUND_STEPS = 4  # k-means steps in a round


class OPQConfig(PQConfig):
    """Parameters of optimized product quantization.

    Attributes:
        rounds: of learning the rotation.
    """

    rounds: int = Field(default=16, ge=0)


class OPQ(PQ):
    """Product quantization in the best rotation that alternation finds."""

    name = "opq"
    Config = OPQConfig
    reference = "Ge et al., CVPR 2013"
    state_roles: ClassVar[dict[str, Role]] = {**PQ.state_roles, "rotation": "side", "rotation_scale": "side"}
    codebook_state: ClassVar[dict[str, bool]] = {"codebooks": True, "rotation": False}
    iterative = True
    lookup = False

    @classmethod
    def examples(cls) -> Sequence[OPQConfig]:
        """Blocks that divide the columns, and blocks that do not."""
        return [
            OPQConfig(num_codebooks=4, codebook_size=16),
            OPQConfig(num_codebooks=3, codebook_size=20, codebook_dtype="float16", rounds=2),
        ]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Codes, codebooks and rotation, exact."""
        cost = PQ.storage(config, shape)
        rotation = stored_bytes(shape[1], shape[1], config.codebook_dtype)
        return StorageCost(cost.code_bytes, cost.codebook_bytes, rotation)

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[PQConfig] | Skip:
        """The K and M of least predicted error, as for product quantization, with the spectra that the rotation gives."""

        @functools.cache
        def spectra(num_codebooks: int) -> list[FloatArray]:
            dealt = stats.eigenvalues[deal_out(stats.eigenvalues, num_codebooks)]
            width, wider = divmod(len(dealt), num_codebooks)
            first = wider * (width + 1)
            parts = dealt[:first].reshape(-1, width + 1), dealt[first:].reshape(-1, width)
            return [part for part in parts if part.size]

        def error_of(num_codebooks: int, bits: float) -> float:
            return sum(block_errors(part, bits) for part in spectra(num_codebooks))

        return choose(cls, budget, stats, error_of)

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        config = self.config
        self._refuse_too_many_blocks(table)
        scale = power_of_two(table.vectors)
        x, weights = self._sample(table.vectors, weights, seed)
        x = x / scale if x is table.vectors else x.div_(scale)
        weight = torch.ones(len(x), device=x.device) if weights is None else weights
        rotation = _principal_axes(x, weight, config.num_codebooks)
        short = config.model_copy(update={"iterations": _ROUND_STEPS})
        books: list[Tensor] | None = None
        for number in range(config.rounds):
            y = x @ rotation
            books = list(fit_books(y, short, seed=seed, weights=weights, start=books))
            error, products = _compare(x, y, weight, books)
            del y
            left, _, right = torch.linalg.svd(products)
            rotation = (left @ right).to(torch.float32)
            yield FitStep("rotation", 0.6 * (number + 1) / config.rounds, 0.5 * error * scale**2)
        turned = stored("rotation", rotation, config.codebook_dtype)
        rotation = codewords(turned, "rotation")  # codebooks and codes are for the rotation as it will be read back
        books = list(fit_books(x @ rotation, config, seed=seed, weights=weights, start=books))
        del x
        yield FitStep("books", 0.9)
        whole = torch.cat(books, dim=1) * scale
        kept = stored("codebooks", whole, config.codebook_dtype, side_by_side=len(books))
        begin = time.perf_counter()
        packed = self._rotated(table.vectors, rotation, codewords(kept, "codebooks"))
        self.encode_seconds = time.perf_counter() - begin
        self._set_state({"codes": packed, **kept, **turned})
        yield FitStep("encode", 1.0)

    def encode(self, vectors: Tensor) -> Tensor:
        """Packed codes of new vectors: (B, D) float32 -> (B, L) uint8."""
        return self._rotated(vectors, self.rotation, self.codebooks)

    def _rotated(self, vectors: Tensor, rotation: Tensor, codebooks: Tensor) -> Tensor:
        books = torch.split(codebooks, block_widths(codebooks.shape[1], self.config.num_codebooks), dim=1)
        return self._in_chunks(vectors, lambda part: nearest_codes(part @ rotation, books))

    @property
    def rotation(self) -> Tensor:
        """R (D, D) float32: ``x @ R`` is what the product code is of."""
        return self.codewords("rotation")

    def decode(self, packed: Tensor) -> Tensor:
        """The codewords side by side, rotated back: (B, L) uint8 -> (B, D) float32."""
        return super().decode(packed) @ self.rotation.T

    def codeword_products(self, hidden: Tensor) -> Tensor:
        """See :class:`quantizers.output.summed.SumOfCodewords`; the rotation is applied to ``hidden``."""
        return super().codeword_products(hidden @ self.rotation.to(hidden.dtype))


def deal_out(eigenvalues: FloatArray, num_codebooks: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Which eigenvector each column of the rotated table is: to the block with the smallest product of variances so far."""
    widths = block_widths(len(eigenvalues), num_codebooks)
    blocks: list[list[int]] = [[] for _ in widths]
    logarithm = np.zeros(len(widths))
    values = np.log2(np.maximum(eigenvalues, 1e-30) / max(1e-30, float(eigenvalues.max(initial=0.0)))) + 100
    for index in np.argsort(-values, kind="stable"):
        block = int(logarithm.argmin())
        blocks[block].append(int(index))
        logarithm[block] += values[index]
        if len(blocks[block]) == widths[block]:
            logarithm[block] = np.inf
    return np.array([index for block in blocks for index in block], dtype=np.int64)


def _compare(x: Tensor, y: Tensor, weight: Tensor, books: Sequence[Tensor]) -> tuple[float, Tensor]:
    """Mean squared error of the rotated rows ``y`` in code, and x^T W y_hat (D, D), without a copy of the table."""
    error = 0.0
    products = torch.zeros((x.shape[1], x.shape[1]), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), _SUMMED_ROWS):
        rows = slice(start, start + _SUMMED_ROWS)
        found = _decoded(nearest_codes(y[rows], books), books)
        error += float((weight[rows] * (y[rows] - found).square().sum(dim=1)).sum(dtype=torch.float64))
        products += ((x[rows] * weight[rows, None]).T @ found).to(torch.float64)
    return error / len(x), products


def _principal_axes(x: Tensor, weight: Tensor, num_codebooks: int) -> Tensor:
    mean = (weight @ x) / len(x)
    second = torch.zeros((x.shape[1], x.shape[1]), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), _SUMMED_ROWS):
        rows = slice(start, start + _SUMMED_ROWS)
        centred = (x[rows] - mean) * weight[rows, None].sqrt()
        second += (centred.T @ centred).to(torch.float64)
    vectors: Tensor
    values, vectors = torch.linalg.eigh(second / len(x))
    order = deal_out(values.cpu().numpy(), num_codebooks)
    return vectors[:, torch.from_numpy(order).to(x.device)].to(torch.float32)


def _decoded(codes: Tensor, books: Sequence[Tensor]) -> Tensor:
    return torch.cat([book[codes[:, number].to(torch.int64)] for number, book in enumerate(books)], dim=1)
