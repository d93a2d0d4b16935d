"""Casts to a smaller floating-point type: the reference points at ratio 2 and 4.

Reference: IEEE 754 binary16; bfloat16; OCP 8-bit floating point (E4M3, E5M2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost
from quantizers.coding.dtypes import DTYPES
from quantizers.errors import InputError
from quantizers.table import Table, TableStats


class CastConfig(QuantizerConfig):
    """Which type the values are kept in.

    Attributes:
        dtype: ``float16``, ``bfloat16`` (2 bytes a value), ``float8_e4m3`` or ``float8_e5m2`` (1 byte).
    """

    dtype: Literal["float16", "bfloat16", "float8_e4m3", "float8_e5m2"] = "float16"


class Cast(Quantizer):
    """Every value rounded to the nearest of a smaller floating-point type; what is too large becomes its largest."""

    name = "cast"
    Config = CastConfig
    reference = "IEEE 754 binary16, bfloat16, OCP FP8"
    state_roles: ClassVar[dict[str, Role]] = {"vectors": "code"}
    uses_gpu = False

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[CastConfig] | Skip:
        """The widest types that fit."""
        values = stats.num_embeddings * stats.embedding_dim
        if budget.payload_bytes >= 2 * values:
            return [CastConfig(dtype="float16"), CastConfig(dtype="bfloat16")]
        if budget.payload_bytes >= values:
            return [CastConfig(dtype="float8_e4m3")]
        return Skip(f"a cast keeps 1 byte a value at the least: {values} bytes")

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """N * D values of 1 or 2 bytes."""
        return StorageCost(DTYPES[config.dtype].itemsize * shape[0] * shape[1])

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        dtype = DTYPES[self.config.dtype]
        largest = torch.finfo(dtype).max
        out = torch.empty(table.shape, dtype=dtype, device=table.vectors.device)
        for start in range(0, table.num_embeddings, 1 << 14):
            out[start : start + (1 << 14)] = table.vectors[start : start + (1 << 14)].clamp(-largest, largest).to(dtype)
        if dtype.itemsize == 1:
            out = out.view(torch.uint8)  # torch can neither index nor pickle its 8-bit types everywhere
        self._set_state({"vectors": out})
        yield FitStep("cast", 1.0)

    def verify(self) -> None:
        """The type of the values is the configuration's: others of as many bytes would be read as other values."""
        dtype, found = DTYPES[self.config.dtype], self._state["vectors"].dtype
        stored = torch.uint8 if dtype.itemsize == 1 else dtype
        if found != stored:
            raise InputError(f"vectors is {found}, not {stored}")

    def reconstruct(self, ids: Tensor) -> Tensor:
        """The rounded rows, as float32."""
        self._require_fitted()
        rows = self._state["vectors"][ids]
        if rows.dtype == torch.uint8:
            rows = rows.view(DTYPES[self.config.dtype])
        return rows.to(torch.float32)
