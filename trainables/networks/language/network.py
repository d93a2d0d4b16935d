"""A recurrent network that reads a text word by word and says which word follows.

Reference: Zaremba, Sutskever & Vinyals 2014 (dropout between the layers, the state carried from segment to segment); Shi &
Yu, Interspeech 2018 (input and output table compressed).

Shapes: V words, D columns of the input table, H of the output table, T tokens of a segment, B streams.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantizers.embedding import CompressedEmbedding
from quantizers.output.layer import CompressedOutput
from trainables.networks.language.texts import Segment, Streams
from trainables.networks.training import Epoch, TrainedNetwork

INPUT, OUTPUT = "input", "output"
_LAYERS: Mapping[str, Any] = {
    "tanh": lambda width, size: nn.RNN(width, size, nonlinearity="tanh"),
    "relu": lambda width, size: nn.RNN(width, size, nonlinearity="relu"),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


class LanguageNetwork(TrainedNetwork):
    """Vectors -> dropout -> recurrent layers, dropout between them -> dropout -> softmax over the words.

    The tables are handed in with every call, by role: ``input``, and ``output`` unless the two are one (``tied``). Each
    is an ``nn.Embedding`` or a compressed table. A role that is not handed in is read from a table of the network's own
    (:meth:`own`).

    Args:
        num_words: V.
        embedding_dim: D.
        hidden_size: units of a layer, and H; where the tables are tied, the last layer has D units.
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
        self.tables = nn.ModuleDict()
        sizes = [*[hidden_size] * (num_layers - 1), embedding_dim if tied else hidden_size]
        with torch.random.fork_rng(devices=[]):  # torch draws from the global generator, which stays as it was
            widths = zip([embedding_dim, *sizes], sizes, strict=False)
            self.layers = nn.ModuleList(_LAYERS[rnn](width, size) for width, size in widths)
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

    def own(self, role: str, table: nn.Embedding) -> None:
        """Make ``table`` the network's own, for a role that is never handed in."""
        self.tables[role] = table

    def epoch(self, streams: Streams) -> Epoch:
        """The segments that training goes through, always in the text's order."""
        return Epoch(lambda order: streams.segments(), len(streams))

    def start(self, count: int) -> list[Tensor]:
        """The states in front of ``count`` texts: zeros."""
        carried = [getattr(self, f"carried_{index}") for index in range(len(self.layers))]
        return [state.new_zeros(len(state), count, state.shape[2]) for state in carried]

    def loss(
        self, embeddings: Mapping[str, nn.Module], batch: Segment, lower: contextlib.AbstractContextManager[Any]
    ) -> Tensor:
        """See :meth:`TrainedNetwork.loss`; the state at the segment's end is carried into the next one."""
        # Copies: the backward pass still needs them when the next ones are written.
        states = [getattr(self, f"carried_{index}").clone() for index in range(len(self.layers))]
        if batch.first:
            states = [torch.zeros_like(state) for state in states]
        losses, states = self.losses(embeddings, batch, states, lower)
        for index, state in enumerate(states):
            getattr(self, f"carried_{index}").copy_(state.detach())
        return losses.mean()

    def losses(
        self,
        embeddings: Mapping[str, nn.Module],
        segment: Segment,
        states: list[Tensor],
        lower: contextlib.AbstractContextManager[Any] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Cross-entropy of every target, and the states at the end.

        Args:
            embeddings: the tables by role.
            segment: what is read.
            states: of every layer, (1 or 2, B, units).
            lower: products inside it may be of lower precision.

        Returns:
            (T * B,) float32, in nats; the states.
        """
        lower = lower or contextlib.nullcontext()
        vectors = self.table(INPUT, embeddings)(segment.ids)
        with lower:
            hidden, states = self.read(vectors, states)
        hidden, targets = self.dropout(hidden).flatten(0, 1), segment.targets.flatten()
        table = self.table(INPUT if self.tied else OUTPUT, embeddings)
        if isinstance(table, CompressedEmbedding):
            if not self._output or self._output[0].embedding is not table:
                self._output = (CompressedOutput(table, self.bias),)
            return self._output[0].losses(hidden, targets), states
        with lower:
            logits = functional.linear(hidden, cast(Tensor, table.weight), self.bias)
        return functional.cross_entropy(logits.float(), targets, reduction="none"), states

    def table(self, role: str, embeddings: Mapping[str, nn.Module]) -> nn.Module:
        """The table of ``role``: one of ``embeddings``, or the network's own."""
        return embeddings[role] if role in embeddings else self.tables[role]

    def read(self, vectors: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The last layer's states for vectors (T, B, D): (T, B, H); and the states (1 or 2, B, units) at the end."""
        hidden, ends = self.dropout(vectors), []
        for index, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            if index:
                hidden = self.dropout(hidden)
            state = state.to(hidden.dtype)
            hidden, end = layer(hidden, (state[:1], state[1:]) if len(state) == 2 else state)
            ends.append(torch.cat(end) if isinstance(end, tuple) else end)
        return hidden, ends
