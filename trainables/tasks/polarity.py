"""Whether vectors tell good words from bad ones: logistic regression on the opinion lexicon.

Reference: Hu & Liu 2004 (the lexicon, which comes with the package: 2,006 positive and 4,783 negative words).
Shapes: W words of the lexicon that the table has, D columns.

As in the regime ``pretrained``, the classifier is trained on the vectors that it is tested on: the reconstructed ones. Five
folds, the same for every trial and seed, stratified; every word is tested once, by the classifier that did not see it. The
vectors are centred and divided by one number, their root mean square, so that the penalty (C = 1) means the same for every
table; columns keep their relative size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quantizers.base import Skip
from quantizers.table import Table
from trainables.lexicon import lexicon
from trainables.task import Baseline, DownstreamTask, Metric, Score

_FOLDS = 5


class Polarity(DownstreamTask):
    """Cross-validated accuracy of telling positive from negative words. No data files."""

    name = "polarity"
    metrics = (Metric("accuracy", "max", description="share of the lexicon's words in the table that are told right"),)

    def check(self, table: Table) -> Skip | None:
        """There must be enough words of both kinds for every fold."""
        if table.words is None:
            return Skip("the table has no words")
        _, positive = _known_words(table)
        fewest = min(int(positive.sum()), int((~positive).sum()))
        return Skip(f"the table has {fewest} words of one polarity, {_FOLDS} are needed") if fewest < _FOLDS else None

    def baseline(self, table: Table, *, seed: int) -> Baseline:
        """Accuracy of the original."""
        rows, positive = _known_words(table)
        return Baseline({"accuracy": _accuracy(table.vectors, rows, positive)}, {"rows": rows, "positive": positive})

    def score(self, dense: Tensor, table: Table, baseline: Baseline, *, seed: int) -> dict[str, Score]:
        """Accuracy of the reconstruction on the same words."""
        return {"accuracy": _accuracy(dense, baseline.arrays["rows"], baseline.arrays["positive"])}


def _known_words(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """(W,) int64 row numbers in rising order, and (W,) whether the word is positive."""
    polarity = lexicon()
    rows = [row for row, word in enumerate(table.words or ()) if word in polarity]
    words = table.words or ()
    return np.array(rows, dtype=np.int64), np.array([polarity[words[row]] for row in rows], dtype=bool)


def _accuracy(vectors: Tensor, rows: np.ndarray, positive: np.ndarray) -> Score:
    from sklearn.linear_model import LogisticRegression  # slow to import, and every sweep lists the tasks
    from sklearn.model_selection import StratifiedKFold

    features = vectors[torch.from_numpy(rows).to(vectors.device)].cpu().numpy().astype(np.float64)
    features -= features.mean(axis=0)
    size = np.sqrt(np.square(features).mean())
    if size > 0:
        features /= size
    right = 0
    for train, test in StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(features, positive):
        # Newton's method ends at the same classifier, to many digits, whatever the last bits of a sum are.
        classifier = LogisticRegression(solver="newton-cholesky", tol=1e-8).fit(features[train], positive[train])
        right += int((classifier.predict(features[test]) == positive[test]).sum())
    return Score(right / len(rows), len(rows))
