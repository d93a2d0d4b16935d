"""How AdaComp's network is trained on a table alone.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), equation 8.

Shapes: N rows, D columns, B batch, C code-books.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantizers.methods.adacomp.network import AdaCompNetwork, annealed
from quantizers.methods.adacomp.selection import SAMPLE_ROWS, SelectionTerms

_FINAL_RATE = 0.05
_USUAL_WEIGHT = 0.04  # root mean square of what a bit adds where the learning rate is as given: 128 bits of GloVe 50d


class Pretraining:
    """Steps of Adam on equation 8 plus lambda P and the selection's terms, its rate falling linearly to a twentieth.

    Args:
        network: what is trained, at its start.
        vectors: (N, D), the table.
        config: of the method.
        steps: how many there will be.
        bits_a_row: what the selector has to keep, see :class:`SelectionTerms`.
        random: of noise and of the rows that the selection's terms are measured on.
    """

    def __init__(
        self,
        network: AdaCompNetwork,
        vectors: Tensor,
        config: Any,
        steps: int,
        bits_a_row: float | None,
        random: torch.Generator,
    ) -> None:
        self.network, self.config, self.steps = network, config, steps
        self._vectors, self._random = vectors, random
        self.terms = SelectionTerms(config.code_lengths, config.balance, bits_a_row).to(vectors.device)
        groups = [{"params": network.selector()}, {"params": network.autoencoders()}]
        self.optimizer = torch.optim.Adam(groups, lr=config.learning_rate)
        # The more bits, the smaller the weights, and the smaller the steps that still lead anywhere.
        size = float(network.weights.detach().square().mean().sqrt()) * (1.0 - network.low)
        self.rates = config.learning_rate, config.learning_rate * size / _USUAL_WEIGHT
        self.done = 0

    def step(self, ids: Tensor, books: Tensor | None) -> float:
        """One step on rows ``ids`` (B,), selected by the network, or as ``books`` (B,) says; returns their mean loss."""
        network, fraction = self.network, self.done / self.steps
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * (1 - (1 - _FINAL_RATE) * fraction)
        e = self._vectors[ids] / network.unit
        with torch.enable_grad():
            if books is None:
                tau = annealed(self.config.tau, self.config.final_tau, fraction)
                rebuilt = network(e, network.select(network.log_alpha(e), tau, self._random))
            else:
                rebuilt = network.one_book(e, books)
            error = (rebuilt - e).square().sum()
            loss = error + self.config.orthogonality * network.penalty()
            if books is None:
                loss = loss + len(e) * self.terms(network.log_alpha(self._sample() / network.unit))
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        return float(error.detach()) / len(e)

    def _sample(self) -> Tensor:
        """Rows drawn evenly: those of a batch may be drawn by their weights."""
        count = min(SAMPLE_ROWS, len(self._vectors))
        return self._vectors[torch.randint(len(self._vectors), (count,), generator=self._random).to(self._vectors.device)]
