"""Texts as rows of a table, in batches of texts that are about as long.

Shapes: S texts, B texts of a batch, T tokens of its longest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

NO_TARGET = -100  # of tokens that no loss looks at, as torch's cross-entropy has it
_POOL_BATCHES = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Texts as row numbers, one after the other, with their targets.

    Attributes:
        ids: (tokens of all texts,) int64.
        starts: (S + 1,) where each text begins in ``ids``; the last is the number of tokens.
        targets: (S,) int64, or (tokens,) where every token has a target.
    """

    ids: np.ndarray
    starts: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(S,) tokens of each text."""
        return np.diff(self.starts)


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Some texts, padded on the right.

    Attributes:
        ids: (B, T) int64; 0 behind a text's end.
        lengths: (B,) int64.
        targets: (B,) int64; (B, T) where every token has one, -100 behind a text's end.
    """

    ids: Tensor
    lengths: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        return Batch(self.ids.to(device), self.lengths.to(device), self.targets.to(device))


def encode(
    texts: Sequence[Sequence[str]],
    targets: Sequence[int] | Sequence[Sequence[int]],
    row_of: Callable[[str], int],
    longest: int,
) -> Encoded:
    """Texts as rows of a table; of a text longer than ``longest`` the first ``longest`` tokens.

    Args:
        texts: S texts.
        targets: a class for each text, or one for each of its tokens.
        row_of: the row of a word, whatever the word is.
        longest: tokens that are read.
    """
    cut = [text[:longest] or ("",) for text in texts]  # a text of no words is one unknown word: it too has a class
    ids = np.fromiter((row_of(token) for text in cut for token in text), dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum([len(text) for text in cut], dtype=np.int64)])
    if targets and not isinstance(targets[0], int):
        flat = [target for text in targets for target in text[:longest]]  # type: ignore[index]
        return Encoded(ids, starts, np.array(flat, dtype=np.int64))
    return Encoded(ids, starts, np.array(targets, dtype=np.int64))


def encode_pairs(
    firsts: Sequence[Sequence[str]],
    seconds: Sequence[Sequence[str]],
    labels: Sequence[int],
    row_of: Callable[[str], int],
    longest: int,
) -> Encoded:
    """Pairs of sentences, each as one text: the first, then the second in reverse, with a target at the first's last word.

    Args:
        firsts: S sentences.
        seconds: S sentences.
        labels: a class for each pair.
        row_of: the row of a word, whatever the word is.
        longest: tokens of each sentence that are read.
    """
    texts, targets = [], []
    for first, second, label in zip(firsts, seconds, labels, strict=True):
        one, other = (text[:longest] or ("",) for text in (first, second))  # a sentence of no words is one unknown word
        texts.append((*one, *reversed(other)))
        targets.append([*[NO_TARGET] * (len(one) - 1), label, *[NO_TARGET] * len(other)])
    return encode(texts, targets, row_of, 2 * longest)


def batches(
    data: Encoded, batch_size: int, *, generator: torch.Generator | None = None, per_token: bool = False
) -> Iterator[Batch]:
    """All texts once.

    Args:
        data: the texts.
        batch_size: B.
        generator: shuffles: texts are drawn in pools of 16 batches, each pool sorted by length, its batches in random
            order. None: in order of length, for scoring.
        per_token: whether targets are per token.
    """
    lengths = data.lengths
    if generator is None:
        order = np.argsort(lengths, kind="stable")
        groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    else:
        shuffled = torch.randperm(len(data), generator=generator).numpy()
        groups = []
        for start in range(0, len(shuffled), batch_size * _POOL_BATCHES):
            pool = shuffled[start : start + batch_size * _POOL_BATCHES]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            groups += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
        groups = [groups[index] for index in torch.randperm(len(groups), generator=generator).tolist()]
    for group in groups:
        yield _batch(data, group, per_token)


def _batch(data: Encoded, group: np.ndarray, per_token: bool) -> Batch:
    lengths = data.lengths[group]
    places = np.arange(lengths.max())
    inside = places < lengths[:, None]
    where = np.where(inside, data.starts[group][:, None] + places, 0)
    ids = np.where(inside, data.ids[where], 0)
    targets = np.where(inside, data.targets[where], NO_TARGET) if per_token else data.targets[group]
    return Batch(torch.from_numpy(ids), torch.from_numpy(lengths), torch.from_numpy(targets))
