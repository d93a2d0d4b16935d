"""A small Transformer that translates, its two tables outside of it.

Reference: Vaswani et al. 2017; layer norms in front of each part, as in Xiong et al. 2020, and behind the tables; label
smoothing of Szegedy et al. 2016.

Shapes: B pairs, S tokens of the longest source text, T of the longest target text, V rows of the target table, D columns of
both tables, H units, A heads, R rows of a search.

The decoder reads the target table, and unless the network has an output matrix of its own, scores words by it too (Press &
Wolf 2017): all that grows with the vocabularies is then in the two tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.networks.batches import NO_TARGET
from trainables.networks.training import TrainedNetwork
from trainables.networks.translation.texts import PairBatch

_LOWEST_RATE = 1e-4  # of the positions' sines


class Attention(nn.Module):
    """Multi-head attention of queries to keys and values that are kept from step to step.

    Args:
        size: H.
        heads: A.
        dropout: on the weights.
    """

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.output = nn.Linear(size, size)

    def read(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, A, S, H / A) of what is attended to, (B, S, H)."""
        key, value = self.key_value(states).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(self, states: Tensor, memory: tuple[Tensor, Tensor], *, mask: Tensor | None, causal: bool = False) -> Tensor:
        """What the states (B, T, H) find in the memory.

        Args:
            states: (B, T, H).
            memory: keys and values, of :meth:`read`.
            mask: (B, 1, 1, S), True where something stands; None: everywhere.
            causal: whether a place sees none to its right.
        """
        found = functional.scaled_dot_product_attention(
            self._split(self.query(states)),
            *memory,
            attn_mask=mask,
            is_causal=causal,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return cast(Tensor, self.output(found.transpose(1, 2).flatten(2)))

    def _split(self, states: Tensor) -> Tensor:
        return states.reshape(*states.shape[:2], self.heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """Self-attention, attention to the source in a decoder, and two linear maps with a ReLU between them."""

    def __init__(self, size: int, heads: int, inner: int, dropout: float, *, decodes: bool) -> None:
        super().__init__()
        self.own = Attention(size, heads, dropout)
        self.source = Attention(size, heads, dropout) if decodes else None
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3 if decodes else 2))
        self.inner = nn.Sequential(nn.Linear(size, inner), nn.ReLU(), nn.Linear(inner, size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, *, mask: Tensor | None, source: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """A whole text (B, T, H): an encoder's, with its mask, or a decoder's, with what its source is and its mask."""
        seen = self.norms[0](states)
        own_mask = None if self.source is not None else mask
        found = self.own(seen, self.own.read(seen), mask=own_mask, causal=self.source is not None)
        return self._rest(states + self.dropout(found), source, mask)

    def step(
        self, states: Tensor, past: tuple[Tensor, Tensor] | None, source: tuple[Tensor, Tensor], mask: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One more token (R, 1, H) of a decoder's texts, and the keys and values of all so far."""
        seen = self.norms[0](states)
        now = self.own.read(seen)
        if past is not None:
            now = torch.cat([past[0], now[0]], dim=2), torch.cat([past[1], now[1]], dim=2)
        found = self.own(seen, now, mask=None)
        return self._rest(states + self.dropout(found), source, mask), now

    def _rest(self, states: Tensor, source: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:
        if self.source is not None and source is not None:
            states = states + self.dropout(self.source(self.norms[1](states), source, mask=mask))
        return cast(Tensor, states + self.dropout(self.inner(self.norms[-1](states))))


@dataclasses.dataclass(frozen=True)
class Sources:
    """Source texts as a decoder sees them.

    Attributes:
        memory: keys and values of each layer, (B, A, S, H / A).
        mask: (B, 1, 1, S), True where a token stands.
    """

    memory: list[tuple[Tensor, Tensor]]
    mask: Tensor

    def take(self, rows: Tensor) -> Sources:
        """Those of ``rows``, (R,)."""
        return Sources([(key[rows], value[rows]) for key, value in self.memory], self.mask[rows])


class Transformer(TrainedNetwork):
    """An encoder and a decoder over vectors of a source and a target table.

    Args:
        embedding_dim: D.
        target_rows: V.
        hidden_size: H, a multiple of the heads.
        num_layers: of the encoder, and of the decoder.
        heads: A.
        inner_size: units between the two linear maps of a layer.
        dropout: on vectors, attention and what each part adds.
        tied: whether words are scored by the target table, or by an output matrix of the network's own.
        label_smoothing: share of the target that goes to all words alike.
        generator: of the initial weights; a CPU generator.
    """

    def __init__(
        self,
        embedding_dim: int,
        target_rows: int,
        *,
        hidden_size: int,
        num_layers: int,
        heads: int,
        inner_size: int,
        dropout: float,
        tied: bool,
        label_smoothing: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.dropout = nn.Dropout(dropout)
        with torch.random.fork_rng(devices=[]):  # torch draws from the global generator, which stays as it was
            self.reads = nn.ModuleDict({role: nn.Linear(embedding_dim, hidden_size) for role in ("source", "target")})
            self.starts = nn.ModuleDict({role: nn.LayerNorm(hidden_size) for role in ("source", "target")})
            self.ends = nn.ModuleDict({role: nn.LayerNorm(hidden_size) for role in ("source", "target")})
            self.encoder = nn.ModuleList(
                Layer(hidden_size, heads, inner_size, dropout, decodes=False) for _ in range(num_layers)
            )
            self.decoder = nn.ModuleList(
                Layer(hidden_size, heads, inner_size, dropout, decodes=True) for _ in range(num_layers)
            )
            self.back = nn.Linear(hidden_size, embedding_dim)
            self.output = None if tied else nn.Linear(embedding_dim, target_rows, bias=False)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):  # Glorot & Bengio 2010, from our generator
                    bound = (6 / sum(module.weight.shape)) ** 0.5
                    module.weight.copy_(torch.empty(module.weight.shape).uniform_(-bound, bound, generator=generator))
                    if module.bias is not None:
                        module.bias.zero_()

    # Reading -----------------------------------------------------------------------------------------------------------

    def encode(self, vectors: Tensor, lengths: Tensor) -> Sources:
        """What a decoder sees of source texts: (B, S, D), whatever stands behind a text's end, and (B,) their lengths."""
        mask = (torch.arange(vectors.shape[1], device=vectors.device) < lengths[:, None])[:, None, None, :]
        # where, not a product: behind a text's end there may be anything
        states = self._start("source", torch.where(mask[:, 0, 0, :, None], vectors, 0), 0)
        for layer in self.encoder:
            states = layer(states, mask=mask)
        states = self.ends["source"](states)
        return Sources([cast(Layer, layer).source.read(states) for layer in self.decoder], mask)  # type: ignore[union-attr]

    def decode(self, vectors: Tensor, sources: Sources) -> Tensor:
        """What follows each token of whole target texts (B, T, D): (B, T, D), to be scored by words' vectors."""
        states = self._start("target", vectors, 0)
        for layer, memory in zip(self.decoder, sources.memory, strict=True):
            states = layer(states, mask=sources.mask, source=memory)
        return self._end(states)

    def step(
        self, vectors: Tensor, place: int, past: list[tuple[Tensor, Tensor]] | None, sources: Sources
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """One more token of R texts: what follows it, (R, D), and the keys and values of all so far, layer by layer.

        Args:
            vectors: (R, D) of the tokens.
            place: how many tokens stand before them.
            past: what the last step returned; None at the first.
            sources: of the R texts.
        """
        states = self._start("target", vectors[:, None], place)
        now = []
        for index, (layer, memory) in enumerate(zip(self.decoder, sources.memory, strict=True)):
            kept = None if past is None else past[index]
            states, kept = cast(Layer, layer).step(states, kept, memory, sources.mask)
            now.append(kept)
        return self._end(states)[:, 0], now

    def words(self, embeddings: Mapping[str, nn.Module]) -> Tensor:
        """(V, D) what words are scored by."""
        if self.output is not None:
            return self.output.weight
        table = embeddings["target"]
        rows = torch.arange(cast(int, cast(Any, table).num_embeddings), device=self.device)
        return cast(Tensor, table(rows))

    def _start(self, role: str, vectors: Tensor, place: int) -> Tensor:
        states = self.starts[role](self.reads[role](vectors))
        return cast(Tensor, self.dropout(states + _positions(vectors.shape[1], states.shape[2], place, states)))

    def _end(self, states: Tensor) -> Tensor:
        return cast(Tensor, self.back(self.dropout(self.ends["target"](states))))

    # Training ----------------------------------------------------------------------------------------------------------

    def loss(self, embeddings: Mapping[str, nn.Module], batch: PairBatch, lower: AbstractContextManager[Any]) -> Tensor:
        """See :meth:`TrainedNetwork.loss`: cross-entropy with label smoothing, the mean over target tokens."""
        source, target = embeddings["source"](batch.source), embeddings["target"](batch.target)
        words = self.words(embeddings)
        with lower:
            states = self.decode(target, self.encode(source, batch.source_lengths))
            logits = states[batch.wanted != NO_TARGET] @ words.T
        wanted = batch.wanted[batch.wanted != NO_TARGET]
        return functional.cross_entropy(logits.float(), wanted, label_smoothing=self.label_smoothing)


def _positions(count: int, size: int, start: int, like: Tensor) -> Tensor:
    """(T, H) sines and cosines of the places from ``start`` on."""
    places = torch.arange(start, start + count, device=like.device, dtype=torch.float32)
    rates = _LOWEST_RATE ** (torch.arange(0, size, 2, device=like.device, dtype=torch.float32) / size)
    angles = places[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :size]
