"""How often words stand near each other in a text, and the positive pointwise mutual information of those that do.

References: Church & Hanks 1990 (PMI); Levy, Goldberg & Dagan 2015 (positive PMI, smoothed contexts); Pennington, Socher &
Manning 2014 (a pair d words apart counts 1/d).

Shapes: T tokens of a text, V words that are counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from itertools import chain, repeat

import numpy as np
from scipy import sparse

from trainables.networks.vocabulary import frequent

_CHUNK_TOKENS = 1 << 22


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A text as numbers of its words.

    Words without a number take no place: their neighbours stand side by side, as GloVe counts.

    Attributes:
        words: V words, by their numbers.
        ids: (T,) int32 tokens.
        lines: (T,) int32 the line that each token is of.
    """

    words: Sequence[str]
    ids: np.ndarray
    lines: np.ndarray

    def renumbered(self, words: Sequence[str], place: np.ndarray) -> Text:
        """The same text with the numbers of other ``words``.

        Args:
            words: W words.
            place: (V,) int32 the number of each old word among them; negative where it has none.
        """
        ids = place[self.ids]
        inside = ids >= 0
        return Text(words, ids[inside], self.lines[inside])


def numbered(
    lines: Sequence[Sequence[str]], *, min_count: int, max_words: int | None, without: Collection[str] = ()
) -> Text:
    """A text as numbers of its words: the most frequent first, equally frequent ones in alphabetical order.

    Args:
        lines: tokens of every line.
        min_count: a word that stands in the text less often is left out.
        max_words: only so many words, the most frequent; None for all.
        without: tokens that are no words.
    """
    words = [word for word in frequent(lines, min_count) if word not in without][:max_words]
    place = {word: number for number, word in enumerate(words)}
    ids = np.fromiter(map(place.get, chain.from_iterable(lines), repeat(-1)), dtype=np.int32)
    line = np.repeat(np.arange(len(lines), dtype=np.int32), np.fromiter(map(len, lines), dtype=np.int64))
    inside = ids >= 0
    return Text(words, ids[inside], line[inside])


def cooccurrences(text: Text, *, window: int, weighting: str) -> sparse.csr_array:
    """How often each word stands near each other one: (V, V), symmetric, float64.

    Args:
        text: the text.
        window: words that are at most so far apart, in one line, stand near each other.
        weighting: whether a pair d words apart counts 1/d (``inverse``) or 1 (``flat``).
    """
    size = len(text.words)
    found = sparse.csr_array((size, size), dtype=np.float64)
    for start in range(0, len(text.ids), _CHUNK_TOKENS):
        for distance in range(1, window + 1):
            left = slice(start, min(start + _CHUNK_TOKENS, max(len(text.ids) - distance, start)))
            right = slice(left.start + distance, left.stop + distance)
            near = text.lines[left] == text.lines[right]
            weight = np.full(int(near.sum()), 1 / distance if weighting == "inverse" else 1.0)
            pairs = (text.ids[left][near], text.ids[right][near])
            # Adds up what is there twice.
            found = sparse.csr_array(found + sparse.csr_array((weight, pairs), shape=(size, size)))
    return sparse.csr_array(found + found.T)


def positive_pmi(counts: sparse.csr_array, *, smoothing: float, min_count: float = 0.0) -> sparse.coo_array:
    """The positive entries of the PMI matrix, log(p(w, c) / (p(w) p(c))) with the natural logarithm: (V, V), float32.

    Args:
        counts: (V, V) how often words stand near each other.
        smoothing: p(c) is proportional to the context's frequency to this power: 1 for plain PMI, less to make rare contexts
            count for less.
        min_count: pairs that count less are left out (their counts stay in p(w) and p(c)).
    """
    entries = sparse.coo_array(counts)
    of_word = np.asarray(counts.sum(axis=1)).reshape(-1)
    of_context = np.asarray(counts.sum(axis=0)).reshape(-1) ** smoothing
    of_context /= of_context.sum()
    rows, columns = entries.coords
    pmi = np.log(entries.data / (of_word[rows] * of_context[columns]))
    kept = (pmi > 0) & (entries.data >= min_count)
    return sparse.coo_array((pmi[kept].astype(np.float32), (rows[kept], columns[kept])), shape=counts.shape)
