"""Each row between its smallest and its largest value, on a grid of 2^bits levels.

Reference: write the paper and the equation here. Copy this file to ``quantizers/methods/NAME.py`` and change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Skip, StorageCost
from quantizers.coding.bits import pack, row_bytes, unpack
from quantizers.table import Table, TableStats


class MyMethodConfig(QuantizerConfig):
    """The parameters that people set: ``--set bits=4``."""

    bits: int = Field(default=4, ge=1, le=8)


class MyMethod(Quantizer):
    """Codes of ``bits`` bits a value, and a smallest value and a step for each row."""

    name = "my_method"
    Config = MyMethodConfig
    reference = "Authors, venue and year, equation number"
    state_roles = {"codes": "code", "low": "side", "step": "side"}  # every tensor that rebuilds a row

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[QuantizerConfig] | Skip:
        """The largest number of bits that the budget allows."""
        for bits in range(8, 0, -1):
            if cls.storage(MyMethodConfig(bits=bits), stats.shape).payload_bytes <= budget.payload_bytes:
                return [MyMethodConfig(bits=bits)]
        return Skip("one bit a value and two numbers a row are the least")

    @classmethod
    def storage(cls, config: QuantizerConfig, shape: tuple[int, int]) -> StorageCost:
        """Bytes before the fit; the file must hold as many."""
        assert isinstance(config, MyMethodConfig)
        return StorageCost(code_bytes=shape[0] * row_bytes(shape[1], config.bits), side_bytes=8 * shape[0])

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        low = table.vectors.amin(dim=1)
        step = (table.vectors.amax(dim=1) - low) / (2**self.config.bits - 1)
        grid = (table.vectors - low[:, None]) / step.where(step > 0, 1)[:, None]
        self._set_state({"codes": pack(grid.round().long(), self.config.bits), "low": low, "step": step})
        yield FitStep("fit", 1.0)  # an iterative fit yields more of them, with the error so far

    def reconstruct(self, ids: Tensor) -> Tensor:
        """Rows ``ids``: (B, D) float32."""
        self._require_fitted()
        codes = unpack(self._state["codes"][ids], self.embedding_dim, self.config.bits)
        return codes * self._state["step"][ids, None] + self._state["low"][ids, None]
