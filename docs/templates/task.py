"""How well the lengths of rows are kept.

Copy this file to ``trainables/tasks/NAME.py`` and change it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Skip
from quantizers.table import Table
from trainables.task import Baseline, DownstreamTask, Metric, Score, TaskSettings


class MyTaskSettings(TaskSettings):
    """What people set: ``tasks: [{task: my_task, rows: 1000}]``.

    Attributes:
        rows: the first rows that are measured.
    """

    rows: int = Field(default=1000, ge=1)


class MyTask(DownstreamTask):
    """Mean absolute difference of row lengths, as a share of the mean length. No words, no data files."""

    name = "my_task"
    version = 1  # raise it when the same table would score differently: results in ledgers are then measured again
    metrics = (Metric("length_error", "min", description="mean change of a row's length"),)
    Settings: ClassVar[type[TaskSettings]] = MyTaskSettings

    def check(self, table: Table) -> Skip | None:
        """Why there is nothing to measure, or None."""
        return None if table.vectors.any() else Skip("every row is zero")

    def baseline(self, table: Table, *, seed: int) -> Baseline:
        """The uncompressed table's scores, and what only it can give: its lengths."""
        lengths = self._lengths(table.vectors)
        return Baseline({"length_error": Score(0.0, len(lengths))}, {"lengths": lengths.numpy()})

    def score(self, dense: Tensor, table: Table, baseline: Baseline, *, seed: int) -> dict[str, Score]:
        """The reconstruction's scores."""
        expected = torch.from_numpy(baseline.arrays["lengths"])
        error = (self._lengths(dense) - expected).abs().mean() / expected.mean()
        return {"length_error": Score(float(error), len(expected))}

    def _lengths(self, vectors: Tensor) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(vectors[: self.settings.rows].double(), dim=1)
        return lengths.cpu()
