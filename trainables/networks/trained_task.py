"""Tasks that train a network on texts: what they share.

Reference: the protocol of Kim, Kim & Lee 2020, section 4; regimes as in :mod:`trainables.networks.course`.

Shapes: N rows of the table that is given, V rows of the task (see :mod:`trainables.networks.vocabulary`), D columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from quantizers.base import generator
from quantizers.table import Table
from trainables.corpora import Splits
from trainables.leading import Report
from trainables.networks.batches import Encoded
from trainables.networks.network_task import NetworkTask, full_table
from trainables.networks.scoring import predict, sensitivity
from trainables.networks.sequence import SequenceNetwork
from trainables.networks.training import Trained, train
from trainables.networks.vocabulary import UNKNOWN, Vocabulary, read_corpus, vocabulary_of
from trainables.task import Score, TaskSettings


class TrainedSettings(TaskSettings):
    """Network and training of a task.

    Attributes:
        hidden_size: units of an LSTM layer, for each direction.
        num_layers: LSTM layers.
        bidirectional: whether layers read in both directions.
        dropout: on the vectors, between the layers and in front of the output.
        epochs: the most epochs.
        patience: epochs without a better development score after which training ends.
        batch_size: texts a step.
        learning_rate: of Adam.
        decay: factor on the learning rate after every epoch.
        average: of the weights' moving average, which is what is scored; 0 scores the weights themselves.
        clip_norm: largest norm of a gradient.
        precision: of the network's products in training; bfloat16 is faster where the processor has it. Weights, their
            steps and all scoring are float32.
        longest_text: tokens of a text that are read.
        train_texts: only the first texts of the training set; None for all.
    """

    hidden_size: int = Field(default=300, ge=1)
    num_layers: int = Field(default=2, ge=1)
    bidirectional: bool = False
    dropout: float = Field(default=0.5, ge=0, lt=1)
    epochs: int = Field(default=10, ge=1)
    patience: int = Field(default=2, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    decay: float = Field(default=1.0, gt=0, le=1)
    average: float = Field(default=0.99, ge=0, lt=1)
    clip_norm: float = Field(default=5.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    longest_text: int = Field(default=400, ge=1)
    train_texts: int | None = Field(default=None, ge=1)


class TrainedTask(NetworkTask):
    """A task that classifies texts or their tokens. A subclass names its data sets, its output and its metric.

    Attributes:
        per_token: whether every token is classified.
        main_metric: what the development set is scored by.
    """

    has_fisher = True
    Settings: ClassVar[type[TrainedSettings]]
    per_token: ClassVar[bool]
    main_metric: ClassVar[str]

    @abstractmethod
    def measure(self, truth: Sequence[Any], predicted: Sequence[Any], classes: Sequence[str]) -> float:
        """The main metric: of classes (int), or of sequences of classes, one a text."""

    def resolved(self, table: Table) -> dict[str, Any]:
        """See :meth:`NetworkTask.resolved`; ``train_texts`` is how many there are."""
        return {**super().resolved(table), "train_texts": len(self.splits().train)}

    def splits(self) -> Splits:
        """The corpus, its training set cut to ``train_texts``."""
        return read_corpus(self.settings.dataset, self.data_dir, self.settings.train_texts)

    # The task's words ------------------------------------------------------------------------------------------------

    def vocabulary(self, table: Table) -> Vocabulary:
        """The task's rows in ``table``, and its texts as places among them."""
        settings = self.settings
        words = tuple(table.words or ())
        return vocabulary_of(settings.dataset, self.data_dir, settings.train_texts, settings.longest_text, words)

    def task_table(self, table: Table) -> Table:
        """The table that a network of this task has: V rows, and how often each is read in the training texts."""
        found = self.vocabulary(table)
        words = [table.words[row] for row in found.rows.tolist()] if table.words is not None else []
        if found.unknown == len(words):
            words.append(UNKNOWN)
        counts = np.bincount(found.texts["train"].ids, minlength=len(words))
        name = f"{table.name} ({self.label})"
        return Table(found.take(table.vectors), words, torch.from_numpy(counts), name)

    # Training --------------------------------------------------------------------------------------------------------

    def network(self, embedding_dim: int, seed: int) -> SequenceNetwork:
        """A network at its start."""
        settings = self.settings
        return SequenceNetwork(
            embedding_dim,
            settings.hidden_size,
            settings.num_layers,
            len(self.splits().classes),
            dropout=settings.dropout,
            bidirectional=settings.bidirectional,
            per_token=self.per_token,
            generator=generator(seed),
        )

    def fit(
        self,
        embeddings: Mapping[str, nn.Module],
        network: SequenceNetwork,
        vocabulary: Vocabulary,
        *,
        seed: int,
        report: Report,
        phase: str = "task",
        **options: Any,
    ) -> Trained:
        """Train; see :func:`trainables.networks.training.train` for the options.

        The one embedding takes places in the vocabulary.
        """
        (embedding,) = embeddings.values()

        def measure_dev() -> float:
            return self._scored(embedding, network, vocabulary.texts["dev"]).value

        data = network.epoch(vocabulary.texts["train"], self.settings.batch_size)
        return train(embeddings, network, data, measure_dev, self.settings, seed=seed, report=report, phase=phase, **options)

    def test(self, rows: Mapping[str, Tensor], network: SequenceNetwork, vocabulary: Vocabulary) -> dict[str, Score]:
        """The test set's scores with the vectors (V, D) of the one role."""
        (vectors,) = rows.values()
        embedding = full_table(vectors.to(network.device))
        return {self.main_metric: self._scored(embedding, network, vocabulary.texts["test"])}

    def _scored(self, embedding: nn.Module, network: SequenceNetwork, data: Encoded) -> Score:
        truth: list[Any] = []
        predicted: list[Any] = []
        for batch, classes in predict(embedding, network, data):
            if self.per_token:
                for length, own, guess in zip(batch.lengths.tolist(), batch.targets.tolist(), classes.tolist(), strict=True):
                    truth.append(own[:length])
                    predicted.append(guess[:length])
            else:
                truth += batch.targets.tolist()
                predicted += classes.tolist()
        return Score(self.measure(truth, predicted, self.splits().classes), len(truth))

    def felt(
        self, rows: Mapping[str, Tensor], network: SequenceNetwork, vocabulary: Vocabulary
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """See :func:`~trainables.networks.scoring.sensitivity`."""
        return {role: sensitivity(vectors, network, vocabulary.texts["train"]) for role, vectors in rows.items()}

    def occurrences(self, vocabulary: Vocabulary, role: str) -> int:
        """The tokens of the training texts."""
        return len(vocabulary.texts["train"].ids)
