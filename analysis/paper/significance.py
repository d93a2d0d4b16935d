"""Whether words of one kind are in a code-book more often than others are: Fisher's exact test and the odds ratio.

A 2 x 2 table has, from left to right, words in the code-book and words elsewhere; its first line is of the words in
question, its second of all others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from analysis.statistics import LEVEL, t_interval

Counts = tuple[tuple[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class OverRepresentation:
    """An odds ratio (above 1: more often) with its 95 % interval, and the probability of as many by chance."""

    odds_ratio: float
    low: float
    high: float
    p: float


def exact(counts: Counts) -> OverRepresentation:
    """Of one table: the conditional estimate of the odds ratio, its exact interval, Fisher's exact test, one-sided."""
    table = np.array(counts, dtype=np.int64)
    p = float(stats.fisher_exact(table, alternative="greater").pvalue)
    found = stats.contingency.odds_ratio(table)
    low, high = found.confidence_interval(LEVEL)
    return OverRepresentation(float(found.statistic), float(low), float(high), p)


def combined(tables: Sequence[Counts]) -> OverRepresentation:
    """Of several seeds: the geometric mean of their odds ratios, its t interval over seeds, and the largest of their p.

    The seeds share their words, so that their p are not independent and cannot be multiplied; the largest claims no more
    than the weakest seed shows. Half a word is added to every count, so that no odds are 0 or infinite. The interval is of
    what another training would give; with one or two seeds there is none (NaN).
    """
    logs = [float(np.log((a + 0.5) * (d + 0.5) / ((b + 0.5) * (c + 0.5)))) for (a, b), (c, d) in tables]
    middle, low, high = (float(np.exp(value)) for value in t_interval(logs))
    return OverRepresentation(middle, low, high, max(exact(table).p for table in tables))
