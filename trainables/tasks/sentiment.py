"""What a text says of its subject: an LSTM on the mean of its states.

Reference: Socher et al. 2013 (SST), Maas et al. 2011 (IMDB); the network of Kim, Kim & Lee 2020, section 4: two LSTM
layers of 450 units, the mean of the last layer's states, and the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from trainables.networks.trained_task import TrainedSettings, TrainedTask
from trainables.task import Metric


class SentimentSettings(TrainedSettings):
    """Settings of sentiment; see :class:`~trainables.networks.trained_task.TrainedSettings`."""

    dataset: Literal["sst5", "sst2", "imdb"] = "sst5"
    hidden_size: int = 450


class Sentiment(TrainedTask):
    """Accuracy of SST-5, SST-2 or IMDB. Data: the corpus, see ``frontier data``."""

    name = "sentiment"
    metrics = (Metric("accuracy", "max", description="share of the test texts that are classified right"),)
    Settings = SentimentSettings
    per_token = False
    main_metric = "accuracy"

    def measure(self, truth: Sequence[int], predicted: Sequence[int], classes: Sequence[str]) -> float:
        """Accuracy."""
        from sklearn.metrics import accuracy_score  # slow to import, and every sweep lists the tasks

        return float(accuracy_score(truth, predicted))
