"""Word analogies: a is to b as c is to ?, answered by 3CosAdd.

Reference: Mikolov et al. 2013 (the questions, ``questions-words.txt``); Levy & Goldberg 2014 (3CosAdd):
argmax over w not in {a, b, c} of cos(w, b) - cos(w, a) + cos(w, c).
Shapes: Q questions, U different words in them, V rows of the vocabulary.

Data: ``wordsim/questions-words.txt`` under the data folder. As is usual, answers are looked for among the first 30,000 rows
(the most frequent words), and questions with a word that is not among them are left out; a word is looked up as it stands,
then in lower case. Of equally good answers the first in the table is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Skip
from quantizers.errors import InputError
from quantizers.table import Table
from trainables.task import Baseline, DownstreamTask, Metric, Score, TaskSettings, unit_rows, word_rows

_FILE = "wordsim/questions-words.txt"
_SOURCE = "the word2vec distribution"
_CHUNK_ROWS = 1 << 11
_CHUNK_QUESTIONS = 1 << 7


class AnalogySettings(TaskSettings):
    """Which questions are asked.

    Attributes:
        vocabulary: V, rows among which answers are looked for, from the first.
    """

    vocabulary: int = Field(default=30_000, ge=4)


class Analogy(DownstreamTask):
    """Share of word analogies that are answered right."""

    name = "analogy"
    metrics = (
        Metric("accuracy", "max", description="share of all questions"),
        Metric("semantic", "max", description="share of the questions about the world (capitals, currencies, family)"),
        Metric("syntactic", "max", description="share of the questions about word forms"),
    )
    Settings: ClassVar[type[TaskSettings]] = AnalogySettings

    def data_files(self) -> Sequence[Path]:
        """The questions."""
        return [self.find_data(_FILE, _SOURCE)]

    def check(self, table: Table) -> Skip | None:
        """The table must know the words of a question."""
        if table.words is None:
            return Skip("the table has no words")
        questions, _ = self._known_questions(table)
        return None if len(questions) else Skip("the table knows all four words of no analogy question")

    def baseline(self, table: Table, *, seed: int) -> Baseline:
        """Accuracy of the original; the known questions are kept in the arrays."""
        questions, syntactic = self._known_questions(table)
        arrays = {"questions": questions, "syntactic": syntactic}
        return Baseline(self._scores(table.vectors, questions, syntactic), arrays)

    def score(self, dense: Tensor, table: Table, baseline: Baseline, *, seed: int) -> dict[str, Score]:
        """Accuracy of the reconstruction on the same questions."""
        return self._scores(dense, baseline.arrays["questions"], baseline.arrays["syntactic"])

    def _known_questions(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """(Q, 4) int64 row numbers, and (Q,) whether a question is about word forms."""
        find = word_rows(table.head(self.settings.vocabulary).words)
        questions: list[list[int]] = []
        kinds: list[bool] = []
        path, syntactic = self.data_files()[0], False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.startswith(":"):
                syntactic = line.removeprefix(":").strip().startswith("gram")
                continue
            words = line.split()
            if len(words) not in (0, 4):
                raise InputError(f"{path}:{number}: expected four words, not {line!r}.")
            rows = [row for row in map(find, words) if row is not None]
            if len(rows) == 4:
                questions.append(rows)
                kinds.append(syntactic)
        return np.array(questions, dtype=np.int64).reshape(-1, 4), np.array(kinds, dtype=bool)

    def _scores(self, vectors: Tensor, questions: np.ndarray, syntactic: np.ndarray) -> dict[str, Score]:
        right = answers(vectors[: self.settings.vocabulary], questions[:, :3]) == questions[:, 3]
        parts = {"accuracy": right, "semantic": right[~syntactic], "syntactic": right[syntactic]}
        return {name: Score(float(part.mean()), len(part)) for name, part in parts.items() if len(part)}


def answers(vectors: Tensor, questions: np.ndarray) -> np.ndarray:
    """3CosAdd.

    Args:
        vectors: (V, D).
        questions: (Q, 3) int64 rows of a, b and c.

    Returns:
        (Q,) int64 row of each answer.
    """
    used, positions = np.unique(questions, return_inverse=True)
    places = torch.from_numpy(positions.reshape(questions.shape)).to(vectors.device)
    asked = torch.from_numpy(questions).to(vectors.device)
    # A question is a sum of three rows of one (U, V) product: far fewer multiplications than a (Q, V) product of its own.
    directions = unit_rows(vectors[torch.from_numpy(used).to(vectors.device)])
    best = torch.full((len(questions),), -torch.inf, device=vectors.device)
    answer = torch.zeros(len(questions), dtype=torch.int64, device=vectors.device)
    for start in range(0, len(vectors), _CHUNK_ROWS):
        part = unit_rows(vectors[start : start + _CHUNK_ROWS])
        cosines = (directions @ part.T).to(torch.float32)  # rounded: its last bits would depend on the library
        for first in range(0, len(questions), _CHUNK_QUESTIONS):
            rows = slice(first, first + _CHUNK_QUESTIONS)
            a, b, c = places[rows].T
            scores = cosines[b] - cosines[a] + cosines[c]
            inside = asked[rows] - start
            question, which = torch.nonzero((inside >= 0) & (inside < len(part)), as_tuple=True)
            scores[question, inside[question, which]] = -torch.inf
            place = scores.argmax(dim=1)  # the first of equals
            value = scores.gather(1, place[:, None])[:, 0]
            better = value > best[rows]
            answer[rows] = torch.where(better, place + start, answer[rows])
            best[rows] = torch.where(better, value, best[rows])
    return np.asarray(answer.cpu().numpy())
