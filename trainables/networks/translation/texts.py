"""Sentences and their translations as rows of two tables, in batches of pairs that are about as long.

Shapes: P pairs, B pairs of a batch, S tokens of its longest source text, T of its longest target text with the end mark.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from trainables.networks.batches import NO_TARGET
from trainables.networks.vocabulary import UNKNOWN

START, END = "<s>", "</s>"
MARKS = (UNKNOWN, START, END)  # the first rows of a target table
_START, _END = MARKS.index(START), MARKS.index(END)
_POOL_BATCHES = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Texts as row numbers, one after the other.

    Attributes:
        ids: (tokens of all texts,) int64.
        starts: (P + 1,) where each text begins in ``ids``; the last is the number of tokens.
    """

    ids: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(P,) tokens of each text."""
        return np.diff(self.starts)

    def take(self, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some texts side by side: (B, T) rows, 0 behind a text's end, and (B, T) where a token stands."""
        places = np.arange(self.lengths[group].max())
        inside = places < self.lengths[group][:, None]
        return np.where(inside, self.ids[np.where(inside, self.starts[group][:, None] + places, 0)], 0), inside


@dataclasses.dataclass(frozen=True, eq=False)
class PairBatch:
    """Some pairs, padded on the right.

    Attributes:
        places: (B,) which pairs they are.
        source: (B, S) int64 rows of the source table; 0 behind a text's end.
        source_lengths: (B,) int64.
        target: (B, T) int64 rows of the target table: the start mark, then the translation.
        wanted: (B, T) int64 what is to follow each of them: the translation, then the end mark, then -100.
    """

    places: Tensor
    source: Tensor
    source_lengths: Tensor
    target: Tensor
    wanted: Tensor

    def to(self, device: torch.device) -> PairBatch:
        """The same batch on ``device``."""
        return PairBatch(*(getattr(self, part.name).to(device) for part in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True, eq=False)
class PairTexts:
    """A split: source texts and their translations, the latter without marks."""

    source: Texts
    target: Texts

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[PairBatch]:
        """All pairs once.

        Args:
            batch_size: B.
            generator: shuffles: pairs are drawn in pools of 16 batches, each pool sorted by length, its batches in random
                order. None: in order of the source's length, for translating.
        """
        if generator is None:
            order = np.argsort(self.source.lengths, kind="stable")
            groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        else:
            shuffled = torch.randperm(len(self), generator=generator).numpy()
            groups = []
            for start in range(0, len(shuffled), batch_size * _POOL_BATCHES):
                pool = shuffled[start : start + batch_size * _POOL_BATCHES]
                pool = pool[np.lexsort((self.source.lengths[pool], self.target.lengths[pool]))]
                groups += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
            groups = [groups[index] for index in torch.randperm(len(groups), generator=generator).tolist()]
        for group in groups:
            yield self._batch(group)

    def _batch(self, group: np.ndarray) -> PairBatch:
        source, inside = self.source.take(group)
        words, stands = self.target.take(group)
        ends = np.arange(words.shape[1] + 1) == self.target.lengths[group][:, None]
        wanted = np.pad(np.where(stands, words, NO_TARGET), ((0, 0), (0, 1)), constant_values=NO_TARGET)
        starts = np.full((len(group), 1), _START)
        arrays = (group, source, inside.sum(axis=1), np.hstack([starts, words]), np.where(ends, _END, wanted))
        return PairBatch(*(torch.from_numpy(np.ascontiguousarray(one, dtype=np.int64)) for one in arrays))


def texts(sentences: Sequence[Sequence[str]], row_of: Callable[[str], int], longest: int) -> Texts:
    """Sentences as rows of a table; of one longer than ``longest`` the first ``longest`` tokens.

    Args:
        sentences: P sentences.
        row_of: the row of a word, whatever the word is.
        longest: tokens that are read.
    """
    cut = [sentence[:longest] for sentence in sentences]
    ids = np.fromiter((row_of(token) for sentence in cut for token in sentence), dtype=np.int64)
    return Texts(ids, np.concatenate([[0], np.cumsum([len(sentence) for sentence in cut], dtype=np.int64)]))
