"""The model that factors a PMI matrix, and its losses.

Reference: Levy & Goldberg 2014 (vectors as factors of a PMI matrix); Pennington, Socher & Manning 2014, eq. 8 and 9 (biases,
and a weight that grows with the value up to ``x_max``).

Shapes: V words, B entries of a batch, D columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from trainables.networks.training import Epoch, TrainedNetwork
from trainables.tasks.pmi.entries import Entries

WORD, CONTEXT = "word", "context"
_SCORING_BATCH = 1 << 15
ALPHA, X_MAX = 0.75, 100.0
_EPSILON = 1e-9  # in front of a logarithm


def _weight(values: Tensor) -> Tensor:
    """GloVe's weight of an entry: (value / x_max) ** alpha, 1 at the most."""
    return (values / X_MAX).clamp(0.0, 1.0) ** ALPHA


def glove_pmi(predicted: Tensor, values: Tensor) -> Tensor:
    """GloVe's weight of the PMI x the squared error of the PMI, the mean of a batch: (B,), (B,) -> ()."""
    return (_weight(values) * (predicted - values).square()).mean()


def glove_log_pmi(predicted: Tensor, values: Tensor) -> Tensor:
    """GloVe's weight of the PMI x the squared error of its logarithm, the mean of a batch: (B,), (B,) -> ()."""
    return (_weight(values) * (predicted - (values + _EPSILON).log()).square()).mean()


def mse_log_pmi(predicted: Tensor, values: Tensor) -> Tensor:
    """The squared error of the PMI's logarithm, the mean of a batch: (B,), (B,) -> ()."""
    return (predicted - (values + _EPSILON).log()).square().mean()


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "glove_pmi": glove_pmi,
    "glove_log_pmi": glove_log_pmi,
    "mse_log_pmi": mse_log_pmi,
}


class Factorization(TrainedNetwork):
    """PMI of a word and a context = their vectors' dot product + a bias of each.

    Args:
        num_words: V at the most, of which each is a word and a context.
        loss: one of ``LOSSES``.
        biases: ``separate`` for words and contexts, ``shared`` by both, or ``none``.
        dropout: on the vectors.
    """

    def __init__(self, num_words: int, *, loss: str, biases: str, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self._loss = LOSSES[loss]
        number = {"separate": 2, "shared": 1, "none": 0}[biases]
        self.biases = nn.Parameter(torch.zeros(number, num_words))

    def forward(self, embeddings: Mapping[str, nn.Module], entries: Entries) -> Tensor:
        """What the model says of entries: (B,)."""
        words, contexts = entries.words.long(), entries.contexts.long()
        context_vectors = embeddings.get(CONTEXT, embeddings[WORD])(contexts)
        predicted: Tensor = (self.dropout(embeddings[WORD](words)) * self.dropout(context_vectors)).sum(dim=1)
        if len(self.biases):
            predicted = predicted + self.biases[0].index_select(0, words) + self.biases[-1].index_select(0, contexts)
        return predicted

    def loss(self, embeddings: Mapping[str, nn.Module], batch: Entries, lower: AbstractContextManager[Any]) -> Tensor:
        """See :meth:`TrainedNetwork.loss`; all of it is of full precision."""
        return self._loss(self(embeddings, batch), batch.values)

    @torch.no_grad()
    def mean_loss(self, embeddings: Mapping[str, nn.Module], entries: Entries) -> float:
        """The mean loss of all entries; the modules are put in evaluation mode.

        Vectors so large that there is none (it overflows) say as much as a model that says 0 of every entry.
        """
        for module in (self, *embeddings.values()):
            module.eval()
        total = nothing = 0.0
        for batch in entries.batches(_SCORING_BATCH):
            there = batch.to(self.device)
            total += len(batch) * float(self._loss(self(embeddings, there), there.values))
            nothing += len(batch) * float(self._loss(torch.zeros_like(there.values), there.values))
        return (total if math.isfinite(total) else nothing) / len(entries)

    @staticmethod
    def epoch(entries: Entries, batch_size: int, negatives: float, num_words: int) -> Epoch:
        """The batches that training goes through, with ``negatives`` drawn pairs of ``num_words`` words for each entry."""

        def make(order: torch.Generator) -> Iterator[Entries]:
            return entries.shuffled(batch_size, negatives, num_words, order)

        return Epoch(make, -(-len(entries) // batch_size))
