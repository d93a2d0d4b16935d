"""Deep compositional codes: M codes a row, learned by gradient through a Gumbel-softmax, then finished without gradients.

Paper: Shu & Nakayama, "Compressing Word Embeddings via Deep Compositional Code Learning" (ICLR 2018); called NC in the
AdaComp paper. A row is rebuilt as the sum of M codewords, x_hat = sum_m C_m[code_m]; the network that learns codes and
codebooks is in :mod:`quantizers.fitting.gumbel`, the finishing in :mod:`quantizers.fitting.local_search`. A file holds
codes and codebooks only.

``recipe="authors"`` is the reference program: all parameters start uniform in +-0.01, Adam 1e-4, batches of 64, tau 1, 200
epochs, gradients clipped to a global norm of 0.001, the weights of the lowest loss on 640 rows held out of the training,
codes as the argmax of the logits. (The reference takes its validation rows from the training rows and scores them on soft
codes with noise; here they are held out and scored on hard codes without.)

``recipe="fast"``, the default, trains the same loss on rows scaled to unit deviation with a larger rate that falls along a
cosine, batches of 256, Xavier's start, codewords that start as rows, and 128 hidden units, 256 above 512 codewords; then it
alternates least squares for the codebooks and local search for the codes, which the paper does not have. Most of what it is
better than the reference comes from that (docs/results/dccl.md has the shares); the curves tell the phases apart:
``train``, then ``refine``. A table whose rows are all equal is not trained on.

Codes of new vectors are searched for with the codebooks, as the network is not kept in the file; of the table's own rows
they may differ from those stored, and rebuild them about as well (within some percent, the stored ones being better).

Shapes: N rows, D columns, B batch, M num_codebooks, K codebook_size.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from quantizers.additive import AdditiveConfig, AdditiveQuantizer, additive_configs, worth
from quantizers.base import CHUNK_ROWS, Budget, FitStep, Skip, generator
from quantizers.coding.bits import pack
from quantizers.coding.codebooks import rounded
from quantizers.embedding import CompressedEmbedding
from quantizers.fitting.gumbel import CodeNetwork, Schedule, train
from quantizers.fitting.kmeans import power_of_two
from quantizers.fitting.local_search import half_mse, icm_encode, refine, search_encode
from quantizers.fitting.minibatches import moments
from quantizers.methods.dccl.module import DCCLEmbedding
from quantizers.table import Table, TableStats

_BITS = range(3, 9)
_MAX_CODEBOOKS = 256
_MAX_WORDS = 4096
_REPORTS = 20
_MAX_WORK = 2e12  # floating-point operations that the fast recipe trains for, at the most
_BOUND = 0.01
_SMALL = 512  # codewords; above it, fewer hidden units and steps cost accuracy


class DCCLConfig(AdditiveConfig):
    """Parameters of deep compositional code learning. None stands for what the recipe says.

    Attributes:
        recipe: ``fast``, or ``authors`` for the reference settings.
        tau: temperature of the Gumbel-softmax at the start.
        tau_end: temperature at the end, reached geometrically; default ``tau``.
        hidden: hidden units of the encoder; 128, above 512 codewords 256, authors M*K/2.
        optimizer: ``adam`` or ``sgd``.
        learning_rate: 0.025, above 512 codewords 0.012, authors 1e-4.
        batch_size: 256, authors 64.
        epochs: passes over the rows that are not held out; authors 200, fast: as many as its number of steps makes.
        iterations: gradient steps, instead of ``epochs``; fast: a twelfth of the rows, 100 to 2,000, above 512 codewords to
            3,000, and less for very large M*K.
        clip_norm: largest global norm of a gradient, 0 for no limit; 0, authors 0.001.
        validation_rows: rows held out of the training, at most a tenth; 1,000, authors 640.
        refine_rounds: rounds of finishing; 20, authors 0.
        refine_sweeps: passes over the codes of a row in a round of finishing.
    """

    num_codebooks: int = Field(default=32, ge=1, le=4096)
    recipe: Literal["fast", "authors"] = "fast"
    tau: float = Field(default=1.0, gt=0)
    tau_end: float | None = Field(default=None, gt=0)
    hidden: int | None = Field(default=None, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    iterations: int | None = Field(default=None, ge=1)
    clip_norm: float | None = Field(default=None, ge=0)
    validation_rows: int | None = Field(default=None, ge=1)
    refine_rounds: int | None = Field(default=None, ge=0)
    refine_sweeps: int = Field(default=3, ge=1)


class DCCL(AdditiveQuantizer):
    """Deep compositional code learning."""

    name = "dccl"
    Config = DCCLConfig
    reference = "Shu & Nakayama, ICLR 2018, equations 1 to 11"
    uses_weights = True
    iterative = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._network: CodeNetwork | None = None  # kept after a fit to go on training from; no part of the state

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[DCCLConfig] | Skip:
        """See :func:`quantizers.additive.additive_configs`: codes of 3 to 8 bits, at most 256 books and 4,096 codewords.

        Where it is more, ``B * (b + min(B / 20, 12))`` is maximized, b bits a code and B = M * b bits a row: fitted on
        GloVe 100d at ratios 8 to 128. The more codes a row has, the more local search makes of small codebooks.
        """
        return additive_configs(
            budget,
            stats,
            DCCLConfig,
            bits=_BITS,
            value=_worth,
            max_codebooks=_MAX_CODEBOOKS,
            max_codewords=_MAX_WORDS,
        )

    @classmethod
    def examples(cls) -> Sequence[DCCLConfig]:
        """Both recipes, both optimizers, and odd sizes."""
        return [
            DCCLConfig(num_codebooks=4, codebook_size=8),
            DCCLConfig(num_codebooks=3, codebook_size=5, codebook_dtype="float16", tau_end=0.5, optimizer="sgd", epochs=8),
            DCCLConfig(num_codebooks=4, codebook_size=8, recipe="authors", epochs=2),
        ]

    def encode(self, vectors: Tensor) -> Tensor:
        """Packed codes of new vectors, by search with the codebooks: (B, D) float32 -> (B, L) uint8."""
        self._require_fitted()
        codebooks = self.codebooks
        scale = power_of_two(codebooks)
        length = self.code_bytes_per_row(self.config, self.embedding_dim)
        out = torch.empty((len(vectors), length), dtype=torch.uint8, device=vectors.device)
        for start in range(0, len(vectors), CHUNK_ROWS):
            part = vectors[start : start + CHUNK_ROWS] / scale
            out[start : start + CHUNK_ROWS] = pack(search_encode(part, codebooks / scale), self.code_bits(self.config))
        return out

    def training_module(self, table: Table, *, seed: int = 0) -> CompressedEmbedding:
        """Encoder and codebooks, trained with a task; they start from the codes and codebooks of this fit."""
        self._require_fitted()
        return DCCLEmbedding(self, table, self._network, seed=seed)

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        config = self.config
        authors = config.recipe == "authors"
        mean, unit = _scaling(table.vectors, authors)
        held_out = _held_out(table.num_embeddings, config.validation_rows or (640 if authors else 1000), seed)
        rounds = config.refine_rounds if config.refine_rounds is not None else (0 if authors else 20)
        num_rows = table.num_embeddings - len(held_out) % table.num_embeddings
        schedule = self._schedule(num_rows, table.embedding_dim)
        self._note(schedule if unit else dataclasses.replace(schedule, steps=0), num_rows, len(held_out), rounds)
        if unit == 0:
            zeros = torch.zeros((config.num_codebooks, config.codebook_size, len(mean)), device=mean.device)
            codes = torch.zeros((table.num_embeddings, config.num_codebooks), dtype=torch.int32, device=mean.device)
            self._set_codes(codes, zeros + mean / config.num_codebooks)
            yield FitStep("codes", 1.0, 0.0)
            return
        x = (table.vectors - mean).div_(unit)
        network = CodeNetwork(
            x.shape[1],
            config.num_codebooks,
            config.codebook_size,
            hidden_units(config),
            generator=generator(seed, 1),
            bound=_BOUND if authors else None,
            vectors=x,
        )
        share = 0.5 if rounds else 1.0
        for report in train(network, x, held_out, schedule, generator=generator(seed, 2), weights=weights):
            metrics = {
                "train_loss": report.train_loss * unit**2,
                "valid_loss": report.valid_loss * unit**2,
                "train_maxp": report.train_maxp,
                "valid_maxp": report.valid_maxp,
            }
            yield FitStep("train", 0.99 * share * report.fraction, report.hard_loss * unit**2, metrics)
        self._network = network
        begin = time.perf_counter()
        codes, books = network.codes(x), network.books()
        self.encode_seconds = time.perf_counter() - begin
        if rounds:
            rest = 0.99 * (1 - share) / (rounds + 1)
            done = refine(
                x,
                codes,
                config.codebook_size,
                rounds=rounds,
                generator=generator(seed, 3),
                sweeps=config.refine_sweeps,
                weights=weights,
            )
            for number, round_ in enumerate(done):
                codes, books = round_.codes, round_.codebooks
                yield FitStep("refine", 0.99 * share + rest * (number + 1), round_.half_mse * unit**2)
        # What every row has in common is shared out among the codebooks, which keeps them small.
        books = books * unit + mean / len(books)
        read_back = (rounded(books, config.codebook_dtype) - mean / len(books)) / unit
        if rounds and config.codebook_dtype == "int8":
            codes = icm_encode(x, codes, read_back)
        self._set_codes(codes, books)
        yield FitStep("codes", 1.0, half_mse(x, codes, read_back, weights) * unit**2)

    def _note(self, schedule: Schedule, num_rows: int, held_out: int, refine_rounds: int) -> None:
        """Report what was made of open parameters; ``num_rows`` are trained on."""
        self._resolve(
            tau_end=schedule.tau_end,
            hidden=hidden_units(self.config),
            learning_rate=schedule.learning_rate,
            batch_size=schedule.batch_size,
            epochs=round(schedule.steps / math.ceil(num_rows / schedule.batch_size), 3),
            iterations=schedule.steps,
            clip_norm=schedule.clip_norm,
            validation_rows=held_out,
            refine_rounds=refine_rounds,
        )

    def _schedule(self, num_rows: int, embedding_dim: int) -> Schedule:
        """The recipe's schedule with what the configuration changes, for ``num_rows`` rows to train on."""
        config = self.config
        authors = config.recipe == "authors"
        small = _small(config)
        batch = config.batch_size or (64 if authors else max(32, min(256, num_rows // 4)))
        epoch = max(1, math.ceil(num_rows / batch))
        if config.iterations is not None:
            steps = config.iterations
        elif config.epochs is not None:
            steps = config.epochs * epoch
        elif authors:
            steps = 200 * epoch
        else:
            words, hidden = config.num_codebooks * config.codebook_size, hidden_units(config)
            row = 6 * (embedding_dim * hidden + hidden * words + words * embedding_dim)
            steps = max(100, min(2000 if small else 3000, num_rows // 12, int(_MAX_WORK / (row * batch))))
        clip = config.clip_norm if config.clip_norm is not None else (1e-3 if authors else 0.0)
        return Schedule(
            steps=steps,
            batch_size=batch,
            report_steps=min(steps, epoch) if authors else max(1, steps // _REPORTS),
            optimizer=config.optimizer,
            learning_rate=config.learning_rate or (1e-4 if authors else 0.025 if small else 0.012),
            constant_rate=authors,
            tau=config.tau,
            tau_end=config.tau_end or config.tau,
            clip_norm=clip,
        )


def _worth(num_codebooks: int, codebook_size: int) -> float:
    return max(worth(num_codebooks, codebook_size), worth(num_codebooks, codebook_size, slope=1 / 20, most=12))


def _small(config: Any) -> bool:
    return bool(config.num_codebooks * config.codebook_size <= _SMALL)


def hidden_units(config: Any) -> int:
    """H of a configuration's encoder."""
    if config.hidden is not None:
        return int(config.hidden)
    if config.recipe == "authors":
        return max(1, int(config.num_codebooks * config.codebook_size) // 2)
    return 128 if _small(config) else 256


def _scaling(vectors: Tensor, authors: bool) -> tuple[Tensor, float]:
    """What is taken off every row, (D,), and what it is divided by: 0 where all rows are equal."""
    mean, deviation, largest = moments(vectors)
    if deviation and authors and 2.0**-20 < largest < 2.0**20:
        return torch.zeros_like(mean), 1.0  # as it is, unless squares of it would overflow or vanish
    return mean, deviation


def _held_out(num_rows: int, count: int, seed: int) -> Tensor:
    """Rows to validate on: ``count``, at most a tenth; all rows where that is none."""
    count = min(count, num_rows // 10)
    order = torch.randperm(num_rows, generator=generator(seed, 0))
    return order[:count] if count else order
