"""The best continuation of many texts at once: greedy and beam search with kept states.

Shapes: B texts, K hypotheses of each (the beam), R = B * K rows, V words, T tokens.

A hypothesis that ends is worth the sum of its log-probabilities divided by (its tokens with the end mark) ** ``penalty``
(Wu et al. 2016, in the simple form that most toolkits have). A text is finished when K hypotheses have ended, or when none
that goes on can become better than the best that ended.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Continues(Protocol):
    """What gives the next words: it keeps the states of R rows between steps."""

    def __call__(self, words: Tensor, place: int, origin: Tensor) -> Tensor:
        """Log-probabilities (R, V) of what follows.

        Args:
            words: (R,) the last words.
            place: how many words stand before them.
            origin: (R,) which row of the last step each row goes on from; at the first step, which text.
        """


def beam_search(
    continues: Continues, longest: Tensor, *, beam: int, start: int, end: int, penalty: float
) -> list[list[int]]:
    """The best translation found of each text, without marks.

    Args:
        continues: gives the next words' log-probabilities.
        longest: (B,) the most words of each text's hypotheses, the end mark not counted.
        beam: K; 1 is greedy search.
        start: the first word of all.
        end: the word that ends a hypothesis.
        penalty: exponent of the length.
    """
    device, count = longest.device, len(longest)
    most = int(longest.max())
    best = torch.full((count, most), end, device=device)
    best_size = torch.zeros(count, dtype=torch.int64, device=device)
    best_worth = torch.full((count,), -torch.inf, device=device)
    ended = torch.zeros(count, dtype=torch.int64, device=device)
    texts = torch.arange(count, device=device)  # those that are not finished, (B,)
    words = torch.full((count, 0), start, dtype=torch.int64, device=device)  # of R rows, without the start mark
    last, origin = torch.full((count,), start, device=device), texts
    sums = torch.zeros(count, 1, device=device)  # (B, 1) at first, then (B, K)
    for place in range(most + 1):
        scores = continues(last, place, origin).float().view(len(texts), sums.shape[1], -1)
        num_words = scores.shape[2]
        closing = (longest[texts] <= place)[:, None, None]  # no word but the end mark is left
        others = torch.arange(num_words, device=device) != end
        scores = torch.where(closing & others, -torch.inf, scores) + sums[:, :, None]
        top, where = scores.flatten(1).topk(min(2 * beam, scores[0].numel()), dim=1)
        rows, found = where // num_words, where % num_words
        ends = (found == end) & (top > -torch.inf)
        # Of the 2 K best, those among the first K that end are done; the K best of the others go on.
        worth = torch.where(ends, top / (place + 1) ** penalty, -torch.inf)
        worth[:, beam:] = -torch.inf
        own_worth, own = worth.max(dim=1)
        ended[texts] += ends[:, :beam].sum(dim=1)
        base = torch.arange(len(texts), device=device)[:, None] * sums.shape[1]
        better = own_worth > best_worth[texts]
        best[texts[better], :place] = words[(base + rows).gather(1, own[:, None])[better, 0]]
        best_size[texts[better]] = place
        best_worth[texts] = torch.maximum(best_worth[texts], own_worth)
        going = torch.where(found == end, -torch.inf, top)
        sums, kept = going.topk(min(beam, going.shape[1]), dim=1)
        # The best that may still come: nothing more is lost, and the length is the one that flatters it most.
        hoped = sums[:, 0] / torch.where(sums[:, 0] < 0, longest[texts] + 1, place + 2) ** penalty
        goes_on = (hoped > best_worth[texts]) & (ended[texts] < beam) & (sums[:, 0] > -torch.inf)
        if not goes_on.any():
            break
        origin = (base + rows).gather(1, kept)[goes_on].flatten()
        last = found.gather(1, kept)[goes_on].flatten()
        words = torch.cat([words[origin], last[:, None]], dim=1)
        texts, sums = texts[goes_on], sums[goes_on]
    return [words[:size] for words, size in zip(best.tolist(), best_size.tolist(), strict=True)]
