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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantizers.base import Quantizer
from quantizers.embedding import CompressedEmbedding
from quantizers.fitting.checkpoint import Stopwatch
from quantizers.fitting.distortion import UnderMetric, under, unfold
from quantizers.learned import LearnedEmbedding
from quantizers.table import Table
from trainables.leading import Course, Report
from trainables.networks.sequence import SequenceNetwork
from trainables.networks.vocabulary import Vocabulary
from trainables.task import Baseline, DownstreamTask, Score

if TYPE_CHECKING:
    from trainables.networks.trained_task import TrainedTask


@dataclasses.dataclass(kw_only=True)
class NetworkCourse(Course):
    """A trial's course with the task that leads it: nothing more than measuring it in the regime ``pretrained``.

    Attributes:
        task: the leading task.
        baseline: its baseline.
        vocabulary: its words among the rows of ``table``.
        regime: how table and task are trained.
        retrain: what is trained further after compression, or None.
        seed: of trainings.
        metric: (D, D) what the fit measures errors in, or None.
    """

    task: TrainedTask
    baseline: Baseline
    vocabulary: Vocabulary
    regime: str
    retrain: Mapping[str, Any] | None
    seed: int
    metric: Tensor | None
    _network: SequenceNetwork | None = None

    def seen(self) -> Table:
        """The table as the fit sees it: under the metric."""
        return self.table if self.metric is None else under(self.table, self.metric)

    def train(self, quantizer: Quantizer, *, report: Report) -> Quantizer:
        """Train what the regime says with the task; the quantizer that is saved, for the table itself."""
        fitted, quantizer = quantizer, quantizer if self.metric is None else unfold(quantizer, self.metric)
        if self.regime == "pretrained":
            return quantizer
        watch = Stopwatch()
        fresh = self.regime == "end_to_end" and quantizer.name != "identity"
        dim = self.table.embedding_dim
        start = self.task.network(dim, self.seed) if fresh else self.task.trained_network(self.baseline)
        self._network = start.to(quantizer.device)
        retrain = self.retrain
        if quantizer.name == "identity" or (retrain is None and not fresh):
            return quantizer
        options: dict[str, Any] = {}
        if retrain is not None:
            options = {"epochs": retrain["epochs"], "learning_rate": retrain["learning_rate"], "patience": retrain["epochs"]}
            options["train_network"] = "network" in retrain["parts"]
            options["keep_start"] = True
        frozen = retrain is not None and "codebooks" not in retrain["parts"]
        module = quantizer.module() if frozen else self._training_module(fitted, quantizer)
        self.task.fit(module, start, self.vocabulary, seed=self.seed, report=report, **options)
        self.train_seconds = watch.seconds()
        hard = quantizer if frozen else module.harden()
        hard.words, hard.encode_seconds = self.table.words, quantizer.encode_seconds
        return hard

    def _training_module(self, fitted: Quantizer, quantizer: Quantizer) -> CompressedEmbedding:
        if self.metric is None:
            return quantizer.training_module(self.table.to(fitted.device), seed=self.seed)
        module = fitted.training_module(self.seen().to(fitted.device), seed=self.seed)
        if isinstance(module, LearnedEmbedding):  # its codes are found again under the metric
            return UnderMetric(module, fitted, self.table.to(fitted.device), self.metric)
        return quantizer.training_module(self.table.to(fitted.device), seed=self.seed)

    def scores(self, task: DownstreamTask, dense: Tensor) -> tuple[Baseline, dict[str, Score]] | None:
        """The leading task's scores with the reconstruction, by the network that was trained for it."""
        if task is not self.task or self._network is None:
            return None
        return self.baseline, self.task.test(dense, self._network, self.vocabulary)


def begin(
    task: TrainedTask,
    table: Table,
    weights: Tensor | None,
    baseline: Baseline,
    *,
    method: str,
    regime: str,
    retrain: Mapping[str, Any] | None,
    seed: int,
    metric: Tensor | None,
) -> NetworkCourse:
    """The course of a trial of ``method`` on ``table``, led by ``task``; see :class:`NetworkCourse`."""
    # In end_to_end too, the uncompressed table that others are compared with is the fine-tuned one.
    if regime == "finetuned" or (regime == "end_to_end" and method == "identity"):
        table = Table(torch.tensor(baseline.arrays["table"]), table.words, table.counts, f"{table.name}, fine-tuned")
    vocabulary = task.vocabulary(table)
    return NetworkCourse(
        table,
        weights,
        vocabulary.oov_words,
        task=task,
        baseline=baseline,
        vocabulary=vocabulary,
        regime=regime,
        retrain=retrain,
        seed=seed,
        metric=metric,
    )
