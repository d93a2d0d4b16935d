"""The network that learns codes by gradient in DCCL: encoder, Gumbel-softmax, codebooks, and their training.

Paper: Shu & Nakayama, "Compressing Word Embeddings via Deep Compositional Code Learning" (ICLR 2018), equations 6 to 11;
Jang et al. 2017 and Maddison et al. 2017 for the Gumbel-softmax.

    h = tanh(W x + b)          logits = log(softplus(W' h + b') + 1e-8), as M x K
    y_m = softmax_K((logits_m + g) / tau), g Gumbel noise          x_hat = sum_m y_m C_m          loss = 1/2 |x_hat - x|^2

The codes are the argmax of the logits. Soft y rebuild a row better than any code can, so that everything that is reported as
a ``value`` here is measured on hard codes.

Shapes: N rows, D columns, B batch, M num_codebooks, K codebook_size, H hidden units.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from quantizers.fitting.checkpoint import Checkpoint, Notes
from quantizers.fitting.local_search import half_mse
from quantizers.fitting.minibatches import Minibatches, chunks

_WARMUP_STEPS = 20
_FINAL_RATE = 0.02
_TINY = 1e-8


class CodeNetwork(nn.Module):
    """Encoder and codebooks.

    Args:
        embedding_dim: D.
        num_codebooks: M.
        codebook_size: K.
        hidden: H.
        generator: a CPU generator for the start.
        bound: weights, biases and codewords start uniform in +-``bound``; None takes Xavier's bound for the weights, zero
            biases, and codewords that are rows of ``vectors``, shortened so that a sum of M of them is as long as a row.
        vectors: (N, D), for codewords that are rows.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_codebooks: int,
        codebook_size: int,
        hidden: int,
        *,
        generator: torch.Generator,
        bound: float | None,
        vectors: Tensor,
    ) -> None:
        super().__init__()
        self.num_codebooks, self.codebook_size = num_codebooks, codebook_size
        words = num_codebooks * codebook_size

        def uniform(rows: int, columns: int) -> nn.Parameter:
            limit = bound if bound is not None else math.sqrt(6 / (rows + columns))
            return nn.Parameter(((torch.rand(rows, columns, generator=generator) * 2 - 1) * limit).to(vectors.device))

        self.inner, self.outer = uniform(embedding_dim, hidden), uniform(hidden, words)
        self.inner_bias, self.outer_bias = uniform(1, hidden), uniform(1, words)
        if bound is None:
            nn.init.zeros_(self.inner_bias)
            nn.init.zeros_(self.outer_bias)
            rows = torch.randint(len(vectors), (words,), generator=generator).to(vectors.device)
            self.codebooks = nn.Parameter(vectors[rows] * num_codebooks**-0.5)
        else:
            self.codebooks = uniform(words, embedding_dim)

    def logits(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, M, K)."""
        hidden = torch.tanh(torch.addmm(self.inner_bias, x, self.inner))
        positive = nn.functional.softplus(torch.addmm(self.outer_bias, hidden, self.outer))
        return torch.log(positive + _TINY).view(-1, self.num_codebooks, self.codebook_size)

    def rebuild(self, choice: Tensor) -> Tensor:
        """Sum of the codebooks' words in the proportions ``choice``: (B, M, K) -> (B, D)."""
        return choice.flatten(1) @ self.codebooks

    def books(self) -> Tensor:
        """(M, K, D), detached."""
        return self.codebooks.detach().view(self.num_codebooks, self.codebook_size, -1)

    @torch.no_grad()
    def codes(self, vectors: Tensor) -> Tensor:
        """Argmax of the logits: (N, D) -> (N, M) uint8, or int32 where K is above 256."""
        dtype = torch.uint8 if self.codebook_size <= 256 else torch.int32
        out = torch.empty((len(vectors), self.num_codebooks), dtype=dtype, device=vectors.device)
        for part, x in chunks(vectors, 4 * self.num_codebooks * self.codebook_size):
            out[part] = self.logits(x).max(dim=2).indices
        return out


def gumbel_noise(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Standard Gumbel noise, drawn on the CPU."""
    uniform = torch.rand(shape, generator=generator).clamp_min_(1e-20)
    return uniform.log_().neg_().log_().neg_().to(device)


def half_squared_error(rebuilt: Tensor, x: Tensor) -> Tensor:
    """1/2 |x_hat - x|^2, mean over the batch: the loss."""
    return 0.5 * (rebuilt - x).square().sum(dim=1).mean()


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        steps: gradient steps.
        batch_size: B.
        report_steps: steps between two reports.
        optimizer: ``adam`` or ``sgd``.
        learning_rate: at the start, or throughout where ``constant_rate`` is set; else it warms up and falls along a cosine.
        constant_rate: see above.
        tau: temperature at the start.
        tau_end: temperature at the end, reached geometrically.
        clip_norm: largest global norm of the gradient, or 0 for any.
    """

    steps: int
    batch_size: int
    report_steps: int
    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    constant_rate: bool
    tau: float
    tau_end: float
    clip_norm: float

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if self.constant_rate:
            return self.learning_rate
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * min(1.0, (step + 1) / _WARMUP_STEPS) * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)

    def temperature(self, step: int) -> float:
        """Tau of a step."""
        return float(self.tau * (self.tau_end / self.tau) ** (step / self.steps))


