"""PMI factorization: counting against brute force, entries and losses by hand, training on a text of two topics."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.tasks.pmi import counting
from trainables.tasks.pmi.counting import cooccurrences, numbered, positive_pmi
from trainables.tasks.pmi.factorization import LOSSES


def by_hand(lines, window, weighting):
    """Counts by pairs of words, in plain Python."""
    found: Counter[tuple[str, str]] = Counter()
    for line in lines:
        for place, word in enumerate(line):
            for distance in range(1, window + 1):
                if place + distance < len(line):
                    weight = 1 / distance if weighting == "inverse" else 1.0
                    found[word, line[place + distance]] += weight
                    found[line[place + distance], word] += weight
    return found


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), max_size=6),
    window=st.integers(1, 4),
    weighting=st.sampled_from(["inverse", "flat"]),
    chunk=st.integers(1, 12),
    min_count=st.integers(1, 3),
    max_words=st.none() | st.integers(1, 4),
)
def test_counts_are_those_of_a_plain_loop(lines, window, weighting, chunk, min_count, max_words):
    whole, counting._CHUNK_TOKENS = counting._CHUNK_TOKENS, chunk
    try:
        text = numbered(lines, min_count=min_count, max_words=max_words)
        found = cooccurrences(text, window=window, weighting=weighting).toarray()
    finally:
        counting._CHUNK_TOKENS = whole
    often = Counter(word for line in lines for word in line)
    expected = sorted((word for word in often if often[word] >= min_count), key=lambda word: (-often[word], word))
    assert list(text.words) == expected[:max_words]
    assert text.counts.tolist() == [often[word] for word in text.words]
    pairs = by_hand([[word for word in line if word in text.words] for line in lines], window, weighting)
    for row, word in enumerate(text.words):
        for column, other in enumerate(text.words):
            assert found[row, column] == pytest.approx(pairs[word, other])


def test_pmi_by_hand():
    # Pairs side by side: a-b twice, b-c once. With both directions a: 2, b: 3, c: 1 of 6.
    text = numbered([["a", "b"], ["b", "a"], ["b", "c"]], min_count=1, max_words=None)
    assert list(text.words) == ["b", "a", "c"]
    counts = cooccurrences(text, window=2, weighting="inverse")
    assert counts.toarray().tolist() == [[0, 2, 1], [2, 0, 0], [1, 0, 0]]
    pmi = positive_pmi(counts, smoothing=1.0).toarray()
    assert pmi[0, 1] == pmi[1, 0] == pytest.approx(math.log((2 / 6) / ((3 / 6) * (2 / 6))))
    assert pmi[0, 2] == pytest.approx(math.log(2)) and pmi[1, 2] == pmi[0, 0] == 0
    # Contexts smoothed to the power 0: each of the three has a third.
    flat = positive_pmi(counts, smoothing=0.0).toarray()
    assert flat[1, 0] == pytest.approx(math.log(3)) and flat[0, 1] == pytest.approx(math.log(2 / 3 * 3))
    assert flat[0, 2] == 0  # 1/3 of b's neighbours are c: log 1


def test_losses_by_hand():
    predicted, values = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 200.0])
    low = (2 / 100) ** 0.75
    assert LOSSES["glove_pmi"](predicted, values).item() == pytest.approx((low * 1 + 1 * 200**2) / 2)
    log = [1 - math.log(2), math.log(200)]
    assert LOSSES["glove_log_pmi"](predicted, values).item() == pytest.approx((low * log[0] ** 2 + log[1] ** 2) / 2)
    assert LOSSES["mse_log_pmi"](predicted, values).item() == pytest.approx((log[0] ** 2 + log[1] ** 2) / 2)
    # A value of 0 weighs nothing in GloVe's losses; its logarithm is that of 1e-9.
    zero = torch.zeros(1)
    assert LOSSES["glove_log_pmi"](zero, zero).item() == 0
    assert LOSSES["mse_log_pmi"](zero, zero).item() == pytest.approx(math.log(1e-9) ** 2)
