"""How AdaComp's network is trained on a table, and how rows are given code-books within a size.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), equation 8. The rule for a size is not the
paper's: minimize the sum over rows of cost + mu * bits (a Lagrangian of the size).

Shapes: N rows, D columns, B batch, C code-books.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantizers.fitting.checkpoint import Checkpoint
from quantizers.fitting.minibatches import Minibatches
from quantizers.methods.adacomp.module import AdaCompNetwork, annealed

_FINAL_RATE = 0.05
_SELECTOR_RATE = 1e-2
_USUAL_WEIGHT = 0.04  # root mean square of what a bit adds where the learning rate is as given: 128 bits of GloVe 50d


class Pretraining:
    """Steps of Adam on equation 8 plus lambda P, its rate falling linearly to a twentieth."""

    def __init__(self, network: AdaCompNetwork, config: Any, steps: int) -> None:
        self.network, self.config, self.steps = network, config, steps
        selector = [network.hidden, network.hidden_bias, network.choice, network.choice_bias]
        autoencoders = [network.weights, network.encoder_bias, network.decoder_bias]
        self.optimizer = torch.optim.Adam([{"params": selector}, {"params": autoencoders}], lr=config.learning_rate)
        # The more bits, the smaller the weights, and the smaller the steps that still lead anywhere.
        size = float(network.weights.detach().square().mean().sqrt()) * (1.0 - network.low)
        self.rates = config.learning_rate, config.learning_rate * size / _USUAL_WEIGHT
        self.done = 0

    def step(self, e: Tensor, books: Tensor | None, random: torch.Generator) -> float:
        """One step on rows ``e`` (B, D), selected by the network, or as ``books`` (B,) says; returns their mean loss."""
        fraction = self.done / self.steps
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * (1 - (1 - _FINAL_RATE) * fraction)
        with torch.enable_grad():
            if books is None:
                tau = annealed(self.config.tau, self.config.final_tau, fraction)
                rebuilt = self.network(e, self.network.select(e, tau, random))
            else:
                rebuilt = self.network.one_book(e, books)
            error = (rebuilt - e).square().sum()
            loss = error + self.config.orthogonality * self.network.penalty()
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        return float(error.detach()) / len(e)


def learn_selector(network: AdaCompNetwork, vectors: Tensor, scale: float, books: Tensor, random: torch.Generator) -> None:
    """Train the selector to choose ``books`` (N,): cross-entropy of alpha / sum alpha, Adam.

    Where a budget chose, the network comes near: it agrees on 85 % of the first 10,000 rows of GloVe 50d.
    """
    network.start_selector(random)
    steps = min(3000, max(300, len(vectors) // 5))
    parameters = [network.hidden, network.hidden_bias, network.choice, network.choice_bias]
    optimizer = torch.optim.Adam(parameters, lr=_SELECTOR_RATE)
    batches = Minibatches(len(vectors), 512, steps, generator=random)
    saved = Checkpoint("adacomp.selector", network=network, optimizer=optimizer, batches=batches)
    for step, ids in enumerate(batches, batches.done):
        ids = ids.to(vectors.device)
        for group in optimizer.param_groups:
            group["lr"] = _SELECTOR_RATE * (1 - step / steps)
        with torch.enable_grad():
            loss = functional.cross_entropy(network.log_alpha(vectors[ids] / scale), books[ids])
            gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        saved.save()


def allocate(costs: Tensor, code_lengths: Sequence[int], max_bits: int) -> Tensor:
    """A code-book for every row, so that the sum of costs is small and all rows together take ``max_bits`` at the most.

    Minimizes cost + mu * bits row by row; mu, the same for all rows, is the smallest that keeps the size (by bisection).
    That is the least sum of costs for the size that comes out.

    Args:
        costs: (N, C) of every row in every code-book.
        code_lengths: bits of each code-book.
        max_bits: not less than every row in the shortest code-book takes.

    Returns:
        (N,) int64.
    """
    bits = torch.tensor(code_lengths, device=costs.device)

    def choose(mu: float) -> tuple[Tensor, int]:
        books = (costs + mu * bits).argmin(dim=1)
        return books, int(bits[books].sum())

    # One bit more or less is worth no more than all that a row can gain; beyond that only the lengths count.
    high = 2 * float(costs.max() - costs.min()) + 1e-30
    low = 0.0
    best, total = choose(low)
    if total <= max_bits:
        return best
    best = torch.full_like(best, int(bits.argmin()))
    for _ in range(60):
        middle = 0.5 * (low + high)
        books, total = choose(middle)
        if total <= max_bits:
            best, high = books, middle
        else:
            low = middle
    return best


def by_error(network: AdaCompNetwork, vectors: Tensor, scale: float, weights: Tensor | None, max_bits: int) -> Tensor:
    """:func:`allocate` with the squared errors of rows ``vectors`` (N, D), weighted by ``weights`` (N,), as costs."""
    errors = network.errors(vectors, scale)
    costs = errors if weights is None else errors * weights[:, None]
    return allocate(costs, network.code_lengths, max_bits)
