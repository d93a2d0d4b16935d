"""What a task is that trains a network, and so can lead a trial: the contract beyond :mod:`trainables.task`.

A trial knows no network. It asks its leading task for a course, and the course says which table is compressed, under which
metric, what is trained once it is, and how the leading task is scored. A trial without a leading task has a course of its
own, in which nothing is trained.

Shapes: N rows of the table, V rows of the task's own table, D columns.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor

from quantizers.base import FitStep, Quantizer
from quantizers.table import Table
from trainables.task import Baseline, DownstreamTask, Score

Report = Callable[[FitStep], None]


def silent(step: FitStep) -> None:
    """A report that nobody reads."""


@dataclasses.dataclass
class Course:
    """What a trial compresses and trains; as it stands here, the table as it is and nothing else.

    Attributes:
        table: what is compressed.
        weights: (N,) row weights of the fit, or None.
        oov_words: words of the leading task that share a row, since the table has none for them.
        train_seconds: what training with the compressed table took; None where nothing was trained.
    """

    table: Table
    weights: Tensor | None
    oov_words: int = 0
    train_seconds: float | None = None

    def seen(self) -> Table:
        """The table as the fit sees it."""
        return self.table

    def train(self, quantizer: Quantizer, *, report: Report) -> Quantizer:
        """Train with the task; the quantizer that is saved, for ``table``."""
        return quantizer

    def scores(self, task: DownstreamTask, dense: Tensor) -> tuple[Baseline, dict[str, Score]] | None:
        """Baseline and scores (by metric) of the task that was trained with; None for every other task."""
        return None


class LeadingTask(DownstreamTask):
    """A task that trains a network. Its baseline may train the table with it, and it can lead a trial's regime."""

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
        """Train a new network on the reconstruction and measure it."""

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
