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

    ``half()``, ``double()`` and ``to(dtype)`` change the type of what ``forward`` returns, never the stored tensors: those
    are what the file holds and what the bytes are counted on.

    Args:
        quantizer: a fitted quantizer.
        trainable: make the floating-point tensors of the state parameters (codes stay frozen), to train codebooks with a
            task.

    Attributes:
        method: name of the method.
        config: its configuration.
        words: the words in row order, or None.
    """

    _output: Tensor

    def __init__(self, quantizer: Quantizer, *, trainable: bool = False) -> None:
        super().__init__()
        self.method = quantizer.name
        self.config = quantizer.config
        self.words: Sequence[str] | None = quantizer.words
        self.num_embeddings, self.embedding_dim = quantizer.shape
        self._quantizer_type = type(quantizer)
        self._stored_dtypes = {name: tensor.dtype for name, tensor in quantizer.state().items()}
        for name, tensor in quantizer.state().items():
            if trainable and tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor.to(torch.float32, copy=True)))
            else:
                self.register_buffer(name, tensor)
        output = torch.empty(0, dtype=torch.float32, device=quantizer.device)
        self.register_buffer("_output", output, persistent=False)  # only carries the type that forward returns
        self._attach()

    def _attach(self) -> None:
        state = {name: getattr(self, name) for name in self._stored_dtypes}
        self._quantizer = self._from_state(state)

    def _from_state(self, state: dict[str, Tensor]) -> Quantizer:
        shape = (self.num_embeddings, self.embedding_dim)
        quantizer = self._quantizer_type.from_state(self.config, state, shape=shape)
        quantizer.words = self.words
        return quantizer

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompressedEmbedding:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if tensor is self._output or moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]
        self._attach()  # device moves replace the tensors
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._attach()  # with assign=True the tensors are replaced

    def _checked(self, ids: Tensor) -> Tensor:
        """``ids`` as (B,) int64. On a GPU their range is not looked at: that would wait for the device."""
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TypeError(f"ids must be integers, not {ids.dtype}")
        flat = ids.reshape(-1).to(torch.int64)
        if flat.device.type == "cpu" and flat.numel():
            low, high = (int(value) for value in torch.aminmax(flat))
            if low < 0 or high >= self.num_embeddings:
                raise IndexError(f"ids must be in [0, {self.num_embeddings}); found {low} to {high}")
        return flat

    def forward(self, ids: Tensor) -> Tensor:
        """Rows ``ids``, integers of any shape (...), as (..., D).

        Raises:
            IndexError: an id is negative or not below N (checked on the CPU only).
            TypeError: the ids are not integers.
        """
        rows = self._quantizer.reconstruct(self._checked(ids))
        return rows.to(self._output.dtype).reshape(*ids.shape, self.embedding_dim)

    def regularizer(self) -> Tensor:
        """What the method adds to a task's loss while it is trained; 0 for a method that adds nothing."""
        return torch.zeros((), device=self._output.device)

    def set_progress(self, fraction: float) -> None:
        """Tell the module how much of a training is done (0 to 1), for methods that anneal."""

    def rate_scales(self) -> dict[nn.Parameter, float]:
        """What a training's learning rate is multiplied by for a parameter, where that is not 1."""
        return {}

    @property
    def annealing(self) -> bool:
        """Whether the module still anneals, so that a score of it says little yet of the one at the end."""
        return False

    def curves(self) -> dict[str, float]:
        """What is worth watching while the module is trained, by name."""
        return {}

    def harden(self) -> Quantizer:
        """The quantizer with the codes and codebooks as they stand: what is saved and scored."""
        state = {}
        for name, dtype in self._stored_dtypes.items():
            tensor = getattr(self, name).detach()
            if tensor.dtype != dtype:  # trained in float32, stored in float16
                largest = torch.finfo(dtype).max
                tensor = tensor.clamp(-largest, largest)
            state[name] = tensor.to(dtype, copy=True)
        return self._from_state(state)

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer behind the module; it shares the module's tensors."""
        return self._quantizer

    @property
    def payload_bytes(self) -> int:
        """Bytes of everything that rebuilds the table, apart from the words, as it would be saved."""
        return sum(getattr(self, name).numel() * dtype.itemsize for name, dtype in self._stored_dtypes.items())

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
