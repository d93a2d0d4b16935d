"""The network of DPQ: hard codes of column blocks with a gradient, and the module that trains them with a task.

Paper: Chen, Li & Sun, "Differentiable Product Quantization for End-to-End Embedding Compression" (ICML 2020); equations in
:mod:`quantizers.methods.dpq.method`.

Shapes: N rows, D columns, B batch, M num_codebooks (blocks), K codebook_size, d columns of the widest block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantizers.base import Quantizer
from quantizers.learned import LearnedEmbedding
from quantizers.table import Table


class Blocks(nn.Module):
    """Columns as blocks that are all as wide as the widest; the first D mod M blocks are a column wider than the others.

    Args:
        embedding_dim: D.
        num_codebooks: M.
    """

    columns: Tensor
    places: Tensor

    def __init__(self, embedding_dim: int, num_codebooks: int) -> None:
        super().__init__()
        parts = torch.arange(embedding_dim).tensor_split(num_codebooks)
        # Which column each place of a block holds; D is a column of zeros behind the last one.
        columns = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=embedding_dim)
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("places", (columns.reshape(-1) < embedding_dim).nonzero()[:, 0], persistent=False)

    def cut(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, M, d)."""
        return functional.pad(x, (0, 1))[:, self.columns]

    def join(self, blocks: Tensor) -> Tensor:
        """Undo :meth:`cut`."""
        return blocks.flatten(1)[:, self.places]

    def look_up(self, codes: Tensor, values: Tensor) -> Tensor:
        """Codes (B, M) of values (M, K, d) as rows (B, D)."""
        offsets = torch.arange(values.shape[0], device=codes.device) * values.shape[1]
        return self.join(functional.embedding(codes + offsets, values.flatten(0, 1)))


class DPQNetwork(nn.Module):
    """Keys and values, all blocks side by side and as wide as the widest; in units of the table's deviation.

    Args:
        codebooks: (K, D), the values to start from, divided by the unit.
        num_codebooks: M.
        config: for variant, tau and commitment.

    Attributes:
        tau: temperature of SX.
    """

    def __init__(self, codebooks: Tensor, num_codebooks: int, config: Any) -> None:
        super().__init__()
        self.config = config
        self.blocks = Blocks(codebooks.shape[1], num_codebooks).to(codebooks.device)
        values = self.blocks.cut(codebooks).transpose(0, 1).contiguous()
        self.values = nn.Parameter(values)  # (M, K, d)
        if config.variant == "sx":
            self.keys = nn.Parameter(values.clone())
            self.bias = nn.Parameter(-0.5 * values.square().sum(dim=2))
        self.tau = float(config.tau)

    def scores(self, x: Tensor) -> Tensor:
        """What each code of each block has for it, the highest wins: (B, D) -> (B, M, K)."""
        blocks = self.blocks.cut(x)
        if self.config.variant == "sx":
            return torch.einsum("bmd,mkd->bmk", blocks, self.keys) + self.bias
        # The nearest value, as |q - v|^2 = |q|^2 - 2 (q . v - |v|^2 / 2).
        return torch.einsum("bmd,mkd->bmk", blocks, self.values) - 0.5 * self.values.square().sum(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """The value of the hard code, with the variant's gradient: (B, D) -> (B, D)."""
        scores = self.scores(x)
        hard = self.blocks.look_up(scores.argmax(dim=2), self.values)
        if self.config.variant == "vq":
            return x + (hard - x).detach()
        soft = torch.softmax(scores / self.tau, dim=2)
        mixed = self.blocks.join(torch.einsum("bmk,mkd->bmd", soft, self.values.detach()))
        return hard + mixed - mixed.detach()

    def codebooks(self) -> Tensor:
        """The values as (K, D)."""
        return self.blocks.join(self.values.transpose(0, 1))

    def distance(self, x: Tensor) -> Tensor:
        """The term that VQ adds to a loss, a mean over the rows x (B, D)."""
        with torch.no_grad():
            codes = self.scores(x).argmax(dim=2)
        value = self.blocks.look_up(codes, self.values)
        pulled = (value - x.detach()).square().sum(dim=1).mean()
        held = (value.detach() - x).square().sum(dim=1).mean()
        return cast(Tensor, pulled + self.config.commitment * held)


class DPQEmbedding(LearnedEmbedding):
    """Trains values, keys and queries with a task.

    In training mode a row is the value of its hard code, with the variant's gradient. The rows of ``table`` are the queries.

    Args:
        quantizer: the fitted quantizer.
        table: the table it was fitted to.
        network: its network.
        unit: the table's deviation.
        sample: (B,) rows that VQ's term is first taken of.
        deploy: makes the quantizer of a network and queries.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        table: Table,
        network: DPQNetwork,
        unit: float,
        sample: Tensor,
        deploy: Callable[[Any, DPQNetwork, Tensor, float], Quantizer],
    ) -> None:
        super().__init__(quantizer, table)
        self.network = network
        self._unit, self._deploy = unit, deploy
        self.queries = nn.Parameter(table.vectors / self._unit, requires_grad=self.config.train_queries)
        self._seen = sample

    def soft(self, ids: Tensor) -> Tensor:
        """The rows of hard codes, scaled back."""
        self._seen, inverse = torch.unique(ids, return_inverse=True)
        return cast(Tensor, self.network(self.queries[self._seen])[inverse] * self._unit)

    def regularizer(self) -> Tensor:
        """VQ's own term for the rows looked up last (at first for a sample), in units of the table's variance."""
        if self.config.variant == "sx":
            return super().regularizer()
        return self.network.distance(self.queries[self._seen])

    def build(self) -> Quantizer:
        """Every row with its best code: by keys (SX) or nearest (VQ)."""
        return self._deploy(self.config, self.network, self.queries, self._unit)
