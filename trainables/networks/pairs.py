"""Networks on pairs of sentences, trained as all others are.

Shapes: B batch, T tokens of the longest pair, D columns of the table, H hidden units, F features, C classes, V rows of the
task.

A pair is one text to batches and training: the words of the first sentence in their order, then those of the second in
reverse. It has a target at the first sentence's last word and nowhere else. The network answers at every place what it would
say if the first sentence ended there: one LSTM reads from the left, the other (or the same one) from the right, so that a
place sees the first sentence as it was written, up to there, and the second as it was written, down to the next place. Of
these answers only the one with a target is trained and scored. So a text that falls in two needs no batches, no training and
no scoring of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from quantizers.base import generator
from quantizers.table import Table
from trainables.corpora.base import Splits
from trainables.corpora.snli import SNLI, Pairs
from trainables.leading import LeadingTask
from trainables.networks.batches import Encoded, encode
from trainables.networks.sequence import SequenceNetwork
from trainables.networks.trained_task import TrainedTask
from trainables.networks.vocabulary import UNKNOWN, Vocabulary
from trainables.task import word_rows

_NO_TARGET = -100  # as in batches and in the loss


class PairNetwork(SequenceNetwork):
    """Embedding -> dropout -> LSTM layers on each sentence -> u, v -> classes from [u, v, |u - v|, u * v].

    u and v are the largest values of the last layer's states, unit by unit, over the first and the second sentence.

    Args:
        embedding_dim: D.
        hidden_size: H.
        num_layers: LSTM layers.
        num_classes: C.
        dropout: on the vectors, between the layers and in front of the output.
        shared: whether one LSTM reads both sentences, or each has its own.
        generator: of the initial weights; a CPU generator.
    """

    def __init__(
        self,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int,
        num_classes: int,
        *,
        dropout: float,
        shared: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__(
            embedding_dim,
            hidden_size,
            num_layers,
            num_classes,
            dropout=dropout,
            bidirectional=False,
            per_token=True,
            generator=generator,
        )
        with torch.random.fork_rng(devices=[]):
            if not shared:
                widths = [embedding_dim, *[hidden_size] * (num_layers - 1)]
                self.backwards = nn.ModuleList(nn.LSTM(width, hidden_size, batch_first=True) for width in widths)
            self.output = nn.Linear(4 * hidden_size, num_classes)
        with torch.no_grad():
            for module, fan_in in ((self.backwards, hidden_size), (self.output, 4 * hidden_size)):
                for parameter in module.parameters():
                    bound = fan_in**-0.5
                    parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, T, C) of every place at which the first sentence may end, but a text's last.

        Args:
            vectors: (B, T, D), the first sentence and the second turned round, whatever stands behind a text's end.
            lengths: (B,) tokens of both sentences, at least 2.
        """
        places = torch.arange(vectors.shape[1], device=vectors.device)
        left = lengths[:, None] - 1 - places
        turned = torch.where(left >= 0, left, places)[:, :, None]
        first = self._read(self.forwards, vectors)
        second = self._read(self.backwards or self.forwards, vectors.gather(1, turned.expand_as(vectors)))
        # What was read from the right when the next place was reached.
        second = second.gather(1, (left - 1).clamp_min(0)[:, :, None].expand_as(second))
        features = torch.cat([first, second, (first - second).abs(), first * second], dim=2)
        return cast(Tensor, self.output(self.dropout(features)))

    def _read(self, layers: nn.ModuleList, vectors: Tensor) -> Tensor:
        """(B, T, H): the largest states so far."""
        states = self.dropout(vectors)
        for index, layer in enumerate(layers):
            states, _ = layer(self.dropout(states) if index else states)
        return torch.cummax(states, dim=1).values


class PairTask(TrainedTask):
    """A task on pairs of sentences: what differs from one on single texts.

    Its corpus is not one of :data:`trainables.corpora.CORPORA`: every other trained task's code holds that list, and their
    results would count as made by other code.
    """

    per_token = True

    def data_files(self) -> Sequence[Path]:
        """The corpus's files."""
        return SNLI.files(self.data_dir)

    def code_modules(self) -> Sequence[str]:
        """The task's own; it imports the reader of its corpus."""
        return LeadingTask.code_modules(self)

    def splits(self) -> Splits:
        """The corpus, its training set cut to ``train_texts`` pairs."""
        return read_pairs(self.data_dir, self.settings.train_texts)

    def vocabulary(self, table: Table) -> Vocabulary:
        """The task's rows in ``table``, and its pairs as places among them."""
        settings = self.settings
        return vocabulary_of_pairs(self.data_dir, settings.train_texts, settings.longest_text, tuple(table.words or ()))

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


def of_pairs(truth: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Classes and predicted classes of pairs, one each, from those at every place."""
    ends = [next(place for place, target in enumerate(targets) if target != _NO_TARGET) for targets in truth]
    true, guessed = ([one[end] for one, end in zip(side, ends, strict=True)] for side in (truth, predicted))
    return true, guessed


@functools.lru_cache(maxsize=2)
def read_pairs(data_dir: Path | None, train_texts: int | None) -> Splits:
    """The corpus, its training set cut; a worker reads it once for all its trials."""
    found = SNLI.read(data_dir)
    train = found.train
    assert isinstance(train, Pairs) and train.labels is not None
    cut = slice(train_texts)
    return Splits(
        Pairs(train.tokens[cut], train.labels[cut], hypotheses=train.hypotheses[cut]), found.dev, found.test, found.classes
    )


@functools.lru_cache(maxsize=4)
def vocabulary_of_pairs(
    data_dir: Path | None, train_texts: int | None, longest_text: int, words: tuple[str, ...]
) -> Vocabulary:
    """As :func:`trainables.networks.vocabulary.vocabulary_of`; of each sentence ``longest_text`` tokens are read."""
    splits = read_pairs(data_dir, train_texts)
    examples: dict[str, Any] = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    find = word_rows(words)
    tokens = dict.fromkeys(
        token for one in examples.values() for side in (one.tokens, one.hypotheses) for text in side for token in text
    )
    row_of = {token: row for token in tokens if (row := find(token)) is not None}
    stand_in = find(UNKNOWN)
    rows = sorted({*row_of.values(), *([] if stand_in is None else [stand_in])})
    place = {row: index for index, row in enumerate(rows)}
    unknown = len(rows) if stand_in is None else place[stand_in]
    place_of = {token: place[row] for token, row in row_of.items()}
    texts = {split: _encode(one, place_of, unknown, longest_text) for split, one in examples.items()}
    return Vocabulary(torch.tensor(rows, dtype=torch.int64), unknown, texts, len(tokens) - len(row_of))


def _encode(pairs: Pairs, place_of: dict[str, int], unknown: int, longest_text: int) -> Encoded:
    texts, targets = [], []
    assert pairs.labels is not None
    for first, second, label in zip(pairs.tokens, pairs.hypotheses, pairs.labels, strict=True):
        # A sentence of no words is one unknown word.
        one, other = (text[:longest_text] or ("",) for text in (first, second))
        texts.append((*one, *reversed(other)))
        targets.append([*[_NO_TARGET] * (len(one) - 1), label, *[_NO_TARGET] * len(other)])
    return encode(texts, targets, lambda token: place_of.get(token, unknown), 2 * longest_text)