@dataclasses.dataclass(frozen=True)
class Report:
    """Where a training stands: half squared errors of a row and mean largest probabilities."""

    fraction: float
    hard_loss: float
    train_loss: float
    valid_loss: float
    train_maxp: float
    valid_maxp: float


def train(
    network: CodeNetwork,
    vectors: Tensor,
    held_out: Tensor,
    schedule: Schedule,
    *,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> Iterator[Report]:
    """Train ``network`` in place; it ends with the weights of the lowest hard loss on the rows held out.

    Args:
        network: what to train.
        vectors: (N, D) float32.
        held_out: row numbers that are scored and, unless they are all rows, never trained on.
        schedule: steps, rates, temperatures.
        generator: a CPU generator, for batches and noise.
        weights: (N,) of mean 1, or None.

    Yields:
        A report every ``report_steps`` steps and after the last; the hard and the validation loss are of the rows held out,
        without noise.
    """
    rows = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
    rows[held_out] = len(held_out) == len(vectors)
    rows = torch.nonzero(rows).flatten()
    shares = None if weights is None else weights[rows]
    if shares is not None and float(shares.sum()) <= 0:  # all the weight is on rows held out
        shares = None
    parameters = list(network.parameters())
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "adam":
        fused = vectors.device.type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate, fused=fused)
    else:
        optimizer = torch.optim.SGD(parameters, lr=schedule.learning_rate)
    notes = Notes(best=math.inf, best_state=copy.deepcopy(network.state_dict()), since=0)
    totals = torch.zeros(2, device=vectors.device)
    batches = Minibatches(len(rows), schedule.batch_size, schedule.steps, generator=generator, weights=shares)
    saved = Checkpoint("dccl", network=network, optimizer=optimizer, batches=batches, totals=totals, notes=notes)
    for step, batch in enumerate(batches, batches.done):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        x = vectors[rows[batch.to(rows.device)]]
        totals += _step(network, x, optimizer, schedule, schedule.temperature(step), generator)
        notes.since += 1
        if notes.since == schedule.report_steps or step + 1 == schedule.steps:
            train_loss, train_maxp = (totals / notes.since).tolist()
            totals.zero_()
            notes.since = 0
            hard, valid_loss, valid_maxp = _score(network, vectors[held_out], schedule.temperature(step), weights, held_out)
            if hard <= notes.best:
                notes.best, notes.best_state = hard, copy.deepcopy(network.state_dict())
            yield Report((step + 1) / schedule.steps, hard, train_loss, valid_loss, train_maxp, valid_maxp)
        saved.save()
    network.load_state_dict(notes.best_state)


@torch.enable_grad()
def _step(
    network: CodeNetwork,
    x: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    tau: float,
    generator: torch.Generator,
) -> Tensor:
    """One gradient step; returns loss and maxp."""
    logits = network.logits(x)
    logits = logits + gumbel_noise(logits.shape, generator, x.device)
    choice = torch.softmax(logits if tau == 1 else logits / tau, dim=2)
    loss = half_squared_error(network.rebuild(choice), x)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if schedule.clip_norm:
        nn.utils.clip_grad_norm_(network.parameters(), schedule.clip_norm)
    optimizer.step()
    return torch.stack([loss.detach(), choice.detach().amax(dim=2).mean()])


@torch.no_grad()
def _score(network: CodeNetwork, x: Tensor, tau: float, weights: Tensor | None, rows: Tensor) -> tuple[float, float, float]:
    """Hard loss, soft loss and maxp of rows, all without noise."""
    codes = network.codes(x)
    soft, largest = 0.0, 0.0
    for _, part in chunks(x, 4 * network.num_codebooks * network.codebook_size):
        choice = torch.softmax(network.logits(part) / tau, dim=2)
        soft += float(half_squared_error(network.rebuild(choice), part)) * len(part)
        largest += float(choice.amax(dim=2).mean()) * len(part)
    heavy = None
    if weights is not None and float(weights[rows].sum()) > 0:
        heavy = weights[rows] / weights[rows].mean()
    return half_mse(x, codes, network.books(), heavy), soft / len(x), largest / len(x)
