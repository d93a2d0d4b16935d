"""Language models: a recurrent network reads a text word by word and says which word follows.

Reference: Zaremba, Sutskever & Vinyals 2014 (dropout between the layers, state carried from segment to segment); Shi & Yu,
Interspeech 2018 (input and output table compressed).

Shapes: V words, D columns of the input table, H of the output table, T tokens of a segment, B streams.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantizers.embedding import CompressedEmbedding
from quantizers.output import CompressedOutput
from trainables.networks.streams import Segment, Streams

INPUT, OUTPUT = "input", "output"
_LAYERS: Mapping[str, Any] = {
    "tanh": lambda width, size: nn.RNN(width, size, nonlinearity="tanh"),
    "relu": lambda width, size: nn.RNN(width, size, nonlinearity="relu"),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
RNN_TYPES = tuple(_LAYERS)


class LanguageNetwork(nn.Module):
    """Vectors -> dropout -> recurrent layers, dropout between them -> dropout -> softmax over the words.

    The tables are handed in with every call, by role: ``input``, and ``output`` unless the two are one (``tied``). Each is an
    ``nn.Embedding`` or a compressed table.

    Args:
        num_words: V.
        embedding_dim: D.
        hidden_size: units of a layer, and H; tied, the last layer has D units.
        num_layers: recurrent layers.
        rnn: ``tanh``, ``relu``, ``lstm`` or ``gru``.
        tied: whether the input table is the output table too.
        dropout: on the vectors, between the layers and in front of the output.
        streams: B of training, whose state is carried.
        generator: of the initial weights; a CPU generator.
    """

    def __init__(
        self,
        num_words: int,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int,
        *,
        rnn: str,
        tied: bool,
        dropout: float,
        streams: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.tied = tied
        self.dropout = nn.Dropout(dropout)
        sizes = [*[hidden_size] * (num_layers - 1), embedding_dim if tied else hidden_size]
        with torch.random.fork_rng(devices=[]):  # torch draws from the global generator, which stays as it was
            self.layers = nn.ModuleList(
                _LAYERS[rnn](width, size) for width, size in zip([embedding_dim, *sizes], sizes, strict=False)
            )
        self.bias = nn.Parameter(torch.zeros(num_words))
        with torch.no_grad():
            for layer, size in zip(self.layers, sizes, strict=True):
                for parameter in layer.parameters():
                    parameter.copy_(torch.empty(parameter.shape).uniform_(-(size**-0.5), size**-0.5, generator=generator))
        for index, size in enumerate(sizes):  # buffers: a training that goes on from a checkpoint has them again
            self.register_buffer(f"carried_{index}", torch.zeros(2 if rnn == "lstm" else 1, streams, size))
        self._output: tuple[CompressedOutput, ...] = ()  # in a tuple: the table in it is no part of this module

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.bias.device

    def loss(self, embeddings: Mapping[str, nn.Module], segment: Segment) -> Tensor:
        """Mean cross-entropy of a segment's targets, in nats; the state at its end is carried into the next segment."""
        states = [getattr(self, f"carried_{index}") for index in range(len(self.layers))]
        if segment.first:
            states = [torch.zeros_like(state) for state in states]
        losses, states = self.losses(embeddings, segment, states)
        for index, state in enumerate(states):
            getattr(self, f"carried_{index}").copy_(state.detach())
        return losses.mean()

    def losses(
        self, embeddings: Mapping[str, nn.Module], segment: Segment, states: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Cross-entropy of every target, and the states at the end.

        Args:
            embeddings: the tables by role.
            segment: what is read.
            states: of every layer, (1 or 2, B, units).

        Returns:
            (T * B,) float32, in nats; the states.
        """
        hidden = self.dropout(embeddings[INPUT](segment.ids))
        ends = []
        for index, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            if index:
                hidden = self.dropout(hidden)
            start = (state[:1], state[1:]) if len(state) == 2 else state
            hidden, end = layer(hidden, start)
            ends.append(torch.cat(end) if isinstance(end, tuple) else end)
        return self._cross_entropy(embeddings, self.dropout(hidden).flatten(0, 1), segment.targets.flatten()), ends

    def _cross_entropy(self, embeddings: Mapping[str, nn.Module], hidden: Tensor, targets: Tensor) -> Tensor:
        table = embeddings[INPUT if self.tied else OUTPUT]
        if isinstance(table, CompressedEmbedding):
            if not self._output or self._output[0].embedding is not table:
                self._output = (CompressedOutput(table, self.bias),)
            return self._output[0].losses(hidden, targets)
        logits = functional.linear(hidden, cast(Tensor, table.weight), self.bias)
        return functional.cross_entropy(logits.float(), targets, reduction="none")


@torch.no_grad()
def log_loss(embeddings: Mapping[str, nn.Module], network: LanguageNetwork, streams: Streams) -> float:
    """Mean cross-entropy of a text, in nats a token, the state carried from its first token to its last.

    All modules are put in evaluation mode.
    """
    for module in (network, *embeddings.values()):
        module.eval()
    total, states = 0.0, []
    for index in range(len(network.layers)):
        carried = getattr(network, f"carried_{index}")
        states.append(carried.new_zeros(len(carried), streams.count, carried.shape[2]))
    for segment in streams.batches():
        losses, states = network.losses(embeddings, segment.to(network.device), states)
        total += float(losses.sum(dtype=torch.float64))
    return total / streams.tokens


def perplexity(nats: float) -> float:
    """What a mean cross-entropy comes to, exp(nats); one that overflows is a large number, not infinity."""
    return math.exp(min(nats, 700.0))
