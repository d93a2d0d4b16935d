"""What a compression method is: the contract that every quantizer keeps.

Shapes: N rows (num_embeddings), D columns (embedding_dim), B batch.

A fitted method is its *state*: named tensors, exactly what the compressed file holds. Bytes are counted on those tensors
and nowhere else, so that a number which is needed to rebuild a row cannot be left out of the count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from quantizers.errors import NotFittedError
from quantizers.table import Table, TableStats, checked_weights
from quantizers.values import Budget, FitStep, QuantizerConfig, Role, Skip, StorageCost, generator

if TYPE_CHECKING:
    from quantizers.embedding import CompressedEmbedding

__all__ = [
    "CHUNK_ROWS",
    "Budget",
    "FitStep",
    "Quantizer",
    "QuantizerConfig",
    "Role",
    "Skip",
    "StorageCost",
    "generator",
]

CHUNK_ROWS = 1 << 14


class Quantizer(ABC):
    """A compression method. One method, one module; the registry finds it.

    A method implements ``configs_for``, ``storage``, ``_fit_steps`` (which ends in ``self._set_state``), ``reconstruct``,
    and names every state tensor in ``state_roles``.

    Attributes:
        name: what people type.
        Config: the parameters.
        reference: paper and equation.
        state_roles: for every tensor name of the state, what its bytes count as.
        uses_weights: whether ``fit`` makes use of row weights.
        iterative: whether the fit reports more than its end, so that a scheduler may stop it.
        linear_state: the tensors (..., D) that rows are linear in, where that makes a row; such a method can be fitted under
            a metric, see :mod:`quantizers.fitting.distortion`. One in int8 has its factors in ``<name>_scale``.
        lookup: whether a row is rebuilt by look-up alone, so that it is the same bit for bit everywhere.
        uses_gpu: whether the fit has work for one; where False, a sweep keeps its GPUs for others.
        learns_on_sample: whether the state is learned on a sample, or from sums over the rows, and all rows are then encoded
            with it, some at a time: such a fit takes little more memory than the table.
        chunk_rows: how many rows are encoded at a time, where ``learns_on_sample``; their codes do not depend on it.
    """

    name: ClassVar[str]
    Config: ClassVar[type[QuantizerConfig]]
    reference: ClassVar[str]
    state_roles: ClassVar[dict[str, Role]]
    uses_weights: ClassVar[bool] = False
    iterative: ClassVar[bool] = False
    linear_state: ClassVar[tuple[str, ...]] = ()
    lookup: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True
    learns_on_sample: ClassVar[bool] = False
    chunk_rows: int = CHUNK_ROWS

    def __init__(self, config: QuantizerConfig) -> None:
        self.config: Any = config
        self.words: Sequence[str] | None = None
        self.encode_seconds: float | None = None  # set by a fit that measures its last encoding of the whole table
        self._shape: tuple[int, int] | None = None
        self._state: dict[str, Tensor] = {}
        self._resolved: dict[str, Any] = {}

    # What a method answers before it has seen a table ------------------------------------------------------------

    @classmethod
    @abstractmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[QuantizerConfig] | Skip:
        """Configurations whose predicted payload is within ``budget``, the recommended one first; or why there is none."""

    @classmethod
    @abstractmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Bytes of a table of ``shape`` (N, D) compressed with ``config``: exact, or an upper bound."""

    @classmethod
    def check(cls, config: Any, shape: tuple[int, int]) -> Skip | None:
        """Why ``config`` makes no sense for a table of ``shape`` (a codebook larger than the table), or None."""
        return None

    @classmethod
    def takes_metric(cls, config: Any) -> bool:
        """Whether a table can be fitted under a metric with ``config``."""
        return bool(cls.linear_state)

    @classmethod
    def examples(cls) -> Sequence[QuantizerConfig]:
        """Small configurations that show what the method can do; the contract suite fits each to a tiny table."""
        return [cls.Config()]

    @classmethod
    def family_key(cls, config: Any) -> str | None:
        """Configurations with the same key share one fit: the largest is fitted, the others are ``restrict``-ed from it.

        None (the default): every configuration is fitted by itself.
        """
        return None

    def restrict(self, config: Any, table: Table) -> Self:
        """This fit cut down to a smaller ``config`` of the same family: the same codes as a fit of its own, bit for bit.

        ``table`` is the table that was fitted, for methods whose codes have to be searched for anew.
        """
        raise NotImplementedError(f"{self.name} has no nested configurations")

    # Fitting -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        """The fit itself, on the table's device; ``weights`` have mean 1. Must end with ``self._set_state(...)``."""

    def fit_steps(
        self,
        table: Table,
        *,
        seed: int = 0,
        weights: Tensor | None = None,
        budget: Budget | None = None,
    ) -> Iterator[FitStep]:
        """Fit to ``table``, with reports on the way.

        Args:
            table: what to compress; the work is done on its device.
            seed: the same seed gives the same codes (on one machine with the same number of threads).
            weights: (N,) how much each row's error counts, not negative; ignored by methods whose ``uses_weights`` is False.
            budget: for methods of variable length, what the result may take at the most.

        Raises:
            InputError: the weights do not fit the table.
        """
        if weights is not None:
            weights = checked_weights(weights, table)
        self._state, self._resolved = {}, {}  # a fit that is given up leaves no mixture of two tables behind
        self._shape = table.shape
        self.words = table.words
        yield from self._fit_steps(table, seed=seed, weights=weights, budget=budget)
        self._require_fitted()

    def fit(self, table: Table | Tensor, **options: Any) -> Self:
        """:meth:`fit_steps` with its options, to its end; returns ``self``."""
        for _ in self.fit_steps(table if isinstance(table, Table) else Table(table), **options):
            pass
        return self

    def _resolve(self, **values: Any) -> None:
        """For ``_fit_steps``: what it makes of parameters that the configuration leaves open or the table limits."""
        unknown = set(values) - set(self.Config.model_fields)
        if unknown:
            raise ValueError(f"{self.name}: no such parameters: {sorted(unknown)}")
        self._resolved.update(values)

    def resolved(self) -> dict[str, Any]:
        """Every parameter as the fit had it; of a quantizer that was read or cut down, its configuration alone."""
        return {**self.config.model_dump(mode="json"), **self._resolved}

    # The fitted state --------------------------------------------------------------------------------------------

    def _set_state(self, state: Mapping[str, Tensor]) -> None:
        unknown = set(state) - set(self.state_roles)
        if unknown:
            raise ValueError(f"{self.name}: state tensors without a role: {sorted(unknown)}")
        self._state = {name: _alone(tensor.detach()) for name, tensor in state.items()}

    def _require_fitted(self) -> None:
        if not self._state or self._shape is None:
            raise NotFittedError(f"This {self.name} quantizer holds no table yet: call fit(table) or load a file first.")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D) of the table that was fitted."""
        if self._shape is None:
            self._require_fitted()
        assert self._shape is not None
        return self._shape

    @property
    def num_embeddings(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the state is."""
        self._require_fitted()
        return next(iter(self._state.values())).device

    def state(self) -> dict[str, Tensor]:
        """Everything that rebuilds the table, by name: what the file holds."""
        self._require_fitted()
        return dict(self._state)

    @classmethod
    def from_state(cls, config: Any, state: Mapping[str, Tensor], *, shape: tuple[int, int]) -> Self:
        """Undo :meth:`state`. The tensors are kept, not copied.

        Args:
            config: the configuration that the state was fitted with.
            state: tensors by name.
            shape: (N, D) of the table.
        """
        self = cls(config)
        self._shape = (int(shape[0]), int(shape[1]))
        # Not through _set_state: a trainable module hands in its parameters, which must stay attached.
        self._state = dict(state)
        self._require_fitted()
        return self

    def verify(self) -> None:
        """Refuse tensors, of a file that is read, that do not belong together; their bytes are right already.

        A file's digest tells damage; this tells what somebody's program wrote wrong. Types and shapes need no look where
        ``reconstruct`` would fail on them.

        Raises:
            InputError: what does not fit, in the words of the file.
        """
        self._require_fitted()

    def measured_storage(self) -> StorageCost:
        """Bytes of the state's tensors by role."""
        totals: dict[Role, int] = {"code": 0, "codebook": 0, "side": 0}
        for name, tensor in self.state().items():
            totals[self.state_roles[name]] += tensor.numel() * tensor.element_size()
        return StorageCost(totals["code"], totals["codebook"], totals["side"])

    @property
    def payload_bytes(self) -> int:
        """Bytes of everything that is needed to rebuild the table, apart from the words."""
        return self.measured_storage().payload_bytes

    def to(self, device: torch.device | str) -> Self:
        """The same quantizer on ``device``."""
        state = {name: tensor.to(device) for name, tensor in self.state().items()}
        moved = type(self).from_state(self.config, state, shape=self.shape)
        moved.words = self.words
        return moved

    # Use ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def reconstruct(self, ids: Tensor) -> Tensor:
        """Rebuild rows.

        Args:
            ids: (B,) int64 row numbers in [0, N).

        Returns:
            (B, D) float32. Differentiable in the floating-point tensors of the state.
        """

    def books(self, ids: Tensor | None = None) -> Tensor | None:
        """Which of several code-books rows ``ids`` (default: all) have: (B,) int64; None where the method has no choice."""
        return None

    def to_dense(self, chunk_rows: int = CHUNK_ROWS) -> Tensor:
        """The whole table rebuilt: (N, D) float32."""
        out = torch.empty(self.shape, dtype=torch.float32, device=self.device)
        with torch.no_grad():
            for start in range(0, self.num_embeddings, chunk_rows):
                stop = min(start + chunk_rows, self.num_embeddings)
                out[start:stop] = self.reconstruct(torch.arange(start, stop, device=self.device))
        return out

    def module(self) -> CompressedEmbedding:
        """A drop-in ``nn.Module`` in place of ``nn.Embedding``."""
        from quantizers.embedding import CompressedEmbedding

        return CompressedEmbedding(self)

    def training_module(self, table: Table, *, seed: int = 0) -> CompressedEmbedding:
        """A module to train inside a task network; ``harden()`` then gives the quantizer that is saved and scored.

        The default trains the floating-point tensors (codebooks, scales) and keeps the codes. A method that learns its
        codes with the task overrides this with a module of its own.

        Args:
            table: the table that this quantizer was fitted to (methods that re-encode need it).
            seed: for modules that draw noise.
        """
        from quantizers.embedding import CompressedEmbedding

        return CompressedEmbedding(self, trainable=True)

    def save(self, path: str | Path) -> int:
        """Write the compressed file (atomically) and return its size in bytes. See :mod:`quantizers.artifact`."""
        from quantizers.artifact import save

        return save(self, path)


def _alone(tensor: Tensor) -> Tensor:
    """``tensor``, contiguous and alone in its memory: a view would keep, and pickle, all that it is a view of."""
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size():
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
