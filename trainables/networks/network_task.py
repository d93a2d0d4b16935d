"""Tasks that train a network on texts through any embedding module: what they share.

Reference: the protocol of Kim, Kim & Lee 2020, section 4; regimes as in :mod:`trainables.networks.course`.

Shapes: N rows of the table that is given, V rows of the task, D columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from quantizers.base import Skip
from quantizers.fitting.checkpoint import Stopwatch
from quantizers.fitting.distortion import root
from quantizers.table import Table
from trainables.corpora import CORPORA, reader_module
from trainables.leading import LeadingTask, Report, silent
from trainables.networks.course import NetworkCourse
from trainables.networks.training import Trained, TrainedNetwork
from trainables.task import Baseline, Score

_METRIC_FLOOR = 1e-4


class Texts(Protocol):
    """What a network is trained and scored on, as rows of its tables."""

    @property
    def rows(self) -> Tensor:
        """(V,) int64 rows of the given table, -1 where it has none for a word of the task.

        Rows that only the task has may stand behind them.
        """

    @property
    def oov_words(self) -> int:
        """Distinct words that the table has no vector for."""

    def take(self, dense: Tensor) -> Tensor:
        """The task's rows (V, D) of a table (N, D)."""


class NetworkTask(LeadingTask):
    """A task whose network can be trained through any embedding module, full or compressed, one for each of its roles.

    Its baseline's arrays hold ``network.*``, the network; ``table`` (V, D), the vectors of the role ``reads``, and
    ``table.<role>``, those of the others; where ``has_fisher``, by role ``felt.*`` (V,) and ``moment.*`` (D, D), what the
    training loss feels of rows and directions; ``seconds`` and ``epochs`` of the training.

    Attributes:
        reads: role of the table that a sweep names.
    """

    reads: ClassVar[str] = "input"

    @property
    def label(self) -> str:
        """The task's name, with the data set's behind it where that is not the usual one."""
        usual = type(self.settings).model_fields["dataset"].default
        return self.name if self.settings.dataset == usual else f"{self.name}_{self.settings.dataset}"

    @property
    def roles(self) -> tuple[str, ...]:
        """See :attr:`LeadingTask.roles`."""
        return (self.reads,)

    def data_files(self) -> Sequence[Path]:
        """The corpus's files."""
        return CORPORA[self.settings.dataset].files(self.data_dir)

    def code_modules(self) -> Sequence[str]:
        """The task's own, and the reader of its corpus: a change to another corpus's reader changes nothing here."""
        return (*super().code_modules(), reader_module(self.settings.dataset))

    def check(self, table: Table) -> Skip | None:
        """The table must have words, and some of the task's."""
        self.data_files()
        if table.words is None:
            return Skip("the table has no words")
        return None if len(self.vocabulary(table).rows) else Skip("the table has no word of its texts")

    # What a task says of itself --------------------------------------------------------------------------------------

    @abstractmethod
    def vocabulary(self, table: Table) -> Texts:
        """The task's rows in ``table`` and its texts as places among them, made once for equal words."""

    @abstractmethod
    def network(self, embedding_dim: int, seed: int) -> TrainedNetwork:
        """A network at its start, for a first table of ``embedding_dim`` columns."""

    def start(
        self, rows: Tensor, vocabulary: Any, seed: int, *, finetune: bool
    ) -> tuple[dict[str, nn.Embedding], TrainedNetwork]:
        """Full tables by role, and a network, as training from scratch begins.

        Args:
            rows: (V, D) of the role ``reads``; they are not changed.
            vocabulary: the task's.
            seed: of the network and of tables that are not given.
            finetune: whether the first table is trained; all others are.
        """
        network = self.network(rows.shape[1], seed).to(rows.device)
        return {self.reads: full_table(rows.clone(), trained=finetune)}, network

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

    def all_tables(self, rows: Mapping[str, Tensor], network: Any) -> Mapping[str, Tensor]:
        """The tables that training made: ``rows`` by role, and those that are no role but the network's own."""
        return rows

    def felt(self, rows: Mapping[str, Tensor], network: Any, vocabulary: Any) -> Mapping[str, tuple[Tensor, Tensor]]:
        """What the loss on the training set feels, by role; nothing where ``has_fisher`` is False.

        Of each row (V,) the sum of squared gradients, and the gradients' second moment (D, D).
        """
        return {}

    def occurrences(self, vocabulary: Any, role: str) -> int:
        """How often the training set reads a row of the table of ``role``. Only where ``has_fisher``."""
        raise NotImplementedError(f"{self.label} has no Fisher information")

    def is_start(self, table: Table) -> bool:
        """Whether ``table`` (the task's own) holds random vectors to start from, and no more."""
        return False

    # What follows ----------------------------------------------------------------------------------------------------

    def trained_network(self, baseline: Baseline) -> TrainedNetwork:
        """The baseline's network."""
        network = self.network(baseline.arrays["table"].shape[1], 0)
        prefix = "network."
        state = {key[len(prefix) :]: value for key, value in baseline.arrays.items() if key.startswith(prefix)}
        network.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
        return network

    def baseline(self, table: Table, *, seed: int, finetune: bool = False, report: Report = silent) -> Baseline:
        """Train with the uncompressed table, frozen or fine-tuned, and score the test set once."""
        watch = Stopwatch()
        vocabulary = self.vocabulary(table)
        embeddings, network = self.start(vocabulary.take(table.vectors), vocabulary, seed, finetune=finetune)
        trained = self.fit(embeddings, network, vocabulary, seed=seed, report=report, phase="baseline")
        rows = {role: embedding.weight.detach() for role, embedding in embeddings.items()}
        every = self.all_tables(rows, network)
        arrays = {f"network.{name}": tensor.numpy() for name, tensor in network.state_dict().items()}
        arrays |= {self._array_name(role): vectors.numpy() for role, vectors in every.items()}
        for role, (felt, moment) in self.felt(every, network, vocabulary).items():
            arrays[f"felt.{role}"], arrays[f"moment.{role}"] = felt.numpy(), moment.numpy()
        arrays["seconds"], arrays["epochs"] = np.array(watch.seconds()), np.array(trained.epochs)
        return Baseline(self.test(rows, network, vocabulary), arrays)

    def _array_name(self, role: str) -> str:
        return "table" if role == self.reads else f"table.{role}"

    def score(
        self, dense: Tensor, table: Table, baseline: Baseline, *, seed: int, report: Report = silent
    ) -> dict[str, Score]:
        """Train a new network, and tables of further roles, on the frozen reconstruction, and score the test set once.

        The seed is the baseline's. A reconstruction that is exact is the baseline itself, which is not trained again.
        """
        vocabulary = self.vocabulary(table)
        rows = vocabulary.take(dense)
        if np.array_equal(rows.cpu().numpy(), baseline.arrays["table"]):
            return dict(baseline.scores)
        embeddings, network = self.start(rows, vocabulary, seed, finetune=False)
        self.fit(embeddings, network, vocabulary, seed=seed, report=report)
        return self.test({role: own.weight.detach() for role, own in embeddings.items()}, network, vocabulary)

    def evaluate(self, table: Table, baseline: Baseline) -> dict[str, Score]:
        """The test set's scores with the vectors of ``table`` (V, D), and the baseline's network and further tables."""
        rows = {self.reads: table.vectors}
        rows |= {role: torch.tensor(baseline.arrays[self._array_name(role)]) for role in self.roles if role not in rows}
        return self.test(rows, self.trained_network(baseline), self.vocabulary(table))

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

    def fisher_weights(self, table: Table, baseline: Baseline) -> dict[str, Tensor]:
        """By role, (N,) or (V,) how much each row matters to the task: its Fisher information.

        Every word of the task counts as if it were read once more than it is, as an average occurrence: words that only
        unseen texts hold are then not free to be anything. Rows that are no words of the task get the least of these.
        """
        vocabulary = self.vocabulary(table)
        weights = {}
        for role in self.roles:
            felt = torch.tensor(baseline.arrays[f"felt.{role}"])
            weights[role] = felt + felt.sum() / self.occurrences(vocabulary, role)
        if self.reads in weights:
            own, found = weights[self.reads], vocabulary.rows >= 0
            every = torch.full((table.num_embeddings,), float(own.min()))
            every[vocabulary.rows[found]] = own[: len(found)][found]
            weights[self.reads] = every
        return weights

    def fisher_metric(self, baseline: Baseline) -> dict[str, Tensor]:
        """By role, (D, D) what an error in each direction matters; see :func:`quantizers.fitting.distortion.root`."""
        return {role: root(torch.tensor(baseline.arrays[f"moment.{role}"]), _METRIC_FLOOR) for role in self.roles}

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
        """The course of a trial; see :class:`~trainables.networks.course.NetworkCourse`."""
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


def full_table(rows: Tensor, *, trained: bool = False) -> nn.Embedding:
    """An uncompressed table (V, D) as a module; ``trained`` says whether its values are parameters."""
    return nn.Embedding(rows.shape[0], rows.shape[1], _weight=rows, _freeze=not trained)
