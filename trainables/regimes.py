"""How table, compression and task are trained together.

- ``pretrained``: the table is compressed as it is; a task trains its network on the frozen reconstruction.
- ``finetuned`` (Shu & Nakayama 2018; what Kim et al. 2020 do for every baseline): the table is fine-tuned with the task,
  that table is compressed, and the network that was trained with it reads the reconstruction. ``retrain`` then trains
  codebooks, network or both a little further, the codes frozen (methods that learn codes with a task re-learn them).
- ``end_to_end`` (Kim et al. 2020 for AdaComp): the table is compressed as it is, and a new network is trained through the
  compressed module.

The last two have one task that leads. Its uncompressed baseline, with the fine-tuned table, is made once for each seed.
Shapes: N rows, D columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from quantizers import Quantizer, Table
from quantizers.embedding import CompressedEmbedding
from quantizers.errors import InputError
from quantizers.fitting.checkpoint import Stopwatch
from quantizers.fitting.distortion import UnderMetric, under, unfold
from quantizers.learned import LearnedEmbedding
from trainables.networks.sequence import SequenceNetwork
from trainables.networks.trained_task import Report, TrainedTask, Vocabulary
from trainables.task import Baseline, DownstreamTask, Score


def leading_task(tasks: Sequence[DownstreamTask], why: str) -> tuple[int, TrainedTask]:
    """The one task of a sweep that trains a network, and its place.

    Raises:
        InputError: there is none, or more than one.
    """
    trained = [(index, task) for index, task in enumerate(tasks) if isinstance(task, TrainedTask)]
    if len(trained) != 1:
        names = ", ".join(task.label for _, task in trained) or "none"
        raise InputError(f"{why} needs exactly one task that trains a network, such as sentiment; this sweep has {names}.")
    return trained[0]


@dataclasses.dataclass
class Course:
    """What a trial does with its leading task: nothing more than measuring it in the regime ``pretrained``.

    Attributes:
        table: what is compressed.
        weights: (N,) row weights of the fit, or None.
        task: the leading task, or None.
        baseline: its baseline.
        train_seconds: what training with the compressed table took.
        oov_words: words of the task that share a row, since the table has none for them.
        metric: (D, D) what the fit measures errors in, or None.
    """

    table: Table
    weights: Tensor | None
    task: TrainedTask | None = None
    baseline: Baseline | None = None
    train_seconds: float | None = None
    oov_words: int = 0
    metric: Tensor | None = None
    _network: SequenceNetwork | None = None
    _vocabulary: Vocabulary | None = None

    @classmethod
    def begin(
        cls,
        method: str,
        regime: str,
        table: Table,
        weights: Tensor | None,
        task: TrainedTask | None,
        baseline: Baseline | None,
    ) -> Course:
        """The course of a trial of ``method`` on ``table``; regimes other than pretrained are led by ``task``."""
        if task is None or baseline is None:
            return cls(table, weights)
        if regime == "pretrained":
            return cls(table, weights, oov_words=task.vocabulary(table).oov_words)
        if regime == "finetuned" or method == "identity":  # the uncompressed table is the baseline's in both
            vectors = torch.tensor(baseline.arrays["table"])
            table = Table(vectors, table.words, table.counts, f"{table.name}, fine-tuned")
        vocabulary = task.vocabulary(table)
        return cls(table, weights, task, baseline, oov_words=vocabulary.oov_words, _vocabulary=vocabulary)

    def seen(self) -> Table:
        """The table as the fit sees it: under the metric."""
        return self.table if self.metric is None else under(self.table, self.metric)

    def train(
        self, quantizer: Quantizer, regime: str, retrain: Mapping[str, Any] | None, *, seed: int, report: Report
    ) -> Quantizer:
        """Train what the regime says with the task; the quantizer that is saved, for the table itself."""
        fitted, quantizer = quantizer, quantizer if self.metric is None else unfold(quantizer, self.metric)
        if self.task is None or self.baseline is None or self._vocabulary is None:
            return quantizer
        watch = Stopwatch()
        fresh = regime == "end_to_end" and quantizer.name != "identity"
        start = self.task.network(self.table.embedding_dim, seed) if fresh else self.task.trained_network(self.baseline)
        self._network = start.to(quantizer.device)
        if quantizer.name == "identity" or (retrain is None and not fresh):
            return quantizer
        options: dict[str, Any] = {}
        if retrain is not None:
            options = {"epochs": retrain["epochs"], "learning_rate": retrain["learning_rate"], "patience": retrain["epochs"]}
            options["train_network"] = "network" in retrain["parts"]
            options["keep_start"] = True
        frozen = retrain is not None and "codebooks" not in retrain["parts"]
        module = quantizer.module() if frozen else self._training_module(fitted, quantizer, seed)
        self.task.fit(module, start, self._vocabulary, seed=seed, report=report, **options)
        self.train_seconds = watch.seconds()
        hard = quantizer if frozen else module.harden()
        hard.words, hard.encode_seconds = self.table.words, quantizer.encode_seconds
        return hard

    def _training_module(self, fitted: Quantizer, quantizer: Quantizer, seed: int) -> CompressedEmbedding:
        if self.metric is None:
            return quantizer.training_module(self.table.to(fitted.device), seed=seed)
        module = fitted.training_module(self.seen().to(fitted.device), seed=seed)
        if isinstance(module, LearnedEmbedding):  # its codes are found again under the metric
            return UnderMetric(module, fitted, self.table.to(fitted.device), self.metric)
        return quantizer.training_module(self.table.to(fitted.device), seed=seed)

    def score(self, dense: Tensor) -> dict[str, Score]:
        """The leading task's scores with the reconstruction, by the network that was trained for it."""
        assert self.task is not None and self._network is not None and self._vocabulary is not None
        return self.task.test(dense, self._network, self._vocabulary)
