"""What a task is that trains a network, and so can lead a trial: the contract beyond :mod:`trainables.task`.

A trial knows no network. It asks its leading task for a course, and the course says which tables are compressed, under which
metric, what is trained once they are, and how the leading task is scored. A trial without a leading task has a course of its
own, in which nothing is trained.

Shapes: N rows of the table, V rows of the task's own table, D columns.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from torch import Tensor

from quantizers.base import FitStep, Quantizer
from quantizers.errors import InputError
from quantizers.table import Table
from trainables.task import Baseline, DownstreamTask, Score

Report = Callable[[FitStep], None]


def silent(step: FitStep) -> None:
    """A report that nobody reads."""


@dataclasses.dataclass
class Course:
    """What a trial compresses and trains; as it stands here, the tables as they are and nothing else.

    Attributes:
        tables: what is compressed, by role; the task's first role comes first.
        weights: by role, (N,) row weights of the fit; where a role has none, all its rows count the same.
        oov_words: words of the leading task that share a row, since the table has none for them.
        train_seconds: what training with the compressed tables took; None where nothing was trained.
    """

    tables: Mapping[str, Table]
    weights: Mapping[str, Tensor]
    oov_words: int = 0
    train_seconds: float | None = None

    @property
    def table(self) -> Table:
        """The table of the first role, which is all that tasks without a network look at."""
        return next(iter(self.tables.values()))

    @property
    def reference(self) -> Table:
        """What tasks without a network compare the reconstruction of the first role's table with."""
        return self.table

    def seen(self, role: str) -> Table:
        """The table of ``role`` as the fit sees it."""
        return self.tables[role]

    def train(self, quantizers: Mapping[str, Quantizer], *, report: Report) -> Mapping[str, Quantizer]:
        """Train with the task; by role, the quantizers that are saved, for ``tables``."""
        return quantizers

    def scores(self, task: DownstreamTask, dense: Mapping[str, Tensor]) -> tuple[Baseline, dict[str, Score]] | None:
        """Baseline and scores (by metric) of the task that was trained with; None for every other task.

        ``dense`` has the reconstructions (N, D) by role.
        """
        return None


class LeadingTask(DownstreamTask):
    """A task that trains a network. Its baseline may train the tables with it, and it can lead a trial's regime.

    Attributes:
        has_fisher: whether its baseline tells how much its loss feels each row and each direction, so that row weights and
            a metric can be made of it.
    """

    has_fisher: ClassVar[bool] = False

    def own_table(self) -> Table:
        """The task's own words with random vectors to start from, for who brings no table.

        Raises:
            InputError: the task starts from a table that it is given.
        """
        raise InputError(f"Task {self.label} starts from a table that exists: name one.")

    def role_shapes(self, table: Table) -> dict[str, tuple[int, int]]:
        """Rows and columns of the tables that a trial compresses, by role, the first first, known before any training.

        Args:
            table: the task's own (:meth:`task_table`).
        """
        return {self.roles[0]: table.shape}

    @abstractmethod
    def baseline(self, table: Table, *, seed: int, finetune: bool = False, report: Report = silent) -> Baseline:
        """Train with the uncompressed table and measure it.

        Args:
            table: the table, or the task's own (:meth:`task_table`).
            seed: of the training.
            finetune: whether the table is trained too.
            report: called after every epoch.
        """

    @abstractmethod
    def score(
        self, dense: Tensor, table: Table, baseline: Baseline, *, seed: int, report: Report = silent
    ) -> dict[str, Score]:
        """Train a new network on the reconstruction of its first table and measure it."""

    @abstractmethod
    def evaluate(self, table: Table, baseline: Baseline) -> dict[str, Score]:
        """Measure the vectors of ``table`` (V, D) with the baseline's network, which is not trained again."""

    @abstractmethod
    def task_table(self, table: Table) -> Table:
        """The rows (V, D) of ``table`` that the task reads, and how often it reads each."""

    @abstractmethod
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
    ) -> Course:
        """The course of a trial that this task leads.

        Args:
            table: (N, D) what the sweep compresses.
            weights: (N,) row weights of the sweep, or None.
            baseline: this task's, of ``seed``; fine-tuned unless the regime is ``pretrained``.
            method: name of the quantizer.
            regime: ``pretrained``, ``finetuned`` or ``end_to_end``.
            retrain: what is trained further after compression (parts, epochs, learning_rate), or None.
            seed: of trainings.
            fisher: what is made of the baseline's Fisher information: ``weights``, ``metric``, both or neither.
        """
