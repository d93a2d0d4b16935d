"""Networks on pairs of sentences, trained as all others are.

Shapes: B batch, T tokens of the longest pair, D columns of the table, H hidden units, C classes.

A pair is one text to batches and training (:func:`trainables.networks.batches.encode_pairs`): the first sentence, then the
second in reverse, with one target, at the first sentence's last word. The network answers at every place what it would
say if the first sentence ended there: one LSTM reads from the left, the other (or the same one) from the right, so that a
place sees the first sentence as it was written, up to there, and the second as it was written, down to the next place. Only
the answer with a target is trained and scored, so pairs need no batches, training or scoring of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from trainables.networks.batches import NO_TARGET
from trainables.networks.sequence import SequenceNetwork


class PairNetwork(SequenceNetwork):
    """Embedding -> dropout -> LSTM layers on each sentence -> u, v -> classes from [u, v, |u - v|, u * v].

    u and v are the largest values of the last layer's states, unit by unit, over the first and the second sentence.

    Args:
        embedding_dim: D.
        hidden_size: H.
        num_layers: LSTM layers.
        num_classes: C.
        dropout: on the vectors, between the layers and in front of the output.
        shared: whether one LSTM reads both sentences, or each has its own.
        generator: of the initial weights; a CPU generator.
    """

    def __init__(
        self,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int,
        num_classes: int,
        *,
        dropout: float,
        shared: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__(
            embedding_dim,
            hidden_size,
            num_layers,
            num_classes,
            dropout=dropout,
            bidirectional=False,
            per_token=True,
            generator=generator,
        )
        with torch.random.fork_rng(devices=[]):
            if not shared:
                widths = [embedding_dim, *[hidden_size] * (num_layers - 1)]
                self.backwards = nn.ModuleList(nn.LSTM(width, hidden_size, batch_first=True) for width in widths)
            self.output = nn.Linear(4 * hidden_size, num_classes)
        with torch.no_grad():
            for module, fan_in in ((self.backwards, hidden_size), (self.output, 4 * hidden_size)):
                for parameter in module.parameters():
                    bound = fan_in**-0.5
                    parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, T, C) of every place at which the first sentence may end, but a text's last.

        Args:
            vectors: (B, T, D), the first sentence and the second turned round, whatever stands behind a text's end.
            lengths: (B,) tokens of both sentences, at least 2.
        """
        places = torch.arange(vectors.shape[1], device=vectors.device)
        left = lengths[:, None] - 1 - places
        turned = torch.where(left >= 0, left, places)[:, :, None]
        first = self._read(self.forwards, vectors)
        second = self._read(self.backwards or self.forwards, vectors.gather(1, turned.expand_as(vectors)))
        # What was read from the right when the next place was reached.
        second = second.gather(1, (left - 1).clamp_min(0)[:, :, None].expand_as(second))
        features = torch.cat([first, second, (first - second).abs(), first * second], dim=2)
        return cast(Tensor, self.output(self.dropout(features)))

    def _read(self, layers: nn.ModuleList, vectors: Tensor) -> Tensor:
        """(B, T, H): the largest states so far."""
        states = self.dropout(vectors)
        for index, layer in enumerate(layers):
            states, _ = layer(self.dropout(states) if index else states)
        return torch.cummax(states, dim=1).values


def of_pairs(truth: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Classes and predicted classes of pairs, one each, from those at every place."""
    ends = [next(place for place, target in enumerate(targets) if target != NO_TARGET) for targets in truth]
    true, guessed = ([one[end] for one, end in zip(side, ends, strict=True)] for side in (truth, predicted))
    return true, guessed
