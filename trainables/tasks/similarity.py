"""Word similarity: Spearman's rho between the cosines of word pairs and what people said of them.

Data: ``wordsim/`` under the data folder. WordSim-353 (Finkelstein et al. 2002; similarity and relatedness parts by Agirre et
al. 2009), SimLex-999 (Hill et al. 2015), MEN (Bruni et al. 2014), Rare Words (Luong et al. 2013), Verb-143 (Baker et al.
2014), YP-130 (Yang & Powers 2006).

A word is looked up as it stands, then in lower case. Pairs with a word that the table lacks are left out and counted:
``num_examples`` of a score is the number of pairs behind it. A data set with fewer than ``min_pairs`` known pairs is left
out. If all cosines are equal (a table of zeros), rho is 0: they say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from quantizers.base import Skip
from quantizers.errors import InputError, unknown_name
from quantizers.table import Table
from trainables.task import Baseline, DownstreamTask, Metric, Score, TaskSettings, unit_rows, word_rows

DATASETS: Mapping[str, str] = {
    "ws353": "wordsim353.tsv",
    "ws353_sim": "EN-WS-353-SIM.txt",
    "ws353_rel": "EN-WS-353-REL.txt",
    "simlex999": "SimLex-999.tsv",
    "men": "EN-MEN-TR-3k.txt",
    "rw": "rw.tsv",
    "verb143": "EN-VERB-143.txt",
    "yp130": "EN-YP-130.txt",
}
_SOURCE = "the wordsim set (the publishers' pages, or the repository mfaruqui/eval-word-vectors)"


class SimilaritySettings(TaskSettings):
    """Which pairs are compared.

    Attributes:
        dataset: one name or several of ``DATASETS``.
        min_pairs: a data set of which the table knows fewer pairs is left out.
    """

    dataset: tuple[str, ...] = ("ws353", "simlex999", "men", "rw")
    min_pairs: int = Field(default=10, ge=2)

    @field_validator("dataset", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        names = (value,) if isinstance(value, str) else tuple(value)
        for name in names:
            if name not in DATASETS:
                raise unknown_name("word similarity set", str(name), DATASETS)
        if not names or len(set(names)) != len(names):
            raise InputError("give at least one set, and each once")
        return names


class Similarity(DownstreamTask):
    """Spearman's rho on word similarity sets, and their mean."""

    name = "similarity"
    metrics = (
        *(Metric(name, "max", description=f"Spearman's rho on {file}") for name, file in DATASETS.items()),
        Metric("mean", "max", description="mean of the sets that are measured"),
    )
    Settings: ClassVar[type[TaskSettings]] = SimilaritySettings

    def measured(self) -> Sequence[Metric]:
        """The chosen sets and their mean."""
        return [metric for metric in self.metrics if metric.name in (*self.settings.dataset, "mean")]

    def data_files(self) -> Sequence[Path]:
        """One file a set."""
        return [self.find_data(f"wordsim/{DATASETS[name]}", _SOURCE) for name in self.settings.dataset]

    def check(self, table: Table) -> Skip | None:
        """Some set must have enough known pairs."""
        if table.words is None:
            return Skip("the table has no words")
        if not self._known_pairs(table):
            return Skip(f"no word similarity set has {self.settings.min_pairs} pairs that the table knows")
        return None

    def baseline(self, table: Table, *, seed: int) -> Baseline:
        """Rho of the original; the known pairs of every set are kept in the arrays."""
        pairs = self._known_pairs(table)
        return Baseline(_scores(table.vectors, pairs), pairs)

    def score(self, dense: Tensor, table: Table, baseline: Baseline, *, seed: int) -> dict[str, Score]:
        """Rho of the reconstruction on the same pairs."""
        return _scores(dense, baseline.arrays)

    def _known_pairs(self, table: Table) -> dict[str, np.ndarray]:
        """``NAME.rows`` (P, 2) int64 and ``NAME.ratings`` (P,) of every set that is measured."""
        rows = word_rows(table.words)
        found: dict[str, np.ndarray] = {}
        for name, path in zip(self.settings.dataset, self.data_files(), strict=True):
            pairs = [(rows(first), rows(second), rating) for first, second, rating in _read_pairs(path)]
            known = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
            if len(known) >= self.settings.min_pairs:
                found[f"{name}.rows"] = np.array([pair[:2] for pair in known], dtype=np.int64)
                found[f"{name}.ratings"] = np.array([pair[2] for pair in known])
        return found


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rho with ties at their mean rank; 0 where one side is constant."""
    from scipy.stats import rankdata  # slow to import, and every sweep lists the tasks

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (first, second)]
    scale = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / scale if scale > 0 else 0.0


def _scores(vectors: Tensor, arrays: Mapping[str, np.ndarray]) -> dict[str, Score]:
    scores = {}
    for key in arrays:
        name, _, kind = key.partition(".")
        if kind == "rows":
            ids = torch.from_numpy(arrays[key]).to(vectors.device)
            cosines = (unit_rows(vectors[ids[:, 0]]) * unit_rows(vectors[ids[:, 1]])).sum(dim=1)
            # Rounded, so that equal vectors tie whatever the last bits of a sum are.
            scores[name] = Score(spearman(cosines.cpu().numpy().round(9), arrays[f"{name}.ratings"]), len(ids))
    pairs = sum(score.num_examples for score in scores.values())
    return {**scores, "mean": Score(sum(score.value for score in scores.values()) / len(scores), pairs)}


def _read_pairs(path: Path) -> list[tuple[str, str, float]]:
    """Word, word, rating a line, between tabs; lines that begin with ``#`` are comments."""
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            first, second, rating = line.split("\t")
            pairs.append((first.strip(), second.strip(), float(rating)))
        except ValueError:
            raise InputError(f"{path}:{number}: expected word, word and rating between tabs, not {line!r}.") from None
    return pairs
