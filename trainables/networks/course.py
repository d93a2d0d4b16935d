"""How tables, compression and task are trained together.

- ``pretrained``: the table is compressed as it is; a task trains its network on the frozen reconstruction.
- ``finetuned`` (Shu & Nakayama 2018; what Kim et al. 2020 do for every baseline): the table is fine-tuned with the task,
  that table is compressed, and the network that was trained with it reads the reconstruction. ``retrain`` then trains
  codebooks, network or both a little further, the codes frozen (methods that learn codes with a task re-learn them).
- ``end_to_end`` (Kim et al. 2020 for AdaComp): the table is compressed as it is, and a new network is trained through the
  compressed module.

The last two have one task that leads. Its uncompressed baseline, with the fine-tuned tables, is made once for each seed. A
task that reads several tables (a language model's input and output) has each compressed by a quantizer of its own; in
``pretrained`` only the first is, for the others do not exist before training.

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
from trainables.networks.training import TrainedNetwork
from trainables.task import Baseline, DownstreamTask, Score

if TYPE_CHECKING:
    from trainables.networks.network_task import NetworkTask


@dataclasses.dataclass(kw_only=True)
class NetworkCourse(Course):
    """A trial's course with the task that leads it: nothing more than measuring it in the regime ``pretrained``.

    Attributes:
        task: the leading task.
        baseline: its baseline.
        vocabulary: its texts.
        regime: how tables and task are trained.
        retrain: what is trained further after compression, or None.
        seed: of trainings.
        metrics: by role, (D, D) what the fit measures errors in; the plain squared error where a role has none.
        from_scratch: whether the tables hold random vectors to start from, and no more.
    """

    task: NetworkTask
    baseline: Baseline
    vocabulary: Any
    regime: str
    retrain: Mapping[str, Any] | None
    seed: int
    metrics: Mapping[str, Tensor]
    from_scratch: bool = False
    _network: TrainedNetwork | None = None

    @property
    def reference(self) -> Table:
        """The given table; where that holds no more than a start, the one that the baseline trained from it."""
        if not self.from_scratch:
            return self.table
        return Table(torch.tensor(self.baseline.arrays["table"]), self.table.words, self.table.counts, self.table.name)

    def seen(self, role: str) -> Table:
        """The table of ``role`` as the fit sees it: under its metric."""
        return under(self.tables[role], self.metrics[role]) if role in self.metrics else self.tables[role]

    def train(self, quantizers: Mapping[str, Quantizer], *, report: Report) -> Mapping[str, Quantizer]:
        """Train what the regime says with the task; the quantizers that are saved, for the tables themselves."""
        plain = {
            role: unfold(fitted, self.metrics[role]) if role in self.metrics else fitted
            for role, fitted in quantizers.items()
        }
        if self.regime == "pretrained":
            return plain
        watch = Stopwatch()
        uncompressed = all(quantizer.name == "identity" for quantizer in plain.values())
        fresh = self.regime == "end_to_end" and not uncompressed
        start = self.task.network(self.table.embedding_dim, self.seed) if fresh else self.task.trained_network(self.baseline)
        self._network = start.to(next(iter(plain.values())).device)
        retrain = self.retrain
        if uncompressed or (retrain is None and not fresh):
            return plain
        options: dict[str, Any] = {}
        if retrain is not None:
            options = {"epochs": retrain["epochs"], "learning_rate": retrain["learning_rate"], "patience": retrain["epochs"]}
            options["train_network"] = "network" in retrain["parts"]
            options["keep_start"] = True
        frozen = retrain is not None and "codebooks" not in retrain["parts"]
        modules = {
            role: quantizer.module() if frozen else self._training_module(role, quantizers[role], quantizer)
            for role, quantizer in plain.items()
        }
        self.task.fit(modules, start, self.vocabulary, seed=self.seed, report=report, **options)
        self.train_seconds = watch.seconds()
        if frozen:
            return plain
        hard = {role: module.harden() for role, module in modules.items()}
        for role, quantizer in hard.items():
            quantizer.words, quantizer.encode_seconds = self.tables[role].words, plain[role].encode_seconds
        return hard

    def _training_module(self, role: str, fitted: Quantizer, quantizer: Quantizer) -> CompressedEmbedding:
        table = self.tables[role].to(fitted.device)
        if self.from_scratch:
            seed = len(self.tables) * self.seed + list(self.tables).index(role)
            # A pool fitted to random vectors holds their averages, which are smaller the smaller the pool.
            if (untrained := getattr(quantizer, "untrained", None)) is not None:
                quantizer = untrained(quantizer.config, quantizer.shape, seed=seed).to(quantizer.device)
        if role not in self.metrics:
            return quantizer.training_module(table, seed=self.seed)
        module = fitted.training_module(self.seen(role).to(fitted.device), seed=self.seed)
        if isinstance(module, LearnedEmbedding):  # its codes are found again under the metric
            return UnderMetric(module, fitted, table, self.metrics[role])
        return quantizer.training_module(table, seed=self.seed)

    def scores(self, task: DownstreamTask, dense: Mapping[str, Tensor]) -> tuple[Baseline, dict[str, Score]] | None:
        """The leading task's scores with the reconstructions, by the network that was trained for them."""
        if task is not self.task or self._network is None:
            return None
        return self.baseline, self.task.test(dense, self._network, self.vocabulary)
