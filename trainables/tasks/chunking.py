"""Where a sentence's phrases begin and end: an LSTM tagger on CoNLL-2000.

Reference: Tjong Kim Sang & Buchholz 2000 (the shared task, F1 of whole chunks as ``conlleval`` counts it; here by seqeval);
the network of Kim, Kim & Lee 2020, section 4: two LSTM layers of 300 units, here in both directions unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from trainables.networks.trained_task import TrainedSettings, TrainedTask
from trainables.task import Metric


class ChunkingSettings(TrainedSettings):
    """Settings of chunking; see :class:`~trainables.networks.trained_task.TrainedSettings`."""

    dataset: Literal["conll2000"] = "conll2000"
    bidirectional: bool = True
    epochs: int = Field(default=15, ge=1)
    batch_size: int = Field(default=32, ge=1)


class Chunking(TrainedTask):
    """F1 of the chunks of CoNLL-2000. Data: the corpus, see ``frontier data``."""

    name = "chunking"
    metrics = (Metric("f1", "max", description="F1 of whole chunks with their types, as conlleval counts them"),)
    Settings = ChunkingSettings
    per_token = True
    main_metric = "f1"

    def measure(self, truth: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]], classes: Sequence[str]) -> float:
        """F1 of chunks, 0 to 1."""
        from seqeval.metrics import f1_score  # slow to import, and every sweep lists the tasks

        names = [[[classes[index] for index in text] for text in side] for side in (truth, predicted)]
        return float(f1_score(*names, zero_division=0))
