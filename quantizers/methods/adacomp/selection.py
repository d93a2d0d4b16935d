"""Which code-book a row has: what steers the selector, and what keeps a size exactly.

None of it is the paper's. Its loss knows no size, and a longer code-book rebuilds every row better: trained to the end, the
selector of equation 1 takes the longest for all of them, with a lead that no later gradient overcomes. Two terms are added
to the loss, in pretraining (for each row of a batch) and in the training with a task alike:

- **load**: balance x C x sum over k of f_k p_k, f the shares of the hard selection and p the means of alpha / sum alpha, as
  for mixtures of experts (Fedus et al. 2021, equation 4). The more rows have a code-book, the more a row must gain by it;
  rows that gain little take another. By f it is felt where all code-books are about as likely, too.
- **rate**, where a size is to be kept by the selector: lambda x expected bits a row / allowed bits a row. lambda is the
  multiplier of a constraint that is to hold with equality, bits being there to be used: it is steered to where the hard
  selection takes as many as are allowed, by a controller with a proportional and an integral part, and may fall below 0.

Both are means over rows drawn evenly from the whole table, since every row takes its bits in the file, however often a text
has it.

Shapes: N rows, B rows drawn, C code-books.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SAMPLE_ROWS = 512
# lambda is sinh of what the controller gives, times this: signed, and right for losses of any size within its bounds.
_SMALLEST_RATE = 1e-3
_LARGEST = 15.0
_PROPORTIONAL, _INTEGRAL = 5.0, 0.1  # the first keeps the second from swinging


class SelectionTerms(nn.Module):
    """What is added to a loss for the sake of the selection.

    Args:
        code_lengths: bits of each code-book.
        balance: weight of the load term.
        bits_a_row: what a row may take on average; None for no rate term.

    Attributes:
        steering: the integral part of the controller; every call in training mode moves it.
    """

    bits: Tensor
    steering: Tensor

    def __init__(self, code_lengths: Sequence[int], balance: float, bits_a_row: float | None) -> None:
        super().__init__()
        self.balance, self.bits_a_row = balance, bits_a_row
        self.register_buffer("bits", torch.tensor(code_lengths, dtype=torch.float32), persistent=False)
        self.register_buffer("steering", torch.zeros(()))

    def forward(self, log_alpha: Tensor) -> Tensor:
        """Load and rate term of rows whose log alpha is given: (B, C) -> ()."""
        count = len(self.bits)
        chosen = log_alpha.argmax(dim=1)
        mean = torch.softmax(log_alpha, dim=1).mean(dim=0)
        total: Tensor = self.balance * count * (torch.bincount(chosen, minlength=count) / len(chosen)) @ mean
        if self.bits_a_row is None:
            return total
        excess = float(self.bits[chosen].mean()) / self.bits_a_row - 1.0
        excess = min(1.0, max(-1.0, excess))
        if self.training:
            with torch.no_grad():
                self.steering.add_(_INTEGRAL * excess).clamp_(-_LARGEST, _LARGEST)
        return total + self.rate(excess) * (mean @ self.bits) / self.bits_a_row

    def rate(self, excess: float = 0.0) -> float:
        """Lambda, where the hard selection takes ``excess`` more than is allowed, as a share of that."""
        return _SMALLEST_RATE * math.sinh(float(self.steering) + _PROPORTIONAL * excess)


def allocate(costs: Tensor, code_lengths: Sequence[int], max_bits: int) -> Tensor:
    """A code-book for every row, so that the sum of costs is small and all rows together take ``max_bits`` at the most.

    Minimizes cost + mu * bits row by row; mu, the same for all rows, is the smallest that keeps the size (by bisection).
    That is the least sum of costs for the size that comes out.

    Args:
        costs: (N, C) of every row in every code-book.
        code_lengths: bits of each code-book.
        max_bits: not less than every row in the shortest code-book takes.

    Returns:
        (N,) int64.
    """
    bits = torch.tensor(code_lengths, device=costs.device)

    def choose(mu: float) -> tuple[Tensor, int]:
        books = (costs + mu * bits).argmin(dim=1)
        return books, int(bits[books].sum())

    # One bit more or less is worth no more than all that a row can gain; beyond that only the lengths count.
    high = 2 * float(costs.max() - costs.min()) + 1e-30
    low = 0.0
    best, total = choose(low)
    if total <= max_bits:
        return best
    best = torch.full_like(best, int(bits.argmin()))
    for _ in range(60):
        middle = 0.5 * (low + high)
        books, total = choose(middle)
        if total <= max_bits:
            best, high = books, middle
        else:
            low = middle
    return best


def shares(books: Tensor, count: int) -> dict[str, float]:
    """Share of the rows in each of ``count`` code-books, by the name of its curve: figure 2 of the paper."""
    counts = torch.bincount(books, minlength=count).tolist()
    return {f"share_book_{book}": rows / len(books) for book, rows in enumerate(counts)}
