"""The uncompressed table: the reference point at ratio 1.

Reference: none; 4 * N * D bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost
from quantizers.table import Table, TableStats


class IdentityConfig(QuantizerConfig):
    """No parameters."""


class Identity(Quantizer):
    """The table as it is, float32."""

    name = "identity"
    Config = IdentityConfig
    reference = "the uncompressed table"
    state_roles: ClassVar[dict[str, Role]] = {"vectors": "code"}
    uses_gpu = False

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[IdentityConfig] | Skip:
        """The one configuration, where the whole table fits."""
        if budget.payload_bytes < stats.dense_bytes:
            return Skip(f"the uncompressed table takes {stats.dense_bytes} bytes")
        return [IdentityConfig()]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """4 * N * D bytes."""
        return StorageCost(4 * shape[0] * shape[1])

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        self._set_state({"vectors": table.vectors.clone()})
        yield FitStep("copy", 1.0, 0.0)

    def reconstruct(self, ids: Tensor) -> Tensor:
        """The rows themselves."""
        self._require_fitted()
        return self._state["vectors"][ids]
