"""The small values that methods and their callers exchange: configurations, budgets, byte counts, progress reports.

Shapes: N rows (num_embeddings), D columns (embedding_dim).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from quantizers.errors import InputError

Role = Literal["code", "codebook", "side"]


class QuantizerConfig(BaseModel):
    """Parameters of one method: frozen, unknown keys refused. Units are in the names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclasses.dataclass(frozen=True)
class Budget:
    """The most bytes that a compressed table may take, all of its payload counted."""

    payload_bytes: int

    @classmethod
    def from_ratio(cls, ratio: float, shape: tuple[int, int]) -> Budget:
        """The budget of a compression ratio: at most ``4 * N * D / ratio`` bytes."""
        if not ratio > 0:
            raise InputError(f"A compression ratio must be above 0, not {ratio}.")
        return cls(int(4 * shape[0] * shape[1] / ratio))

    def ratio(self, shape: tuple[int, int]) -> float:
        """Compression ratio that a table of ``shape`` has at this budget."""
        return 4 * shape[0] * shape[1] / max(1, self.payload_bytes)


@dataclasses.dataclass(frozen=True)
class StorageCost:
    """Bytes of a compressed table by role; ``exact`` is False where they are an upper bound."""

    code_bytes: int
    codebook_bytes: int = 0
    side_bytes: int = 0
    exact: bool = True

    @property
    def payload_bytes(self) -> int:
        """Everything a reader needs to rebuild all rows, apart from the words."""
        return self.code_bytes + self.codebook_bytes + self.side_bytes


@dataclasses.dataclass(frozen=True)
class Skip:
    """Why a method has no configuration for a budget or a table."""

    reason: str


@dataclasses.dataclass(frozen=True)
class FitStep:
    """One report of a fit under way.

    Attributes:
        phase: name of the phase; a scheduler compares steps of one phase only.
        fraction: share of the whole fit that is done, 0 to 1.
        value: half the squared error of a row on hard codes (of held-out rows where the method holds rows out), or None.
        metrics: further curves by name (train loss, maxp, ...).
    """

    phase: str
    fraction: float
    value: float | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


def generator(seed: int, stream: int = 0) -> torch.Generator:
    """A CPU random generator for ``seed``; ``stream`` keeps the uses of one seed apart.

    Random numbers are drawn on the CPU and moved, so that a seed means the same start on every device.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + stream * 7_919 + 12_345) % (1 << 63))
