"""What a language model makes of a text, and how much its loss feels its tables.

Shapes: V words, D columns of the input table, H of the output table, T tokens of a segment, B streams.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.language.network import INPUT, OUTPUT, LanguageNetwork
from trainables.networks.language.texts import Streams

_MOST_NATS = 700.0  # exp of more is no finite number


@torch.no_grad()
def log_loss(embeddings: Mapping[str, nn.Module], network: LanguageNetwork, streams: Streams) -> float:
    """Mean cross-entropy of a text, in nats a token, the state carried from the first token to the last.

    All modules are put in evaluation mode.
    """
    for module in (network, *embeddings.values()):
        module.eval()
    total, states = 0.0, network.start(streams.count)
    for segment in streams.segments():
        losses, states = network.losses(embeddings, segment.to(network.device), states)
        total += float(losses.sum(dtype=torch.float64))
    return total / streams.tokens


def perplexity(nats: float) -> float:
    """What a mean cross-entropy comes to, exp(nats); where that is no number, or none that is finite, a very large one."""
    return math.exp(_MOST_NATS if math.isnan(nats) else min(nats, _MOST_NATS))


def sensitivity(rows: Mapping[str, Tensor], network: LanguageNetwork, streams: Streams) -> dict[str, tuple[Tensor, Tensor]]:
    """How much the loss feels each row of the tables, and each direction: the empirical Fisher information.

    A row of the input table is felt where its word is read, one of the output table by the gradient of its logit at every
    place. Both are sums over all tokens of squared gradients; within a segment, as training has it.

    Args:
        rows: the dense tables by role, (V, D) and (V, H), also those that are the network's own.
        network: the trained network.
        streams: the training text.

    Returns:
        By role, (V,) sums of squared gradients and the gradients' second moment (D, D) or (H, H).
    """
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    output = INPUT if network.tied else OUTPUT
    felt = {role: table.new_zeros(table.shape[0]) for role, table in rows.items()}
    moment = {role: table.new_zeros(table.shape[1], table.shape[1]) for role, table in rows.items()}
    states = network.start(streams.count)
    for segment in streams.segments():
        here = segment.to(network.device)
        vectors = rows[INPUT][here.ids].requires_grad_()
        hidden, states = network.read(vectors, states)
        states = [state.detach() for state in states]
        flat, targets = hidden.detach().flatten(0, 1), here.targets.flatten()
        # The gradient of the sum of all losses to the logits, and from there by hand to both tables.
        of_logits = torch.softmax(functional.linear(flat, rows[output], network.bias), dim=1)
        of_logits[torch.arange(len(targets)), targets] -= 1
        (gradient,) = torch.autograd.grad(hidden, vectors, (of_logits @ rows[output]).reshape(hidden.shape))
        gradient = gradient.flatten(0, 1)
        felt[INPUT].index_add_(0, here.ids.flatten(), gradient.square().sum(dim=1))
        moment[INPUT] += gradient.T @ gradient
        squared = of_logits.square_()
        felt[output] += flat.square().sum(dim=1) @ squared
        moment[output] += (flat * squared.sum(dim=1, keepdim=True)).T @ flat
    return {role: (felt[role], moment[role]) for role in rows}
