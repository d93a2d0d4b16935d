"""What methods trained by gradient share: minibatches, a table's unit, and modules that learn codes with a task.

Reference: none of its own; used by Bin (Tissier et al. 2019), AdaComp (Kim et al. 2020) and DPQ (Chen et al. 2020).

Shapes: N rows, D columns, B batch.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.base import Quantizer
from quantizers.embedding import CompressedEmbedding
from quantizers.table import Table


class LearnedEmbedding(CompressedEmbedding):
    """A module that learns codes, not only codebooks, with a task.

    In training mode rows come from ``soft``, which is differentiable. In evaluation mode, and in everything that counts
    or saves, they come from the quantizer that ``build`` makes of the parameters as they stand, so that what is measured
    is what is saved; no gradient flows there. That quantizer is kept until a parameter changes.

    Args:
        quantizer: the fitted quantizer that the training starts from.
        table: the table it was fitted to.

    Attributes:
        draws: how often noise was drawn. A draw's noise is that of a generator of its own, made of the seed and this count:
            beside parameters and buffers, a count is all that a checkpoint of a training keeps of a module.
    """

    def __init__(self, quantizer: Quantizer, table: Table) -> None:
        nn.Module.__init__(self)  # the parameters are the subclass's, not the tensors of the state
        self.method = quantizer.name
        self.config = quantizer.config
        self.words = quantizer.words
        self.num_embeddings, self.embedding_dim = quantizer.shape
        self.draws = 0
        self._hard: tuple[Any, Quantizer] | None = None
        output = torch.empty(0, dtype=torch.float32, device=table.vectors.device)
        self.register_buffer("_output", output, persistent=False)

    @abstractmethod
    def soft(self, ids: Tensor) -> Tensor:
        """Rows ``ids`` (B,) as (B, D) float32, differentiable in the parameters."""

    @abstractmethod
    def build(self) -> Quantizer:
        """The quantizer of the parameters as they stand."""

    def forward(self, ids: Tensor) -> Tensor:
        """See :meth:`CompressedEmbedding.forward`; hard codes in evaluation mode."""
        flat = self._checked(ids)
        rows = self.soft(flat) if self.training else self.quantizer.reconstruct(flat)
        return rows.to(self._output.dtype).reshape(*ids.shape, self.embedding_dim)

    @property
    def quantizer(self) -> Quantizer:
        """What would be saved now."""
        tensors = [*self.parameters(), *self.buffers()]
        stamp = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if self._hard is None or self._hard[0] != stamp:
            with torch.no_grad():
                quantizer = self.build()
            quantizer.words = self.words
            self._hard = (stamp, quantizer)
        return self._hard[1]

    def harden(self) -> Quantizer:
        """See :meth:`CompressedEmbedding.harden`."""
        quantizer = self.quantizer
        state = {name: tensor.clone() for name, tensor in quantizer.state().items()}
        hard = type(quantizer).from_state(quantizer.config, state, shape=quantizer.shape)
        hard.words = self.words
        return hard

    @property
    def payload_bytes(self) -> int:
        """Bytes of what would be saved now."""
        return self.quantizer.payload_bytes

    def to_dense(self) -> Tensor:
        """The whole table on hard codes: (N, D) float32."""
        return self.quantizer.to_dense()

    def _attach(self) -> None:
        self._hard = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hard": None}
