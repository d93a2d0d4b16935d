"""Running text as numbers of words, in parallel streams that are read a segment at a time.

Shapes: N rows of the table that is given, V words of the task, D columns, T tokens of a segment, B streams.

The task's words are those of the whole training text, the most frequent first, or those of a vocabulary file; all others
are ``<unk>``. Every word has a row of its own, since the network must be able to say each. A word without a vector in a
table that is given has a random one of that table's mean and deviation; its seed is fixed, so that it costs no bytes.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quantizers.base import generator
from quantizers.errors import InputError
from trainables.corpora import Examples
from trainables.corpora.base import read_lines
from trainables.corpora.running_text import EOS, UNKNOWN
from trainables.networks.vocabulary import frequent, read_corpus
from trainables.task import word_rows


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """What is read of every stream at once.

    Attributes:
        ids: (T, B) int64, the words that are read.
        targets: (T, B) int64, the words that follow them.
        first: whether the streams begin here, so that no state is carried into the segment.
    """

    ids: Tensor
    targets: Tensor
    first: bool

    def to(self, device: torch.device) -> Segment:
        """The same segment on ``device``."""
        return Segment(self.ids.to(device), self.targets.to(device), self.first)


@dataclasses.dataclass(frozen=True, eq=False)
class Streams:
    """A text cut into equal parts that are read side by side.

    Attributes:
        text: (tokens,) int64.
        before: the word in front of the text's first, which is predicted too: the one that closes a line.
        count: B; with more than one, the last ``tokens % B`` tokens are left out.
        length: T; the last segment may be shorter.
    """

    text: np.ndarray
    before: int
    count: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens that are predicted."""
        return len(self.text) // self.count * self.count

    def __len__(self) -> int:
        """Segments."""
        return -(-(len(self.text) // self.count) // self.length)

    def segments(self) -> Iterator[Segment]:
        """All of them, in the text's order."""
        steps = len(self.text) // self.count
        targets = torch.from_numpy(self.text[: steps * self.count])
        ids = torch.cat([torch.tensor([self.before]), targets])[: steps * self.count]
        ids, targets = ids.reshape(self.count, steps), targets.reshape(self.count, steps)
        for start in range(0, steps, self.length):
            part = slice(start, start + self.length)
            yield Segment(ids[:, part].T.contiguous(), targets[:, part].T.contiguous(), start == 0)


@dataclasses.dataclass(frozen=True, eq=False)
class TextVocabulary:
    """The task's words and texts, and where a table has the words.

    Attributes:
        words: V, in the order of the rows.
        rows: (V,) int64 rows of the table; -1 for a word without a vector.
        texts: the splits as numbers of words.
        counts: (V,) how often the training text has each word.
        oov_words: words without a vector.
    """

    words: tuple[str, ...]
    rows: Tensor
    texts: Mapping[str, np.ndarray]
    counts: Tensor
    oov_words: int

    @property
    def end_of_line(self) -> int:
        """The number of the word that closes a line."""
        return self.words.index(EOS)

    def take(self, dense: Tensor) -> Tensor:
        """The task's rows (V, D) of a table (N, D)."""
        rows = self.rows.to(dense.device)
        found = dense[rows.clamp_min(0)]
        missing = rows < 0
        if bool(missing.any()):
            known = found[~missing].double()
            noise = torch.randn(self.oov_words, dense.shape[1], generator=generator(0), dtype=torch.float64)
            drawn = known.mean(dim=0) + noise.to(known.device) * known.std(dim=0, correction=0)
            found[missing] = drawn.to(found.dtype)
        return found


@functools.lru_cache(maxsize=4)
def own_words(dataset: str, data_dir: Path | None, file: Path | None) -> tuple[str, ...]:
    """The task's words: of ``file``, one a line, or of the training text, the most frequent first.

    Raises:
        InputError: a line of the file holds no word or more than one, or a word stands there twice.
    """
    if file is not None:
        lines = read_lines(file)
        words = dict.fromkeys(lines if lines[-1] else lines[:-1])
        for number, line in enumerate(lines, start=1):
            if len(line.split()) != 1 and (line or number < len(lines)):
                raise InputError(f"{file}:{number}: expected one word, found {line!r}.")
        if len(words) < len(lines) - (not lines[-1]):
            twice = next(word for word, count in collections.Counter(lines).items() if count > 1)
            raise InputError(f"{file}: holds the word {twice!r} twice.")
    else:
        train = read_corpus(dataset, data_dir, None).train
        words = dict.fromkeys(frequent(train.tokens))
    return tuple(words | dict.fromkeys((EOS, UNKNOWN)))


@functools.lru_cache(maxsize=4)
def text_vocabulary(
    dataset: str, data_dir: Path | None, train_texts: int | None, file: Path | None, table_words: tuple[str, ...]
) -> TextVocabulary:
    """The task's words and texts, and its words among ``table_words``; made once for tables of the same words."""
    words = own_words(dataset, data_dir, file)
    number = {word: index for index, word in enumerate(words)}
    unknown = number[UNKNOWN]

    def encode(examples: Examples) -> np.ndarray:
        return np.fromiter((number.get(token, unknown) for line in examples.tokens for token in line), dtype=np.int64)

    splits = read_corpus(dataset, data_dir, train_texts)
    texts = {"train": encode(splits.train), "dev": encode(splits.dev), "test": encode(splits.test)}
    find = word_rows(table_words)
    rows = torch.tensor([-1 if (row := find(word)) is None else row for word in words])
    counts = torch.from_numpy(np.bincount(texts["train"], minlength=len(words)))
    return TextVocabulary(words, rows, texts, counts, int((rows < 0).sum()))
