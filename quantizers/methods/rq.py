"""Residual quantization: every codebook codes what the ones before it left over, and a beam search chooses the codes.

Papers: Chen, Guan & Wang 2010; Babenko & Lempitsky 2014 and Liu, Lu & Gu 2015 for the beam; equation in
:mod:`quantizers.additive`. Book m is the k-means of the residuals x - sum_{j<m} C_j[code_j].

Left open there, chosen here: the residuals that train book m are those of each row's best hypothesis (those of the whole
beam, as faiss takes them, end 5 % worse on GloVe); up to ``train_rows`` random rows train (few rows fit small codebooks
badly: 16 codewords on 4,096 rows of GloVe are a fifth worse than on 50,000). A book is rounded to ``codebook_dtype``
before the next one is fitted, which then makes up for the rounding.

Nested: book m depends on the books before it and on nothing after it, so that one fit gives every smaller number of books.

Shapes: N rows, D columns, M num_codebooks, K codebook_size, B hypotheses a row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor

from quantizers.additive import AdditiveConfig, AdditiveQuantizer, additive_configs
from quantizers.base import Budget, FitStep, Skip, generator
from quantizers.coding.codebooks import codewords, stored
from quantizers.fitting.beam import BeamSearch, rows_at_once, top_scores
from quantizers.fitting.kmeans import kmeans_in_place, power_of_two, with_ones
from quantizers.fitting.sample import TRAIN_ROWS
from quantizers.table import Table, TableStats

_MOST_ROWS, _ROWS_A_WORD = 1 << 17, 32  # that train the codebooks


class RQConfig(AdditiveConfig):
    """Parameters of residual quantization.

    Attributes:
        beam_size: hypotheses that the search keeps for a row; 1 is the greedy search.
        iterations: k-means steps a codebook.
        train_rows: rows that train the codebooks, at the most; default 32 for each codeword, at least 65,536 and at most
            131,072.
    """

    beam_size: int = Field(default=5, ge=1, le=256)
    iterations: int = Field(default=20, ge=1)
    train_rows: int | None = Field(default=None, ge=1)


class RQ(AdditiveQuantizer):
    """Residual quantization with beam search."""

    name = "rq"
    Config = RQConfig
    reference = "Chen et al., Sensors 2010; Babenko & Lempitsky, CVPR 2014 (beam search)"
    uses_weights = True
    iterative = True
    learns_on_sample = True

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[RQConfig] | Skip:
        """See :func:`quantizers.additive.additive_configs`."""
        return additive_configs(budget, stats, RQConfig)

    @classmethod
    def examples(cls) -> Sequence[RQConfig]:
        """A small one, one nested in it, and two with odd sizes and smaller codebooks."""
        return [
            RQConfig(num_codebooks=4, codebook_size=16),
            RQConfig(num_codebooks=2, codebook_size=16),
            RQConfig(num_codebooks=3, codebook_size=5, codebook_dtype="float16", beam_size=1),
            RQConfig(num_codebooks=3, codebook_size=6, codebook_dtype="int8"),
        ]

    @classmethod
    def family_key(cls, config: Any) -> str | None:
        """All that differ in ``num_codebooks`` only."""
        return str(config.model_dump_json(exclude={"num_codebooks"}))

    def restrict(self, config: Any, table: Table) -> Self:
        """The first codebooks of this fit, and the codes that the beam search finds with them for ``table``."""
        if config == self.config:
            return self
        smaller = type(self)(config)
        smaller._shape, smaller.words = self.shape, table.words
        books = {name: tensor[: config.num_codebooks].clone() for name, tensor in self.state().items() if name != "codes"}
        smaller._keep(books, table.vectors)
        return smaller

    def encode(self, vectors: Tensor) -> Tensor:
        """Packed codes of new vectors: (B, D) float32 -> (B, L) uint8."""
        return self._packed(vectors, self.codebooks)

    def _packed(self, vectors: Tensor, codebooks: Tensor) -> Tensor:
        scale = power_of_two(codebooks)
        search = BeamSearch(codebooks / scale, self.config.beam_size)
        return self._in_chunks(vectors, lambda part: search(part, scale))

    def _keep(self, books: dict[str, Tensor], vectors: Tensor) -> None:
        begin = time.perf_counter()
        codes = self._packed(vectors, codewords(books, "codebooks"))
        self._set_state({"codes": codes, **books})
        self.encode_seconds = time.perf_counter() - begin

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        config = self.config
        scale = power_of_two(table.vectors)
        most = config.train_rows or min(
            _MOST_ROWS, max(TRAIN_ROWS, _ROWS_A_WORD * config.num_codebooks * config.codebook_size)
        )
        self._resolve(train_rows=min(most, table.num_embeddings))
        rows = torch.randperm(table.num_embeddings, generator=generator(seed, 0))[:most].to(table.vectors.device)
        weights = None if weights is None else weights[rows]
        x = table.vectors[rows].div_(scale)
        del rows
        books: list[dict[str, Tensor]] = []
        beam = _Beam(x, config)
        for number in range(config.num_codebooks):
            book = kmeans_in_place(
                beam.take_left(),
                config.codebook_size,
                generator=generator(seed, number + 1),
                weights=weights,
                iterations=config.iterations,
                first_rows=most,
            )
            books.append(stored("codebooks", book * scale, config.codebook_dtype))
            value = beam.extend(codewords(books[-1], "codebooks") / scale) * scale**2
            yield FitStep("books", 0.9 * (number + 1) / config.num_codebooks, value if math.isfinite(value) else None)
        del x, beam
        self._keep({name: torch.stack([book[name] for book in books]) for name in books[0]}, table.vectors)
        yield FitStep("encode", 1.0)


class _Beam:
    """The hypotheses of the training rows while the codebooks are fitted one after the other."""

    def __init__(self, x: Tensor, config: RQConfig) -> None:
        self.x = x
        # What the best hypotheses leave over, with a column of ones, as k-means takes it: (N, D + 1).
        self._left: Tensor | None = with_ones(x)
        self.beam_size = config.beam_size
        self.books = torch.empty((0, config.codebook_size, x.shape[1]), device=x.device)
        # Codes of the hypotheses (N, B, M), in the smallest type there is.
        dtype = torch.uint8 if config.codebook_size <= 256 else torch.int32
        self.codes = torch.empty((len(x), config.beam_size, config.num_codebooks), dtype=dtype, device=x.device)
        self.count = 1  # hypotheses a row

    def take_left(self) -> Tensor:
        """What the best hypotheses leave over, handed over: its memory is free as soon as the caller is done with it."""
        left, self._left = self._left, None
        assert left is not None
        return left

    def _sums(self, codes: Tensor) -> Tensor:
        """Sums of codewords: (n, m) -> (n, D)."""
        num_books, size, dim = self.books.shape
        rows = codes[:, :num_books].to(torch.int32) + size * torch.arange(num_books, dtype=torch.int32, device=codes.device)
        return torch.nn.functional.embedding_bag(rows, self.books.reshape(-1, dim), mode="sum")

    def extend(self, book: Tensor) -> float:
        """Follow every hypothesis with the codewords of ``book`` (K, D), keep the best; returns their half squared error."""
        number, size = len(self.books), len(book)
        offset, columns = -0.5 * book.square().sum(dim=1), book.T.contiguous()
        step = rows_at_once(book[None], self.beam_size, book.device)
        total = 0.0
        best_left = torch.ones((len(self.x), self.x.shape[1] + 1), device=self.x.device)
        for start in range(0, len(self.x), step):
            x, old = self.x[start : start + step], self.codes[start : start + step, : self.count]
            left = x.repeat_interleave(self.count, dim=0)
            if number:
                left = left.sub_(self._sums(old.reshape(len(left), -1)))
            scores = torch.addmm(offset, left, columns).sub_(0.5 * left.square().sum(dim=1, keepdim=True))
            parent, code, best = top_scores(scores.reshape(len(x), self.count, size), self.beam_size)
            new = self.codes[start : start + step, : parent.shape[1]]
            new[:, :, :number] = old[:, :, :number].gather(1, parent[:, :, None].expand(-1, -1, number))
            new[:, :, number] = code.to(new.dtype)
            winners = left.reshape(len(x), -1, left.shape[1])[torch.arange(len(x), device=x.device), parent[:, 0]]
            torch.sub(winners, book[code[:, 0]], out=winners)
            best_left[start : start + step, :-1] = winners
            total -= float(best[:, 0].sum(dtype=torch.float64))
        self._left = best_left
        self.count = min(self.beam_size, self.count * size)
        self.books = torch.cat([self.books, book[None]])
        return max(0.0, total / len(self.x))
