"""The drop-in module: a compressed table in place of ``torch.nn.Embedding``.

Shapes: N rows, D columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.base import Quantizer


class CompressedEmbedding(nn.Module):
    """Looks rows up in a compressed table; the table itself is never held uncompressed.

    Args:
        quantizer: a fitted quantizer.
        trainable: make the floating-point tensors of the state parameters (codes stay frozen), to train codebooks with a
            task.

    Attributes:
        method: name of the method.
        config: its configuration.
        words: the words in row order, or None.
    """

    def __init__(self, quantizer: Quantizer, *, trainable: bool = False) -> None:
        super().__init__()
        self.method = quantizer.name
        self.config = quantizer.config
        self.words: Sequence[str] | None = quantizer.words
        self.num_embeddings, self.embedding_dim = quantizer.shape
        self._quantizer_type = type(quantizer)
        self._names = list(quantizer.state())
        for name, tensor in quantizer.state().items():
            if trainable and tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor.clone().to(torch.float32)))
            else:
                self.register_buffer(name, tensor)
        self._attach()

    def _attach(self) -> None:
        state = {name: getattr(self, name) for name in self._names}
        shape = (self.num_embeddings, self.embedding_dim)
        self._quantizer = self._quantizer_type.from_state(self.config, state, shape=shape)
        self._quantizer.words = self.words

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompressedEmbedding:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._attach()  # device and dtype moves replace the tensors
        return self

    def forward(self, ids: Tensor) -> Tensor:
        """Rows ``ids``, of any shape (...), as (..., D)."""
        flat = ids.reshape(-1)
        return self._quantizer.reconstruct(flat).reshape(*ids.shape, self.embedding_dim)

    def regularizer(self) -> Tensor:
        """What the method adds to a task's loss while it is trained; 0 for a method that adds nothing."""
        return torch.zeros(())

    def set_progress(self, fraction: float) -> None:
        """Tell the module how much of a training is done (0 to 1), for methods that anneal."""

    def harden(self) -> Quantizer:
        """The quantizer with the codes and codebooks as they stand: what is saved and scored."""
        state = {name: getattr(self, name).detach().clone() for name in self._names}
        shape = (self.num_embeddings, self.embedding_dim)
        quantizer = self._quantizer_type.from_state(self.config, state, shape=shape)
        quantizer.words = self.words
        return quantizer

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer behind the module; it shares the module's tensors."""
        return self._quantizer

    @property
    def payload_bytes(self) -> int:
        """Bytes of everything that rebuilds the table, apart from the words."""
        return self._quantizer.payload_bytes

    def to_dense(self) -> Tensor:
        """The whole table: (N, D) float32."""
        return self._quantizer.to_dense()

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"{self.num_embeddings}, {self.embedding_dim}, method={self.method}, payload_bytes={self.payload_bytes}"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_quantizer", None)  # it only points at the module's own tensors
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._attach()
