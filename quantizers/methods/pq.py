"""Product quantization: the columns are cut into M blocks, and every block has a codebook of its own.

Papers: Jegou, Douze & Schmid 2011 (PQ); Shi & Yu, Interspeech 2018, where a language model's input and output tables are
coded so under the name of basis embedding. x_hat[block m] = C_m[code_m], C_m the k-means centroids of the block.
A softmax over coded rows needs no table: see :mod:`quantizers.output`.

The M codebooks stand side by side in one (K, D) tensor. Payload: ``N * ceil(M * ceil(log2 K) / 8)`` bytes of codes and
``K * D * 4`` of codebooks (``K * D * 2`` in float16, ``K * (D + 2 * M)`` in int8, whose codewords have a factor each).

Left open there, chosen here: where M does not divide D, the first D mod M blocks are one column wider; ``basis="random"``
(the ablation of random bases) takes the block's values in K random rows as codewords.

Shapes: N rows, D columns, B batch, M num_codebooks, K codebook_size.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from quantizers.additive import AdditiveConfig
from quantizers.base import Budget, FitStep, Role, Skip, StorageCost, generator
from quantizers.codes import CodeQuantizer, block_layouts
from quantizers.coding.codebooks import INT8_NOISE, codebook_dtypes_for, codewords, stored, stored_bytes
from quantizers.errors import InputError
from quantizers.fitting.gaussian import gaussian_distortions
from quantizers.fitting.kmeans import kmeans, nearest
from quantizers.fitting.sample import default_rows, draw
from quantizers.table import Table, TableStats

_MAX_BITS = 10  # the largest codebooks that are proposed: larger ones take long to fit, and gain little
_MAX_BOOKS = 4096

FloatArray = np.ndarray[Any, np.dtype[Any]]


class PQConfig(AdditiveConfig):
    """Parameters of product quantization.

    Attributes:
        num_codebooks: M, blocks of columns and codes a row; at most D.
        codebook_size: K, 2 to 65,536.
        basis: how codewords are found: k-means, or random rows.
        iterations: k-means steps a codebook.
        train_rows: rows that codebooks are learned on, at the most; default 65,536, or 256 for each codeword where that is
            more.
    """

    basis: Literal["kmeans", "random"] = "kmeans"
    iterations: int = Field(default=12, ge=1)
    train_rows: int | None = Field(default=None, ge=1)


class PQ(CodeQuantizer):
    """Product quantization, also known as basis embedding."""

    name = "pq"
    Config = PQConfig
    reference = "Jegou et al., TPAMI 2011; Shi & Yu, Interspeech 2018 (basis embedding)"
    state_roles: ClassVar[dict[str, Role]] = {"codes": "code", "codebooks": "codebook", "codebooks_scale": "codebook"}
    codebook_state: ClassVar[dict[str, bool]] = {"codebooks": True}
    uses_weights = True
    learns_on_sample = True

    @classmethod
    def num_codes(cls, config: Any, embedding_dim: int) -> int:
        """M."""
        return int(config.num_codebooks)

    @classmethod
    def code_values(cls, config: Any) -> int:
        """K."""
        return int(config.codebook_size)

    @classmethod
    def examples(cls) -> Sequence[PQConfig]:
        """Blocks that divide the columns, blocks that do not, random bases, and codewords in int8."""
        return [
            PQConfig(num_codebooks=4, codebook_size=16),
            PQConfig(num_codebooks=3, codebook_size=20, codebook_dtype="float16"),
            PQConfig(num_codebooks=1, codebook_size=2, basis="random"),
            PQConfig(num_codebooks=3, codebook_size=8, codebook_dtype="int8"),
        ]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Codes and codebooks, exact."""
        books = stored_bytes(
            config.codebook_size, shape[1], config.codebook_dtype, side_by_side=cls.num_codes(config, shape[1])
        )
        return StorageCost(shape[0] * cls.code_bytes_per_row(config, shape[1]), books)

    @classmethod
    def check(cls, config: Any, shape: tuple[int, int]) -> Skip | None:
        """Neither more blocks than columns nor codebooks larger than the table."""
        if config.num_codebooks > shape[1]:
            return Skip(f"num_codebooks {config.num_codebooks} is more than the table's {shape[1]} columns")
        if config.codebook_size > shape[0]:
            return Skip(f"codebook_size {config.codebook_size} is more than the table's {shape[0]} rows")
        return None

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[PQConfig] | Skip:
        """The K (and with it the largest M) whose predicted error is the least.

        The prediction, :func:`predicted_error`, was within 10 percent of the measured error for blocks of up to 6 columns
        of GloVe tables (10,000 x 50 and 100,000 x 100, ratios 4 to 128); for wider ones see :func:`choose`.
        """
        return choose(
            cls, budget, stats, lambda num_codebooks, bits: predicted_error(stats.eigenvalues, num_codebooks, bits)
        )

    @property
    def codebooks(self) -> Tensor:
        """(K, D) float32: the codewords of a block are in its columns."""
        return self.codewords("codebooks")

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        config = self.config
        self._refuse_too_many_blocks(table)
        books = []
        x, weights = self._sample(table.vectors, weights, seed)
        for book in fit_books(x, config, seed=seed, weights=weights):
            books.append(book)
            yield FitStep("books", 0.9 * len(books) / config.num_codebooks)
        del x
        kept = stored("codebooks", torch.cat(books, dim=1), config.codebook_dtype, side_by_side=len(books))
        begin = time.perf_counter()
        packed = self._packed(table.vectors, codewords(kept, "codebooks"))
        self.encode_seconds = time.perf_counter() - begin
        self._set_state({"codes": packed, **kept})
        yield FitStep("encode", 1.0)

    def _refuse_too_many_blocks(self, table: Table) -> None:
        count, dim = self.config.num_codebooks, table.embedding_dim
        if count > dim:
            raise InputError(f"{self.name}: num_codebooks {count} is more than the table's {dim} columns.")

    def _sample(self, x: Tensor, weights: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """The rows that codebooks are learned on, and their weights."""
        rows = self.config.train_rows or default_rows(self.config.codebook_size)
        self._resolve(train_rows=min(rows, len(x)))
        return draw(x, weights, rows, generator(seed, 1 << 20))

    def encode(self, vectors: Tensor) -> Tensor:
        """Packed codes of new vectors: (B, D) float32 -> (B, L) uint8."""
        return self._packed(vectors, self.codebooks)

    def _packed(self, vectors: Tensor, codebooks: Tensor) -> Tensor:
        books = torch.split(codebooks, block_widths(codebooks.shape[1], self.config.num_codebooks), dim=1)
        return self._in_chunks(vectors, lambda part: nearest_codes(part, books))

    def decode(self, packed: Tensor) -> Tensor:
        """The codewords side by side: (B, L) uint8 -> (B, D) float32."""
        codes = self.unpack(packed)
        parts = []
        for group in self._groups():
            rows = group.rows(codes)
            parts.append(torch.nn.functional.embedding(rows, group.books.reshape(-1, group.books.shape[2])).flatten(1))
        return torch.cat(parts, dim=1)

    def codeword_products(self, hidden: Tensor) -> Tensor:
        """See :class:`quantizers.output.summed.SumOfCodewords`; a codeword is zero outside its block."""
        return torch.cat([group.products(hidden) for group in self._groups()])

    def _groups(self) -> list[_Group]:
        """Blocks of equal width together: one group, or two where M does not divide D."""
        widths = block_widths(self.embedding_dim, self.config.num_codebooks)
        codebook = self.codebooks
        groups = []
        block = column = 0
        for width in sorted(set(widths), reverse=True):
            count = widths.count(width)
            books = codebook[:, column : column + count * width].reshape(len(codebook), count, width)
            groups.append(_Group(block, column, books))
            block, column = block + count, column + count * width
        return groups


@dataclasses.dataclass(frozen=True)
class _Group:
    """m blocks of one width: their first block and column, and their codebooks (K, m, width)."""

    block: int
    column: int
    books: Tensor

    def rows(self, codes: Tensor) -> Tensor:
        """Codes (B, M) of the table as rows (B, m) of the books flattened to (K * m, ...)."""
        count = self.books.shape[1]
        return codes[:, self.block : self.block + count] * count + torch.arange(count, device=codes.device)

    def products(self, hidden: Tensor) -> Tensor:
        """Inner products of the group's columns of hidden (B, D) with its codewords: (m, K, B)."""
        _, count, width = self.books.shape
        columns = hidden[:, self.column : self.column + count * width].reshape(-1, count, width)
        return torch.einsum("bmw,kmw->mkb", columns, self.books.to(hidden.dtype))


def block_widths(dim: int, num_codebooks: int) -> list[int]:
    """Widths of the blocks, as of ``numpy.array_split``."""
    width, wider = divmod(dim, num_codebooks)
    return [width + 1] * wider + [width] * (num_codebooks - wider)


def choose(
    cls: type[PQ], budget: Budget, stats: TableStats, error_of: Callable[[int, float], float]
) -> Sequence[PQConfig] | Skip:
    """The configuration within ``budget`` with the least error, of all K: K takes the bytes that codes leave.

    What is predicted of a Gaussian is too much for many codewords of wide blocks, which suit the very rows that they were
    fitted to; that is taken off. int8 costs a share of the variance, and buys codes or codewords where that is more.

    Args:
        cls: the method.
        budget: the most bytes.
        stats: shape and spectrum of the table.
        error_of: predicted error of M codebooks of 2**bits codewords.
    """
    variance = float(stats.eigenvalues.sum())
    found = []
    for bits in range(1, min(_MAX_BITS, stats.num_embeddings.bit_length()) + 1):
        for number, dtype in enumerate(codebook_dtypes_for(stats)):
            config = cls.Config(codebook_dtype=dtype)
            most = min(stats.embedding_dim, _MAX_BOOKS)
            for num_codebooks, size in block_layouts(cls, config, budget, stats.shape, bits, most):
                chosen = cls.Config(num_codebooks=num_codebooks, codebook_size=size, codebook_dtype=dtype)
                noise = INT8_NOISE * variance if dtype == "int8" else 0.0
                error = error_of(num_codebooks, math.log2(size)) * _own_rows(num_codebooks, size, stats.shape)
                found.append((error + noise, bits, number, chosen))
    if not found:
        return Skip(f"one code a row and one codebook take more than {budget.payload_bytes} bytes")
    return [min(found, key=lambda entry: entry[:3])[3]]


def _own_rows(num_codebooks: int, codebook_size: int, shape: tuple[int, int]) -> float:
    """What K codewords of N rows leave, relative to a prediction: they are fitted to these rows, and the more so the wider.

    Fitted to GloVe tables (10,000 x 50 and 20,000 x 100, blocks of 2 to 50 columns, K of 8 to 512), where predictions are up
    to 62 % too large without it, and the K that is taken at ratios of 64 and 128 up to 17 % worse than the best.
    """
    return math.exp(-math.sqrt(codebook_size / shape[0]) * (0.5 + 0.3 * math.log(shape[1] / num_codebooks)))


def fit_books(
    x: Tensor, config: PQConfig, *, seed: int, weights: Tensor | None, start: Sequence[Tensor] | None = None
) -> Iterator[Tensor]:
    """Codebooks (K, width) of the blocks of ``x`` (N, D), one after the other; ``start``: what k-means goes on from."""
    for number, block in enumerate(torch.split(x, block_widths(x.shape[1], config.num_codebooks), dim=1)):
        random = generator(seed, number)
        if config.basis == "random":
            rows = torch.randperm(len(block), generator=random)[: config.codebook_size].to(block.device)
            yield block[rows.repeat(-(-config.codebook_size // len(rows)))[: config.codebook_size]]
        else:
            yield kmeans(
                block.contiguous(),
                config.codebook_size,
                generator=random,
                weights=weights,
                iterations=config.iterations,
                max_rows=len(x),
                start=None if start is None else start[number],
            )


def predicted_error(eigenvalues: FloatArray, num_codebooks: int, bits: float) -> float:
    """Squared error of a row that M codebooks of 2**bits codewords may be expected to leave.

    For a block of w columns: the distortion of a Gaussian with the block's spectrum at ``bits`` bits (reverse water-filling)
    times 1 + 1.72 w**-0.75 (1 - share)**2, what a real codebook loses against it (2.72 for one column and many bits, the
    constant of Panter & Dite; nothing where little is coded, share being that distortion over the block's variance).

    Args:
        eigenvalues: (D,) of the table's covariance.
        num_codebooks: M.
        bits: of a code, log2 K.
    """
    widths = block_widths(len(eigenvalues), num_codebooks)
    total = 0.0
    for width in set(widths):
        total += widths.count(width) * block_errors(_block_spectrum(eigenvalues, width)[None], bits)
    return total


def block_errors(spectra: FloatArray, bits: float) -> float:
    """What :func:`predicted_error` adds up: the error of blocks of one width with the spectra (blocks, width)."""
    variance = spectra.sum(axis=1)
    share = gaussian_distortions(spectra, bits) / np.maximum(variance, 1e-300)
    loss = 1 + 1.72 * math.pow(spectra.shape[1], -0.75) * (1 - share) ** 2
    return float((np.maximum(variance, 0) * np.minimum(1.0, share * loss)).sum())


def _block_spectrum(eigenvalues: FloatArray, width: int) -> FloatArray:
    """Spectrum of ``width`` columns of a table whose columns are a random rotation of its principal components.

    Its mean is the table's, its variance width / D of the table's (Voiculescu's free compression), its shape the same.
    """
    ordered = np.sort(eigenvalues)[::-1]
    places = (np.arange(width) + 0.5) / width * len(ordered) - 0.5
    quantiles = np.interp(places, np.arange(len(ordered)), ordered)
    mean = ordered.mean()
    spread = quantiles * (mean / quantiles.mean()) - mean if quantiles.mean() > 0 else 0.0 * quantiles
    return np.asarray(mean + np.sqrt(width / len(ordered)) * spread)


def nearest_codes(x: Tensor, books: Sequence[Tensor]) -> Tensor:
    """The nearest codeword in every block: (N, D) -> (N, M) int32."""
    codes = torch.empty((len(x), len(books)), dtype=torch.int32, device=x.device)
    for number, block in enumerate(torch.split(x, [book.shape[1] for book in books], dim=1)):
        codes[:, number] = nearest(block, books[number])
    return codes
