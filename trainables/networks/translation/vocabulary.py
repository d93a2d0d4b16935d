"""The words of a parallel corpus as rows of a source and a target table.

Shapes: N rows of the table that is given, V rows of the task's source table, D columns.

The words of either language are those that the training texts have at least ``min_count`` times, the most frequent first.
The source table has those of them that the given table knows, in that table's order, and one row for all others: the
table's ``<unk>`` where it has one, else the mean of the rest, which costs no bytes. The target table is the task's own:
three marks, then the words.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

from trainables.networks.translation.texts import MARKS, PairTexts, texts
from trainables.networks.vocabulary import UNKNOWN, KnownRows, frequent, known_rows, read_corpus


@dataclasses.dataclass(frozen=True, eq=False)
class PairVocabulary(KnownRows):
    """The task's rows in a source table, its target words, and its texts as places among both.

    Attributes:
        target: what the rows of the target table stand for.
        pairs: the splits.
        oov_words: distinct source words of all splits that share the row ``unknown``.
    """

    target: tuple[str, ...]
    pairs: Mapping[str, PairTexts]
    oov_words: int


@functools.lru_cache(maxsize=4)
def own_words(dataset: str, data_dir: Path | None, train_texts: int | None, min_count: int) -> tuple[tuple[str, ...], ...]:
    """The words of the source and of the target language, without marks."""
    train = read_corpus(dataset, data_dir, train_texts).train
    sides = (frequent(side, min_count) for side in (train.tokens, train.translations or ()))
    return tuple(tuple(word for word in side if word not in MARKS) for side in sides)


@functools.lru_cache(maxsize=4)
def pair_vocabulary(
    dataset: str,
    data_dir: Path | None,
    train_texts: int | None,
    longest_text: int,
    min_count: int,
    words: tuple[str, ...],
) -> PairVocabulary:
    """The task's rows among ``words``, and its pairs as places among them; made once for tables of the same words."""
    source, target = own_words(dataset, data_dir, train_texts, min_count)
    known, source_place = known_rows(source, words)
    target_words = (*MARKS, *target)
    target_place = {word: index for index, word in enumerate(target_words)}
    splits = read_corpus(dataset, data_dir, train_texts)
    examples = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    pairs = {
        split: PairTexts(
            texts(one.tokens, lambda word: source_place.get(word, known.unknown), longest_text),
            texts(one.translations or (), lambda word: target_place.get(word, MARKS.index(UNKNOWN)), longest_text),
        )
        for split, one in examples.items()
    }
    seen = {word for one in examples.values() for sentence in one.tokens for word in sentence}
    return PairVocabulary(known.rows, known.unknown, target_words, pairs, len(seen - source_place.keys()))
