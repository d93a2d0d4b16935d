"""The drop-in module: a compressed table in place of ``torch.nn.Embedding``.

Under ``torch.compile`` and ``torch.export`` a look-up of any method is one operator, ``embedding_frontier::look_up``: what
some methods do (count, sort, decode) depends on the data and has no graph. A program that loads what was exported has to
``import quantizers.embedding``, so that the operator is known.

Shapes: N rows, D columns, B batch.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.base import CHUNK_ROWS, Quantizer
from quantizers.coding.int8 import from_int8, to_int8_like

_KEPT = 8
# The tables that the operator was last called with, for what follows from their tensors (where rows begin).
_TABLES: collections.OrderedDict[tuple[Any, ...], Quantizer] = collections.OrderedDict()


class CompressedEmbedding(nn.Module):
    """Looks rows up in a compressed table; the table itself is never held uncompressed.

    ``half()``, ``double()`` and ``to(dtype)`` change the type of what ``forward`` returns, never the stored tensors: those
    are what the file holds and what the bytes are counted on.

    Args:
        quantizer: a fitted quantizer.
        trainable: make the floating-point tensors of the state parameters (codes stay frozen), to train codebooks with a
            task. A tensor in int8 with factors is trained as their product; its factors are 1 until :meth:`harden`.

    Attributes:
        method: name of the method.
        config: its configuration.
        words: the words in row order, or None.
        padding_idx: a row that comes out as zeros and gives no gradient, or None (the default); may be set.
    """

    _output: Tensor
    padding_idx: int | None = None
    _row_of: tuple[Sequence[str] | None, dict[str, int]] = (None, {})

    def __init__(self, quantizer: Quantizer, *, trainable: bool = False) -> None:
        super().__init__()
        self.method = quantizer.name
        self.config = quantizer.config
        self.words: Sequence[str] | None = quantizer.words
        self.num_embeddings, self.embedding_dim = quantizer.shape
        self._quantizer_type = type(quantizer)
        self._stored_dtypes = {name: tensor.dtype for name, tensor in quantizer.state().items()}
        state = quantizer.state()
        factors = {f"{name}_scale" for name, dtype in self._stored_dtypes.items() if dtype == torch.int8} & set(state)
        for name, tensor in state.items():
            if not trainable:
                self.register_buffer(name, tensor)
            elif name in factors:
                self.register_buffer(name, torch.ones_like(tensor))
            elif f"{name}_scale" in factors:
                self.register_parameter(name, nn.Parameter(from_int8(tensor, state[f"{name}_scale"])))
            elif tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor.to(torch.float32, copy=True)))
            else:
                self.register_buffer(name, tensor)
        output = torch.empty(0, dtype=torch.float32, device=quantizer.device)
        self.register_buffer("_output", output, persistent=False)  # only carries the type that forward returns
        about = {"method": self.method, "config": self.config.model_dump(mode="json")}
        self._about = json.dumps({**about, "shape": quantizer.shape, "names": list(self._stored_dtypes)})
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

    def _flat(self, ids: Tensor) -> Tensor:
        """``ids`` as (B,) int64."""
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TypeError(f"ids must be integers, not {ids.dtype}")
        return ids.reshape(-1).to(torch.int64)

    def _checked(self, ids: Tensor) -> Tensor:
        """``ids`` as (B,) int64. On a GPU their range is not looked at: that would wait for the device."""
        flat = self._flat(ids)
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
        if torch.compiler.is_compiling():
            state = [getattr(self, name) for name in self._stored_dtypes]
            rows: Tensor = look_up(self._flat(ids), state, self._about)
        else:
            rows = self._quantizer.reconstruct(self._checked(ids))
        rows = rows.to(self._output.dtype).reshape(*ids.shape, self.embedding_dim)
        if self.padding_idx is not None:
            rows = rows.masked_fill((ids == self.padding_idx % self.num_embeddings).unsqueeze(-1), 0)
        return rows

    @property
    def weight(self) -> Tensor:
        """The whole table (N, D), for models that tie their output to it: rebuilt at every access, which is costly.

        Gradients reach the trainable tensors. Assigning to it is not possible. A softmax that needs no table is
        :class:`quantizers.CompressedOutput`.
        """
        every = torch.arange(self.num_embeddings, device=self._output.device)
        return torch.cat([self(ids) for ids in torch.split(every, CHUNK_ROWS)])

    def __contains__(self, word: object) -> bool:
        """Whether the table has the word."""
        return word in self._rows_by_word()

    def __getitem__(self, key: str | int | Sequence[str] | Tensor) -> Tensor:
        """``embedding["dog"]`` and ``embedding[3]`` are (D,), a list of words (B, D), ids of any shape as :meth:`forward`.

        Raises:
            KeyError: a word that the table does not have.
            IndexError: a row that is not there.
        """
        if isinstance(key, str):
            return self[[key]][0]
        if isinstance(key, Sequence) and all(isinstance(one, str) for one in key):
            rows = self._rows_by_word()
            missing = [one for one in key if one not in rows]
            if missing:
                raise KeyError(f"{missing[0]!r} is no word of the table" + ("" if rows else ", which has no words"))
            return self[torch.tensor([rows[str(one)] for one in key])]
        found: Tensor = self(torch.as_tensor(key, device=self._output.device))
        return found

    def _rows_by_word(self) -> dict[str, int]:
        """The first row of each word."""
        if self._row_of[0] is not self.words:
            self._row_of = self.words, {word: row for row, word in reversed(list(enumerate(self.words or ())))}
        return self._row_of[1]

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
        state: dict[str, Tensor] = {}
        for name, dtype in self._stored_dtypes.items():
            tensor = getattr(self, name).detach()
            if tensor.dtype != dtype == torch.int8:
                state[name], state[f"{name}_scale"] = to_int8_like(tensor, getattr(self, f"{name}_scale"))
                continue
            if name in state:
                continue
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
        state.pop("_row_of", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._attach()


@torch.library.custom_op("embedding_frontier::look_up", mutates_args=())
def look_up(ids: Tensor, state: Sequence[Tensor], about: str) -> Tensor:
    """Rows of a compressed table, as one operator of PyTorch.

    Args:
        ids: (B,) int64.
        state: the table's tensors.
        about: JSON of the method's name, its configuration, the table's shape, and the tensors' names in order.

    Returns:
        (B, D) float32.

    Raises:
        IndexError: an id is negative or not below N (checked on the CPU only).
    """
    quantizer = _table(state, about)
    if ids.device.type == "cpu" and ids.numel():
        low, high = (int(value) for value in torch.aminmax(ids))
        if low < 0 or high >= quantizer.num_embeddings:
            raise IndexError(f"ids must be in [0, {quantizer.num_embeddings}); found {low} to {high}")
    # Never a view of the table: an operator's result is its own.
    return quantizer.reconstruct(ids).clone()


def _table(state: Sequence[Tensor], about: str) -> Quantizer:
    """The quantizer of these tensors. The last few are kept, until their tensors are changed."""
    stamp = [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in state]
    key = (about, *stamp)
    if key not in _TABLES:
        _TABLES[key] = _made([tensor.detach() for tensor in state], about)
        if len(_TABLES) > _KEPT:
            _TABLES.popitem(last=False)
    _TABLES.move_to_end(key)
    return _TABLES[key]


def _made(state: Sequence[Tensor], about: str) -> Quantizer:
    from quantizers.registry import get, make_config

    described = json.loads(about)
    config = make_config(described["method"], described["config"])
    tensors = dict(zip(described["names"], state, strict=True))
    return get(described["method"]).from_state(config, tensors, shape=tuple(described["shape"]))


@look_up.register_fake
def _(ids: Tensor, state: Sequence[Tensor], about: str) -> Tensor:
    return ids.new_empty((ids.shape[0], json.loads(about)["shape"][1]), dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Tensor, Sequence[Tensor], str], output: Tensor) -> None:
    ids, state, ctx.about = inputs
    ctx.save_for_backward(ids, *state)


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, list[Tensor | None], None]:
    ids, *state = ctx.saved_tensors
    found: list[Tensor | None] = [None] * len(state)
    leaves = {number: one.detach().requires_grad_() for number, one in enumerate(state) if one.is_floating_point()}
    with torch.enable_grad():
        rows = _made([leaves.get(number, one) for number, one in enumerate(state)], ctx.about).reconstruct(ids)
    gradients = torch.autograd.grad(rows, list(leaves.values()), gradient, allow_unused=True)
    for number, one in zip(leaves, gradients, strict=True):
        found[number] = one
    return None, found, None


look_up.register_autograd(_backward, setup_context=_keep)
