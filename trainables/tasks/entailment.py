"""Whether one sentence follows from another: LSTMs on the pairs of SNLI.

Reference: Bowman et al. 2015 (SNLI); the network of Kim, Kim & Lee 2020, section 4: LSTMs of 300 units on both sentences,
concatenated, and the classes. Here one LSTM reads both, what it says of each is the largest value of every unit, and
beside the two results u and v the classes see |u - v| and u * v, as Conneau et al. 2017 (InferSent) have it.
``shared: false`` gives each sentence an LSTM of its own, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from quantizers.base import generator
from trainables.networks.pairs import PairNetwork, of_pairs
from trainables.networks.sequence import SequenceNetwork
from trainables.networks.trained_task import TrainedSettings, TrainedTask
from trainables.task import Metric


class EntailmentSettings(TrainedSettings):
    """Settings of entailment; see :class:`~trainables.networks.trained_task.TrainedSettings`.

    Attributes:
        shared: whether one LSTM reads both sentences, or each has its own.
    """

    dataset: Literal["snli"] = "snli"
    shared: bool = True
    num_layers: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)

    @field_validator("bidirectional")
    @classmethod
    def _one_direction(cls, value: bool) -> bool:
        if value:
            raise ValueError("entailment reads each sentence from left to right only: false is expected")
        return value


class Entailment(TrainedTask):
    """Accuracy of SNLI. Data: the corpus, see ``frontier data``."""

    name = "entailment"
    metrics = (Metric("accuracy", "max", description="share of the test pairs that are classified right"),)
    Settings = EntailmentSettings
    main_metric = "accuracy"
    per_token = True  # a pair has its target at the first sentence's last word

    def network(self, embedding_dim: int, seed: int) -> SequenceNetwork:
        """A network at its start."""
        settings = self.settings
        return PairNetwork(
            embedding_dim,
            settings.hidden_size,
            settings.num_layers,
            len(self.splits().classes),
            dropout=settings.dropout,
            shared=settings.shared,
            generator=generator(seed),
        )

    def measure(self, truth: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]], classes: Sequence[str]) -> float:
        """Accuracy, of one class a pair."""
        from sklearn.metrics import accuracy_score  # slow to import, and every sweep lists the tasks

        return float(accuracy_score(*of_pairs(truth, predicted)))
