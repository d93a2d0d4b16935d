"""What a trained network says of texts, and how much its loss feels the vectors that it reads.

Shapes: N rows, D columns, B batch, T tokens of the longest text.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.batches import Batch, Encoded, batches
from trainables.networks.sequence import SequenceNetwork

_SCORING_BATCH = 256


@torch.no_grad()
def predict(embedding: nn.Module, network: SequenceNetwork, data: Encoded) -> Iterator[tuple[Batch, Tensor]]:
    """Every batch of ``data`` with its predicted classes, (B,) or (B, T); both modules are put in evaluation mode."""
    embedding.eval()
    network.eval()
    for batch in batches(data, _SCORING_BATCH, per_token=network.per_token):
        there = batch.to(network.device)
        yield batch, network(embedding(there.ids), there.lengths).argmax(dim=-1)


def sensitivity(embedding: Tensor, network: SequenceNetwork, data: Encoded) -> tuple[Tensor, Tensor]:
    """How much the task's loss feels each row, and each direction: the empirical Fisher information.

    Args:
        embedding: (N, D) the vectors that the network was trained with.
        network: the trained network.
        data: texts with targets (the training set's).

    Returns:
        (N,) sums over a row's occurrences of the squared gradient of its text's loss; (D, D) the second moment of the
        gradients, summed over all tokens.
    """
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    felt = embedding.new_zeros(embedding.shape[0])
    moment = embedding.new_zeros(embedding.shape[1], embedding.shape[1])
    for batch in batches(data, _SCORING_BATCH, per_token=network.per_token):
        vectors = embedding[batch.ids].requires_grad_()
        logits = network(vectors, batch.lengths)
        # A sum, not a mean: a token's gradient is that of its own text's loss, whatever else is in the batch.
        loss = functional.cross_entropy(logits.flatten(0, -2), batch.targets.flatten(), ignore_index=-100, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, vectors)
        gradient = gradient.flatten(0, 1)
        felt.index_add_(0, batch.ids.flatten(), gradient.square().sum(dim=1))
        moment += gradient.T @ gradient
    return felt, moment
