"""The networks of the downstream tasks: LSTMs over padded batches, with an embedding module in front.

Reference: Kim, Kim & Lee 2020, section 4 (two-layer LSTMs: 450 units and the mean of the last layer's states for sentiment,
300 units for chunking).

Shapes: B batch, T tokens of the longest text, D columns of the table, H hidden units, C classes.

Texts are padded on the right. A state never looks to the right, and the backward direction reads each text turned round
within its own length, so that padding changes nothing: a text scores the same whatever it is batched with.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.batches import NO_TARGET, Batch, Encoded, batches
from trainables.networks.training import Epoch, TrainedNetwork


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy: logits (..., C), targets (...) with -100 where there is none."""
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=NO_TARGET)


class SequenceNetwork(TrainedNetwork):
    """Embedding -> dropout -> LSTM layers -> classes, a prediction for each text or for each token.

    Args:
        embedding_dim: D.
        hidden_size: H, for each direction.
        num_layers: LSTM layers.
        num_classes: C.
        dropout: on the vectors, between the layers and in front of the output.
        bidirectional: whether each layer reads in both directions.
        per_token: a prediction for each token, or for the mean of the last layer's states.
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
        bidirectional: bool,
        per_token: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.per_token = per_token
        self.dropout = nn.Dropout(dropout)
        directions = 2 if bidirectional else 1
        widths = [embedding_dim, *[directions * hidden_size] * (num_layers - 1)]
        with torch.random.fork_rng(devices=[]):  # torch draws from the global generator, which stays as it was
            self.forwards = nn.ModuleList(nn.LSTM(width, hidden_size, batch_first=True) for width in widths)
            self.backwards = nn.ModuleList(
                nn.LSTM(width, hidden_size, batch_first=True) for width in widths if bidirectional
            )
            self.output = nn.Linear(directions * hidden_size, num_classes)
        bound = hidden_size**-0.5  # torch's own start, from our generator
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Logits.

        Args:
            vectors: (B, T, D), whatever stands behind a text's end.
            lengths: (B,) tokens of each text, at least 1.

        Returns:
            (B, C), or (B, T, C) where predictions are per token.
        """
        places = torch.arange(vectors.shape[1], device=vectors.device)
        inside = places < lengths[:, None]
        turned = torch.where(inside, lengths[:, None] - 1 - places, places)[:, :, None]
        states = self.dropout(vectors)
        for index, layer in enumerate(self.forwards):
            if index:
                states = self.dropout(states)
            ahead, _ = layer(states)
            if not len(self.backwards):
                states = ahead
                continue
            back, _ = self.backwards[index](states.gather(1, turned.expand_as(states)))
            states = torch.cat([ahead, back.gather(1, turned.expand_as(back))], dim=2)
        if not self.per_token:
            # where, not a product: behind a text's end there may be anything
            states = torch.where(inside[:, :, None], states, 0).sum(dim=1) / lengths[:, None]
        return cast(Tensor, self.output(self.dropout(states)))

    def loss(self, embeddings: Mapping[str, nn.Module], batch: Batch, lower: AbstractContextManager[Any]) -> Tensor:
        """See :meth:`TrainedNetwork.loss`; the network reads one table."""
        (embedding,) = embeddings.values()
        vectors = embedding(batch.ids)
        with lower:
            logits = self(vectors, batch.lengths)
        return task_loss(logits.float(), batch.targets)

    def epoch(self, data: Encoded, batch_size: int) -> Epoch:
        """The batches that training goes through."""

        def make(order: torch.Generator) -> Any:
            return batches(data, batch_size, generator=order, per_token=self.per_token)

        return Epoch(make, -(-len(data) // batch_size))
