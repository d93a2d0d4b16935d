"""The entries of a corpus's PMI matrix for the rows of a table: those that are trained on, and those that are held out.

Shapes: N rows of the table that is given, V rows of the task (its words that the table has), E entries, B of a batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from quantizers.base import generator
from quantizers.errors import InputError, unknown_name
from trainables.corpora import CORPORA
from trainables.corpora.base import read_lines
from trainables.task import word_rows
from trainables.tasks.pmi.counting import Text, cooccurrences, numbered, positive_pmi

# Marks of publishers that stand for no word.
_NO_WORDS = ("<unk>", "<eos>")


@dataclasses.dataclass(frozen=True)
class Counted:
    """What is counted, and how; see :class:`~trainables.tasks.pmi.task.PmiSettings`."""

    dataset: str
    lowercase: bool
    min_count: int
    max_words: int | None
    window: int
    weighting: str
    min_pair_count: float
    smoothing: float
    held_out: float
    negatives: float
    half: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Entries:
    """Entries of a PMI matrix.

    Attributes:
        words: (E,) int32 rows.
        contexts: (E,) int32 columns.
        values: (E,) float32: positive, or 0 for a pair that was drawn.
    """

    words: Tensor
    contexts: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, which: Tensor | slice) -> Entries:
        return Entries(self.words[which], self.contexts[which], self.values[which])

    def to(self, device: torch.device) -> Entries:
        """The same entries on ``device``."""
        return Entries(self.words.to(device), self.contexts.to(device), self.values.to(device))

    def with_drawn(self, share: float, size: int, random: torch.Generator) -> Entries:
        """These entries and ``share`` x as many pairs of any two of ``size`` words, whose value is said to be 0.

        Reference: negative sampling (Mikolov et al. 2013); nearly no such pair stands near each other.
        """
        count = round(share * len(self))
        if not count:
            return self
        drawn = torch.randint(size, (2, count), dtype=torch.int32, generator=random)
        sides = (torch.cat([self.words, drawn[0]]), torch.cat([self.contexts, drawn[1]]))
        return Entries(*sides, torch.cat([self.values, torch.zeros(count)]))

    def batches(self, batch_size: int) -> Iterator[Entries]:
        """All entries once, as they stand."""
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]

    def shuffled(self, batch_size: int, negatives: float, size: int, order: torch.Generator) -> Iterator[Entries]:
        """All entries once in an order that is drawn, each batch with drawn pairs (:meth:`with_drawn`)."""
        places = torch.randperm(len(self), generator=order)
        for start in range(0, len(self), batch_size):
            yield self[places[start : start + batch_size]].with_drawn(negatives, size, order)


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """A corpus's PMI matrix over the rows of a table.

    Attributes:
        rows: (V,) int64 rows of the table, rising.
        counts: (V,) int64 how often the corpus has each word.
        train: entries to train on.
        dev: entries to choose by.
        test: entries to report on.
        oov_words: words of the corpus, frequent enough, that the table lacks; they take no part.
    """

    rows: Tensor
    counts: np.ndarray
    train: Entries
    dev: Entries
    test: Entries
    oov_words: int

    def take(self, dense: Tensor) -> Tensor:
        """The task's rows (V, D) of a table (N, D)."""
        return dense[self.rows.to(dense.device)]


def corpus_files(dataset: str, data_dir: Path | None) -> list[Path]:
    """The files of a corpus: of a published one by its name, or a text file, as given or under the data folder.

    Raises:
        InputError: there is no such corpus, or a file is missing.
    """
    if dataset in CORPORA:
        return CORPORA[dataset].files(data_dir)
    for path in [Path(dataset), *([data_dir / dataset] if data_dir is not None else [])]:
        if path.is_file():
            return [path]
    if "/" in dataset or "." in dataset:
        raise InputError(f"Task pmi: there is no text file {dataset}, as given or under the data folder ({data_dir}).")
    raise unknown_name("corpus or text file", dataset, CORPORA)


@functools.lru_cache(maxsize=2)
def own_text(dataset: str, data_dir: Path | None, lowercase: bool, min_count: int, max_words: int | None) -> Text:
    """The training texts of a corpus, or a text file, as numbers of their words; what stands between spaces is a word."""
    files = corpus_files(dataset, data_dir)
    if dataset in CORPORA:
        lines = [" ".join(line) for line in CORPORA[dataset].read(data_dir).train.tokens]
    else:
        lines = read_lines(files[0])
    tokens = [(line.lower() if lowercase else line).split() for line in lines]
    return numbered(tokens, min_count=min_count, max_words=max_words, without=_NO_WORDS)


@functools.lru_cache(maxsize=2)
def matrix_of(data_dir: Path | None, counted: Counted, words: tuple[str, ...]) -> Matrix:
    """The PMI matrix over the rows of a table with these ``words``; made once for tables of the same words.

    A word of the corpus is looked up as it stands, then in lower case.
    """
    text = own_text(counted.dataset, data_dir, counted.lowercase, counted.min_count, counted.max_words)
    found = list(map(word_rows(words), text.words))
    rows = sorted({row for row in found if row is not None})
    number = {row: place for place, row in enumerate(rows)}
    place = np.array([-1 if row is None else number[row] for row in found], dtype=np.int32)
    text = text.renumbered([words[row] for row in rows], place)
    counts = cooccurrences(text, window=counted.window, weighting=counted.weighting)
    pmi = positive_pmi(counts, smoothing=counted.smoothing, min_count=counted.min_pair_count)
    draws = _draws(*pmi.coords, size=len(rows))
    inside = pmi.coords[0] <= pmi.coords[1] if counted.half else np.ones(pmi.nnz, dtype=bool)
    share, drawn = counted.held_out, (counted.negatives, len(rows))
    return Matrix(
        rows=torch.tensor(rows, dtype=torch.int64),
        counts=np.bincount(text.ids, minlength=len(rows)),
        train=_some(pmi, inside & (draws >= 2 * share)),
        dev=_some(pmi, inside & (draws < share)).with_drawn(*drawn, generator(0, 1)),
        test=_some(pmi, inside & (draws >= share) & (draws < 2 * share)).with_drawn(*drawn, generator(0, 2)),
        oov_words=found.count(None),
    )


def _draws(rows: np.ndarray, columns: np.ndarray, *, size: int) -> np.ndarray:
    """A number in [0, 1) for each entry: (E,), by splitmix64 (Steele, Lea & Flood 2014).

    It is the same for (i, j) and (j, i): to hold out one of them and train on the other would be no test.
    """
    key = np.minimum(rows, columns).astype(np.uint64) * np.uint64(size) + np.maximum(rows, columns).astype(np.uint64)
    key *= np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ key >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ key >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.asarray((key ^ key >> np.uint64(31)).astype(np.float64) / 2.0**64)


def _some(pmi: sparse.coo_array, which: np.ndarray) -> Entries:
    rows, columns = (torch.from_numpy(np.asarray(side[which], dtype=np.int32)) for side in pmi.coords)
    return Entries(rows, columns, torch.from_numpy(pmi.data[which]))
