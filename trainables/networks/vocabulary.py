"""The words of a task's texts among the rows of a table.

Shapes: N rows of the table that is given, V rows of the task (its words, and one row for all words without a vector),
D columns.

The task's vocabulary is every word of its corpus that the table has, as it stands or in lower case, in the table's order.
Words without a vector share one row: the table's ``<unk>`` where it has one, else the mean of the task's rows, which costs
no bytes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainables.corpora import CORPORA, Examples, Splits
from trainables.networks.batches import Encoded, encode, encode_pairs
from trainables.task import word_rows

UNKNOWN = "<unk>"


@dataclasses.dataclass(frozen=True, eq=False)
class KnownRows:
    """The task's rows in a table, and one for all words without a vector.

    Attributes:
        rows: (V or V - 1,) int64 rows of the table, rising.
        unknown: place of the row for words without a vector; V - 1 and not in ``rows`` where the mean stands in.
    """

    rows: Tensor
    unknown: int

    def take(self, dense: Tensor) -> Tensor:
        """The task's rows (V, D) of a table (N, D)."""
        rows = dense[self.rows.to(dense.device)]
        return torch.cat([rows, rows.mean(dim=0, keepdim=True)]) if self.unknown == len(rows) else rows


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary(KnownRows):
    """The task's rows in a table, and its texts.

    Attributes:
        texts: the splits as places in the vocabulary.
        oov_words: distinct words without a vector.
    """

    texts: Mapping[str, Encoded]
    oov_words: int


def known_rows(tokens: Iterable[str], words: Sequence[str]) -> tuple[KnownRows, dict[str, int]]:
    """The rows of a table with these ``words`` that ``tokens`` have, and the place of each token that has one."""
    find = word_rows(words)
    row_of = {token: row for token in tokens if (row := find(token)) is not None}
    stand_in = find(UNKNOWN)
    rows = sorted({*row_of.values(), *([] if stand_in is None else [stand_in])})
    place = {row: index for index, row in enumerate(rows)}
    unknown = len(rows) if stand_in is None else place[stand_in]
    return KnownRows(torch.tensor(rows, dtype=torch.int64), unknown), {token: place[row] for token, row in row_of.items()}


def frequent(sentences: Iterable[Sequence[str]], min_count: int = 1) -> list[str]:
    """The words that some sentences have at least ``min_count`` times, the most frequent first, then by their letters."""
    counts = Counter(word for sentence in sentences for word in sentence)
    return sorted((word for word, count in counts.items() if count >= min_count), key=lambda word: (-counts[word], word))


@functools.lru_cache(maxsize=2)
def read_corpus(dataset: str, data_dir: Path | None, train_texts: int | None) -> Splits:
    """A corpus, its training set cut; a worker reads it once for all its trials."""
    found = CORPORA[dataset].read(data_dir)
    train = found.train
    cut = {
        part.name: value[:train_texts]
        for part in dataclasses.fields(train)
        if (value := getattr(train, part.name)) is not None
    }
    return dataclasses.replace(found, train=Examples(**cut))


@functools.lru_cache(maxsize=4)
def vocabulary_of(
    dataset: str, data_dir: Path | None, train_texts: int | None, longest_text: int, words: tuple[str, ...]
) -> Vocabulary:
    """The task's rows among ``words``, and its texts as places among them; made once for tables of the same words."""
    splits = read_corpus(dataset, data_dir, train_texts)
    examples = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    sentences = (text for one in examples.values() for text in (*one.tokens, *(one.hypotheses or ())))
    tokens = dict.fromkeys(token for text in sentences for token in text)
    known, place_of = known_rows(tokens, words)
    texts = {
        split: _encode(one, splits.classes, lambda token: place_of.get(token, known.unknown), longest_text)
        for split, one in examples.items()
    }
    return Vocabulary(known.rows, known.unknown, texts, len(tokens) - len(place_of))


def _encode(examples: Examples, classes: Sequence[str], row_of: Callable[[str], int], longest: int) -> Encoded:
    """One split with its targets: a class for each text, each token, or each pair."""
    if examples.hypotheses is not None:
        return encode_pairs(examples.tokens, examples.hypotheses, examples.labels or (), row_of, longest)
    if examples.tags is not None:
        number = {name: index for index, name in enumerate(classes)}
        return encode(examples.tokens, [[number[tag] for tag in tags] for tags in examples.tags], row_of, longest)
    return encode(examples.tokens, examples.labels or (), row_of, longest)
