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
from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from quantizers.base import Quantizer
from quantizers.embedding import CompressedEmbedding
from quantizers.fitting.checkpoint import Stopwatch
from quantizers.fitting.distortion import UnderMetric, under, unfold
from quantizers.learned import LearnedEmbedding
from quantizers.table import Table
from trainables.leading import Course, LeadingTask, Report
from trainables.networks.training import Trained, TrainedNetwork
from trainables.task import Baseline, DownstreamTask, Score


class Texts(Protocol):
    """What a network is trained and scored on, as rows of its tables."""

    @property
    def oov_words(self) -> int:
        """Distinct words that the table has no vector for."""


class NetworkTask(LeadingTask):
    """A task whose network can be trained through any embedding module, full or compressed, one for each of its roles.

    Its baseline's arrays hold the network and the tables that it was trained with: ``table`` of the first role, and
    ``table.<role>`` of the others.
    """

    @abstractmethod
    def vocabulary(self, table: Table) -> Any:
        """The task's rows in ``table`` and its texts as places among them: :class:`Texts`, made once for equal words."""

    @abstractmethod
    def network(self, embedding_dim: int, seed: int) -> TrainedNetwork:
        """A network at its start, for a first table of ``embedding_dim`` columns."""

    @abstractmethod
    def trained_network(self, baseline: Baseline) -> TrainedNetwork:
        """The baseline's network."""

    @abstractmethod
    def fit(
        self,
        embeddings: Mapping[str, nn.Module],
        network: Any,
        vocabulary: Any,
        *,
        seed: int,
        report: Report,
        phase: str = "task",
        **options: Any,
    ) -> Trained:
        """Train network and embeddings (by role); see :func:`trainables.networks.training.train` for the options."""

    @abstractmethod
    def test(self, rows: Mapping[str, Tensor], network: Any, vocabulary: Any) -> dict[str, Score]:
        """The test set's scores with the dense tables ``rows`` (N, D) by role."""

    def role_tables(self, table: Table, baseline: Baseline, *, finetuned: bool) -> dict[str, Table]:
        """The tables that a trial compresses, by role.

        Args:
            table: the task's own table as it was given.
            baseline: the fine-tuned baseline.
            finetuned: whether the first role's is the fine-tuned one; those of other roles come from training always.
        """
        first, *others = self.roles
        tables = {first: table}
        if finetuned:
            vectors = torch.tensor(baseline.arrays["table"])
            tables[first] = Table(vectors, table.words, table.counts, f"{table.name}, fine-tuned")
        for role in others:
            tables[role] = Table(torch.tensor(baseline.arrays[f"table.{role}"]), name=f"{self.label}, {role}")
        return tables

    def is_start(self, table: Table) -> bool:
        """Whether ``table`` (the task's own) holds random vectors to start from, and no more."""
        return False

    def fisher_weights(self, table: Table, baseline: Baseline) -> dict[str, Tensor]:
        """By role, (N,) how much each row matters to the task; only where ``has_fisher``."""
        raise NotImplementedError(f"{self.label} has no Fisher information")

    def fisher_metric(self, baseline: Baseline) -> dict[str, Tensor]:
        """By role, (D, D) what an error in each direction matters to the task; only where ``has_fisher``."""
        raise NotImplementedError(f"{self.label} has no Fisher information")

    def lead(
        self,
        table: Table,
        weights: Tensor | None,
        baseline: Baseline,
        *,
        method: str,
        regime: str,
        retrain: Mapping[str, Any] | None,
        seed: int,
        fisher: Collection[str],
    ) -> NetworkCourse:
        """The course of a trial; see :class:`NetworkCourse`."""
        first = self.roles[0]
        by_role = {} if weights is None else {first: weights}
        if "weights" in fisher:
            by_role = self.fisher_weights(table, baseline)
        # The uncompressed table has no error to measure.
        metrics = self.fisher_metric(baseline) if "metric" in fisher and method != "identity" else {}
        # In end_to_end too, the uncompressed table that others are compared with is the fine-tuned one.
        finetuned = regime == "finetuned" or (regime == "end_to_end" and method == "identity")
        tables = {first: table} if regime == "pretrained" else self.role_tables(table, baseline, finetuned=finetuned)
        vocabulary = self.vocabulary(tables[first])
        return NetworkCourse(
            tables,
            by_role,
            vocabulary.oov_words,
            task=self,
            baseline=baseline,
            vocabulary=vocabulary,
            regime=regime,
            retrain=retrain,
            seed=seed,
            metrics=metrics,
            from_scratch=regime == "end_to_end" and self.is_start(table),
        )


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
