"""Word vectors from a corpus alone: the factors of its matrix of positive pointwise mutual information.

References: Levy & Goldberg 2014; Pennington, Socher & Manning 2014. The vectors are trained from scratch, through whole or
compressed tables. Beside the loss on entries held out, the task ``similarity`` says how good they are.

Shapes: N rows of the table that is given, V rows of the task (words of the corpus that the table has), D columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from quantizers.base import Skip, generator
from quantizers.table import Table
from trainables.corpora import CORPORA
from trainables.leading import Report
from trainables.networks.network_task import NetworkTask, full_table
from trainables.networks.training import Groups, Trained, TrainedNetwork, train
from trainables.task import Baseline, Metric, Score, TaskSettings
from trainables.tasks.pmi.counting import Text
from trainables.tasks.pmi.entries import Counted, Matrix, corpus_files, matrix_of, own_text
from trainables.tasks.pmi.factorization import CONTEXT, WORD, Factorization

_START_STD = 0.05
_OPTIMIZERS: dict[str, Any] = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


class PmiSettings(TaskSettings):
    """What is counted, and how it is factored.

    Attributes:
        dataset: a corpus by its name (its training texts), or a text file, given as a path or one below the data folder.
        lowercase: whether words are brought to lower case.
        min_count: a word that the corpus has less often is left out.
        max_words: only so many words, the most frequent; None for all.
        window: words that are at most so far apart, in one line, stand near each other.
        weighting: whether a pair d words apart counts 1/d (``inverse``) or 1 (``flat``).
        min_pair_count: pairs that count less are left out.
        smoothing: power of the contexts' frequencies in the PMI; 1 is plain PMI.
        held_out: share of the entries that are held out to choose the epoch by, and as many to report on.
        negatives: for each entry so many pairs of any two words are drawn, whose PMI is taken to be 0.
        loss: ``glove_pmi``, ``glove_log_pmi`` or ``mse_log_pmi``.
        shared: one table for words and contexts, or one for each.
        biases: ``separate`` for words and contexts, ``shared`` by both, or ``none``.
        embedding_dim: D of the task's own table.
        dropout: on the vectors.
        optimizer: ``adagrad``, ``adam`` or ``sgd``.
        epochs: the most epochs.
        patience: epochs without a better loss on the entries to choose by, after which training ends.
        batch_size: entries a step.
        learning_rate: of the optimizer.
        decay: factor on the learning rate after every epoch.
        average: of the weights' moving average, which is what is scored; 0 scores the weights themselves.
        clip_norm: largest norm of a gradient.
    """

    precision: ClassVar[str] = "float32"

    dataset: str = "wikitext2"
    lowercase: bool = True
    min_count: int = Field(default=5, ge=1)
    max_words: int | None = Field(default=None, ge=2)
    window: int = Field(default=10, ge=1)
    weighting: Literal["inverse", "flat"] = "inverse"
    min_pair_count: float = Field(default=0.0, ge=0)
    smoothing: float = Field(default=1.0, ge=0, le=1)
    held_out: float = Field(default=0.02, gt=0, lt=0.5)
    negatives: float = Field(default=0.0, ge=0)
    loss: Literal["glove_pmi", "glove_log_pmi", "mse_log_pmi"] = "glove_pmi"
    shared: bool = False
    biases: Literal["separate", "shared", "none"] = "separate"
    embedding_dim: int = Field(default=100, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    optimizer: Literal["adagrad", "adam", "sgd"] = "adagrad"
    epochs: int = Field(default=10, ge=1)
    patience: int = Field(default=2, ge=1)
    batch_size: int = Field(default=8192, ge=1)
    learning_rate: float = Field(default=0.05, gt=0)
    decay: float = Field(default=1.0, gt=0, le=1)
    average: float = Field(default=0.99, ge=0, lt=1)
    clip_norm: float = Field(default=5.0, gt=0)


class Pmi(NetworkTask):
    """The loss of a factorization of a corpus's PMI matrix, on entries that were held out."""

    name = "pmi"
    metrics = (Metric("loss", "min", description="mean loss of the PMI entries that were held out"),)
    Settings = PmiSettings
    reads = WORD

    @property
    def label(self) -> str:
        """The task's name, whatever the data set: that may be a path."""
        return self.name

    @property
    def roles(self) -> tuple[str, ...]:
        """One table, or one for words and one for contexts."""
        return (WORD,) if self.settings.shared else (WORD, CONTEXT)

    def role_shapes(self, table: Table) -> dict[str, tuple[int, int]]:
        """The tables of both roles are of one shape."""
        return dict.fromkeys(self.roles, table.shape)

    def resolved(self, table: Table) -> dict[str, Any]:
        """See :meth:`NetworkTask.resolved`; ``max_words`` is how many words there are."""
        return {**super().resolved(table), "max_words": self.settings.max_words or len(self._own_text().words)}

    def data_files(self) -> Sequence[Path]:
        """The corpus's files."""
        return corpus_files(self.settings.dataset, self.data_dir)

    def code_modules(self) -> Sequence[str]:
        """The task's own, and the reader of its corpus; a text file has none."""
        return super().code_modules() if self.settings.dataset in CORPORA else (type(self).__module__,)

    def check(self, table: Table) -> Skip | None:
        """The table must have words, and some pairs of them must stand near each other more often than by chance."""
        if (skip := super().check(table)) is not None:
            return skip
        found = self.vocabulary(table)
        for entries, purpose in ((found.train, "to train on"), (found.dev, "to choose by"), (found.test, "to report on")):
            if not len(entries):
                return Skip(f"its words in {self.settings.dataset} leave no PMI entries {purpose}")
        return None

    # The task's words ------------------------------------------------------------------------------------------------

    def own_table(self) -> Table:
        """The words of the corpus, the most frequent first, with vectors of N(0, 0.05)."""
        text = self._own_text()
        counts = torch.from_numpy(np.bincount(text.ids, minlength=len(text.words)))
        vectors = _start((len(text.words), self.settings.embedding_dim), WORD)
        return Table(vectors, text.words, counts, f"words of {self.settings.dataset}")

    def is_start(self, table: Table) -> bool:
        """Whether ``table`` holds the vectors that :meth:`own_table` gives."""
        return torch.equal(table.vectors, _start(table.shape, WORD))

    def _own_text(self) -> Text:
        settings = self.settings
        return own_text(settings.dataset, self.data_dir, settings.lowercase, settings.min_count, settings.max_words)

    def vocabulary(self, table: Table) -> Matrix:
        """The PMI matrix over the task's rows in ``table``."""
        settings = self.settings
        names = {field.name for field in dataclasses.fields(Counted)} - {"half"}
        # Without smoothing the matrix is symmetric: to one table, the entries below the diagonal say nothing new.
        half = settings.shared and settings.smoothing == 1
        counted = Counted(**{name: getattr(settings, name) for name in names}, half=half)
        return matrix_of(self.data_dir, counted, tuple(table.words or ()))

    def task_table(self, table: Table) -> Table:
        """The rows of ``table`` whose words the corpus has (V, D), and how often it has each."""
        found = self.vocabulary(table)
        words = [table.words[row] for row in found.rows.tolist()] if table.words is not None else None
        return Table(table.vectors[found.rows], words, torch.from_numpy(found.counts), f"{table.name} ({self.label})")

    # Training --------------------------------------------------------------------------------------------------------

    def network(self, embedding_dim: int, seed: int) -> Factorization:
        """A model whose biases are 0."""
        settings = self.settings
        # A table may lack some of the corpus's words: their biases are then not read.
        rows = len(self._own_text().words)
        return Factorization(rows, loss=settings.loss, biases=settings.biases, dropout=settings.dropout)

    def start(
        self, rows: Tensor, vocabulary: Matrix, seed: int, *, finetune: bool
    ) -> tuple[dict[str, nn.Embedding], TrainedNetwork]:
        """See :meth:`NetworkTask.start`; the contexts' vectors are random."""
        tables, network = super().start(rows, vocabulary, seed, finetune=finetune)
        if not self.settings.shared:
            tables[CONTEXT] = full_table(_start((len(rows), rows.shape[1]), CONTEXT).to(rows.device), trained=True)
        return tables, network

    def fit(
        self,
        embeddings: Mapping[str, nn.Module],
        network: Factorization,
        vocabulary: Matrix,
        *,
        seed: int,
        report: Report,
        phase: str = "task",
        **options: Any,
    ) -> Trained:
        """Train; see :func:`trainables.networks.training.train` for the options. The embeddings take rows of the task."""

        def measure_dev() -> float:
            return -network.mean_loss(embeddings, vocabulary.dev)

        settings = self.settings
        data = network.epoch(vocabulary.train, settings.batch_size, settings.negatives, len(vocabulary.rows))

        def make_optimizer(parameters: Groups, learning_rate: float) -> torch.optim.Optimizer:
            made: torch.optim.Optimizer = _OPTIMIZERS[settings.optimizer](parameters, lr=learning_rate)
            return made

        options = {"make_optimizer": make_optimizer, **options}
        return train(embeddings, network, data, measure_dev, self.settings, seed=seed, report=report, phase=phase, **options)

    def test(self, rows: Mapping[str, Tensor], network: Factorization, vocabulary: Matrix) -> dict[str, Score]:
        """The loss of the entries to report on, with the vectors (V, D) of both roles."""
        embeddings = {role: full_table(vectors.to(network.device)) for role, vectors in rows.items()}
        return {"loss": Score(network.mean_loss(embeddings, vocabulary.test), len(vocabulary.test))}

    def role_tables(self, table: Table, baseline: Baseline, *, finetuned: bool) -> dict[str, Table]:
        """The tables that a trial compresses: the trained ones, or those that training starts from."""
        if finetuned:
            return super().role_tables(table, baseline, finetuned=True)
        tables = {WORD: table}
        if not self.settings.shared:
            tables[CONTEXT] = Table(_start(table.shape, CONTEXT), table.words, table.counts, f"{self.label}, {CONTEXT}")
        return tables


def _start(shape: tuple[int, int], role: str) -> Tensor:
    """Vectors (V, D) that training starts from, of N(0, 0.05), the same in every trial."""
    return torch.randn(shape, generator=generator(0, (WORD, CONTEXT).index(role))) * _START_STD
