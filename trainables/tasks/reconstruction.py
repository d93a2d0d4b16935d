"""The reconstruction metrics as a task, so that a sweep can name them as objectives (``reconstruction.nmse``).

Row weights belong to the trial, not to a task: ``weighted_mse`` is in the trial's row only.
"""

from __future__ import annotations

from torch import Tensor

from quantizers.table import Table
from trainables.reconstruction import METRICS, measure
from trainables.task import Baseline, DownstreamTask, Score


class Reconstruction(DownstreamTask):
    """Mean squared error and its relatives; see :mod:`trainables.reconstruction`. No words, no data files."""

    name = "reconstruction"
    metrics = tuple(metric for metric in METRICS if metric.name != "weighted_mse")

    def baseline(self, table: Table, *, seed: int) -> Baseline:
        """The values of an exact reconstruction."""
        exact = {"mse": 0.0, "half_mse": 0.0, "nmse": 0.0, "cosine": 1.0, "sqnr_db": float("inf"), "max_abs_error": 0.0}
        return Baseline({name: Score(value, table.num_embeddings) for name, value in exact.items()})

    def score(self, dense: Tensor, table: Table, baseline: Baseline, *, seed: int) -> dict[str, Score]:
        """Every metric, over all rows."""
        values = measure(table, dense)
        return {name: Score(value, table.num_embeddings) for name, value in values.items() if value is not None}
