"""Whether rows keep their neighbours: recall@10 of the original's nearest rows by cosine.

Shapes: N rows, D columns, Q queries, k neighbours.

For a sample of Q rows, the k nearest other rows of the original and of the reconstruction are found by exhaustive search;
recall is the share of the original's that are among the reconstruction's. The sample depends on the settings alone, so that
every trial and seed answers the same queries. A row of zeros has cosine 0 to every row; of equally near rows the first in
the table is taken.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Skip
from quantizers.table import Table
from trainables.task import Baseline, DownstreamTask, Metric, Score, TaskSettings, unit_rows

_CHUNK_ROWS = 1 << 12
_MAX_ROWS = 1 << 28  # what float64 leaves exact below a cosine of 24 bits


class NeighboursSettings(TaskSettings):
    """Which rows are asked for their neighbours.

    Attributes:
        queries: Q, at most (all rows of a smaller table are asked).
        sample_seed: of the sample; not the seed of the trial.
        rows: search among the first rows only (the most frequent words of a pretrained table); None = all.
    """

    queries: int = Field(default=1000, ge=1)
    sample_seed: int = Field(default=0, ge=0)
    rows: int | None = Field(default=None, ge=2)


class Neighbours(DownstreamTask):
    """Share of the ten nearest rows that are still among the ten nearest. No words, no data files."""

    name = "neighbours"
    metrics = (Metric("recall_at_10", "max", description="share of the original's 10 nearest rows that are kept"),)
    Settings: ClassVar[type[TaskSettings]] = NeighboursSettings

    def check(self, table: Table) -> Skip | None:
        """A table of one row has no neighbours."""
        return Skip("a table of one row has no neighbours") if table.num_embeddings < 2 else None

    def resolved(self, table: Table) -> dict[str, Any]:
        """See :meth:`DownstreamTask.resolved`; ``rows`` is how many are searched."""
        return {**super().resolved(table), "rows": self._rows(table)}

    def _rows(self, table: Table) -> int:
        return int(min(table.num_embeddings, self.settings.rows or table.num_embeddings))

    def baseline(self, table: Table, *, seed: int) -> Baseline:
        """Recall 1, and the neighbours of the original."""
        rows = self._rows(table)
        number = min(self.settings.queries, rows)
        queries = np.sort(np.random.default_rng(self.settings.sample_seed).choice(rows, number, replace=False))
        neighbours = nearest(table.vectors[:rows], torch.from_numpy(queries), min(10, rows - 1)).cpu().numpy()
        arrays = {"queries": queries, "neighbours": neighbours, "rows": np.array([rows])}
        return Baseline({"recall_at_10": Score(1.0, number)}, arrays)

    def score(self, dense: Tensor, table: Table, baseline: Baseline, *, seed: int) -> dict[str, Score]:
        """Recall of the neighbours in the baseline."""
        expected = torch.from_numpy(baseline.arrays["neighbours"])
        queries = torch.from_numpy(baseline.arrays["queries"])
        found = nearest(dense[: int(baseline.arrays["rows"][0])], queries, expected.shape[1]).cpu()
        kept = (expected[:, :, None] == found[:, None, :]).any(dim=2)
        return {"recall_at_10": Score(float(kept.sum()) / kept.numel(), len(queries))}


def nearest(vectors: Tensor, queries: Tensor, k: int) -> Tensor:
    """The k nearest other rows of every query by cosine, nearest first, and the first in the table of equally near ones.

    Args:
        vectors: (N, D).
        queries: (Q,) int64 row numbers.
        k: at most N - 1; N is at most 2^28.

    Returns:
        (Q, k) int64 row numbers.
    """
    queries = queries.to(vectors.device)
    directions = unit_rows(vectors[queries])
    best = torch.full((len(queries), k), -torch.inf, dtype=torch.float64, device=vectors.device)
    for start in range(0, len(vectors), _CHUNK_ROWS):
        part = unit_rows(vectors[start : start + _CHUNK_ROWS])
        ids = torch.arange(start, start + len(part), device=vectors.device)
        # One number holds the cosine, rounded to 2^-24, and below it the row number: no two are equal, of equal cosines the
        # first in the table wins, and the last bits of a sum, which depend on the library, order nothing.
        keys = (directions @ part.T).mul_(1 << 24).round_().mul_(_MAX_ROWS).sub_(ids)
        keys.masked_fill_(ids == queries[:, None], -torch.inf)
        best = torch.cat([best, keys.topk(min(k, keys.shape[1]), dim=1).values], dim=1).topk(k, dim=1).values
    return -best.to(torch.int64) & (_MAX_ROWS - 1)
