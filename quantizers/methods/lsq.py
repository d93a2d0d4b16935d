"""Local search quantization: additive codes whose codebooks are fitted together and whose codes are searched for.

Papers: Martinez et al., ECCV 2016 and 2018 (LSQ, LSQ++); Babenko & Lempitsky, CVPR 2014 (additive quantization); equation
in :mod:`quantizers.additive`. From the codes of residual quantization on, least squares for all codebooks at once and a
local search for the codes take turns (:func:`quantizers.fitting.local_search.refine`): iterated conditional modes from
codes changed at random, whose result a row keeps where it is better.

Left open there, chosen here: the start is residual quantization with a beam, not the paper's optimized product quantization
(what it ends with is about as much better as what it starts with: on 20,000 rows of GloVe, 32 books of 16 words, starts of
half MSE 2.58 / 2.23 / 2.11 end at 2.04 / 1.91 / 1.85); it learns on a sample of the rows, and the rounds on all of them
(rounds on the sample alone leave the other rows with a larger error); codebooks are solved for without
the noise of LSQ++. Codes of new vectors are found by beam search and local search from there; those of the table's rows may
differ from the stored ones.

Shapes: N rows, D columns, M num_codebooks, K codebook_size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from quantizers.additive import AdditiveConfig, AdditiveQuantizer, additive_configs
from quantizers.base import Budget, FitStep, Skip, generator
from quantizers.coding.codebooks import rounded
from quantizers.fitting.chunks import ShiftedRows, joined
from quantizers.fitting.kmeans import power_of_two
from quantizers.fitting.local_search import half_mse, icm_encode, refine, search_encode
from quantizers.methods.rq import RQ, RQConfig
from quantizers.table import Table, TableStats

_BITS = range(2, 9)
_MAX_BOOKS = 128
_MAX_WORDS = 1 << 14
_START = 0.5  # share of the time that the start takes, as reported


class LSQConfig(AdditiveConfig):
    """Parameters of local search quantization.

    Attributes:
        rounds: of least squares and local search.
        sweeps: passes over the codes of a row in a round.
        beam_size: of the residual quantization that it starts from.
        iterations: k-means steps a codebook of the residual quantization.
        train_rows: of the residual quantization that it starts from; all rows are learned on after it.
    """

    rounds: int = Field(default=16, ge=0)
    sweeps: int = Field(default=3, ge=1)
    beam_size: int = Field(default=5, ge=1, le=256)
    iterations: int = Field(default=20, ge=1)
    train_rows: int | None = Field(default=None, ge=1)


class LSQ(AdditiveQuantizer):
    """Additive quantization by least squares and local search."""

    name = "lsq"
    Config = LSQConfig
    reference = "Martinez et al., ECCV 2016 and ECCV 2018"
    uses_weights = True
    iterative = True
    learns_on_sample = True

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[LSQConfig] | Skip:
        """See :func:`quantizers.additive.additive_configs`.

        At most 128 codebooks, as the time of the start goes with their square, and 16,384 codewords, as that of a search
        goes with those; and a codeword for every two rows.
        """
        words = min(_MAX_WORDS, stats.num_embeddings // 2)
        return additive_configs(budget, stats, LSQConfig, bits=_BITS, max_codebooks=_MAX_BOOKS, max_codewords=words)

    @classmethod
    def examples(cls) -> Sequence[LSQConfig]:
        """A small one, and one with odd sizes and float16 codebooks."""
        return [
            LSQConfig(num_codebooks=4, codebook_size=8),
            LSQConfig(num_codebooks=3, codebook_size=5, codebook_dtype="float16", rounds=2),
        ]

    def encode(self, vectors: Tensor) -> Tensor:
        """Packed codes of new vectors, by search with the codebooks: (B, D) float32 -> (B, L) uint8."""
        codebooks = self.codebooks
        scale = power_of_two(codebooks)
        return self._in_chunks(vectors, lambda part: search_encode(part / scale, codebooks / scale))

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        config = self.config
        scale = power_of_two(table.vectors)
        start = RQ(
            RQConfig(
                num_codebooks=config.num_codebooks,
                codebook_size=config.codebook_size,
                beam_size=config.beam_size,
                iterations=config.iterations,
                train_rows=config.train_rows,
            )
        )
        for step in start.fit_steps(table, seed=seed, weights=weights):
            yield FitStep("start", _START * step.fraction, step.value)
        self._resolve(train_rows=start.resolved()["train_rows"])
        dtype = torch.uint8 if config.codebook_size <= 256 else torch.int32
        chunks = torch.split(torch.arange(table.num_embeddings, device=table.vectors.device), self.chunk_rows)
        codes = joined((start.codes(ids).to(dtype) for ids in chunks), table.num_embeddings)
        del start
        # Least squares works on what rows do not share.
        mean = ShiftedRows(table.vectors, scale, torch.zeros(table.embedding_dim, device=codes.device)).mean()
        x = ShiftedRows(table.vectors, scale, mean)
        share = 0.99 * (1 - _START) / (config.rounds + 1)
        found = refine(
            x,
            codes,
            config.codebook_size,
            rounds=config.rounds,
            generator=generator(seed, 1 << 20),
            sweeps=config.sweeps,
            weights=weights,
        )
        del codes
        for number, done in enumerate(found):
            yield FitStep("refine", _START + share * (number + 1), done.half_mse * scale**2)
        begin = time.perf_counter()
        books = (done.codebooks + mean / config.num_codebooks) * scale
        read_back = rounded(books, config.codebook_dtype) / scale - mean / config.num_codebooks
        codes = icm_encode(x, done.codes, read_back)
        self._set_codes(codes, books)
        self.encode_seconds = time.perf_counter() - begin
        yield FitStep("codes", 1.0, half_mse(x, codes, read_back, weights) * scale**2)
