"""The network of AdaComp: code-book selector and one tied binary autoencoder a code-book.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), sections 3.1 to 3.4.
Equations: alpha = softplus(theta^T tanh(theta'^T e + b') + b) (1); u = softmax((log alpha + Gumbel noise) / tau) (2);
e'_k = W_k phi(W_k^T e + b_k) + b'_k, phi(x) = 1[x >= 0] (3), its gradient passed where its magnitude is at most 1 (4);
o = sum_k u_k e'_k (5); P = sum_k |W_k^T W_k - I|^2 (6); L_task + lambda P (7); L_pre = sum_w |o_w - e_w|^2 (8).

Everything is computed on rows divided by the network's unit, see :func:`unit`. All code-books' bits stand side by side, so
that the sum over k is one product. Here W_k^T is stored, a row a bit.

Shapes: N rows, D columns, B batch, C code-books, n_k bits of code-book k, T = sum of all n_k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantizers.fitting.minibatches import chunks, moments
from quantizers.methods.binary import fit_lengths, frames

UNIT_DEVIATION = 0.4  # of GloVe's 300-d vectors, which the paper's learning rate, lambda and rule (4) are meant for


class Threshold(torch.autograd.Function):
    """phi of equation 3, or sign (footnote 2 of the paper), with the gradient of equation 4."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float) -> Tensor:
        """1 where x >= 0, else ``low``."""
        return torch.where(x >= 0, 1.0, low)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient as it comes, where its magnitude is at most 1; 0 elsewhere."""
        (gradient,) = gradients
        return gradient * (gradient.abs() <= 1), None


def _threshold(x: Tensor, low: float) -> Tensor:
    return cast(Tensor, Threshold.apply(x, low))  # type: ignore[no-untyped-call]


def unit(vectors: Tensor) -> tuple[Tensor, float]:
    """Mean (D,), and the number to divide a table by so that it deviates by as much as the paper's vectors do.

    That makes the method indifferent to the scale of a table. 0 where all rows are equal.
    """
    mean, deviation, _ = moments(vectors)
    return mean, deviation / UNIT_DEVIATION


def annealed(first: float, last: float, fraction: float) -> float:
    """A temperature that falls geometrically from ``first`` to ``last``."""
    return float(first * (last / first) ** min(1.0, max(0.0, fraction)))


class AdaCompNetwork(nn.Module):
    """Selector and autoencoders; inputs and outputs are rows divided by the table's unit.

    Args:
        code_lengths: bits of each code-book.
        embedding_dim: D.
        signs: codes are -1 and 1 instead of 0 and 1.
        unit: what the table is divided by.
    """

    book_of_bit: Tensor

    def __init__(self, code_lengths: Sequence[int], embedding_dim: int, *, signs: bool, unit: float = 1.0) -> None:
        super().__init__()
        self.code_lengths = list(code_lengths)
        self.low = -1.0 if signs else 0.0
        self.unit = unit
        count, total = len(self.code_lengths), sum(self.code_lengths)
        self.hidden = nn.Parameter(torch.zeros(embedding_dim, embedding_dim))
        self.hidden_bias = nn.Parameter(torch.zeros(embedding_dim))
        self.choice = nn.Parameter(torch.zeros(embedding_dim, count))
        self.choice_bias = nn.Parameter(torch.full((count,), math.log(math.e - 1)))  # softplus of it is 1
        self.weights = nn.Parameter(torch.zeros(total, embedding_dim))
        self.encoder_bias = nn.Parameter(torch.zeros(total))
        self.decoder_bias = nn.Parameter(torch.zeros(count, embedding_dim))
        book_of_bit = torch.repeat_interleave(torch.arange(count), torch.tensor(self.code_lengths))
        self.register_buffer("book_of_bit", book_of_bit, persistent=False)

    def selector(self) -> list[nn.Parameter]:
        """The parameters of equation 1."""
        return [self.hidden, self.hidden_bias, self.choice, self.choice_bias]

    def autoencoders(self) -> list[nn.Parameter]:
        """The parameters of equation 3."""
        return [self.weights, self.encoder_bias, self.decoder_bias]

    def log_alpha(self, e: Tensor) -> Tensor:
        """Logarithm of equation 1: (B, D) -> (B, C)."""
        hidden = torch.tanh(torch.addmm(self.hidden_bias, e, self.hidden))
        return torch.log(functional.softplus(torch.addmm(self.choice_bias, hidden, self.choice)) + 1e-8)

    @staticmethod
    def select(log_alpha: Tensor, tau: float, random: torch.Generator) -> Tensor:
        """Equation 2: (B, C) -> (B, C)."""
        uniform = torch.rand(log_alpha.shape, generator=random).clamp(1e-9, 1 - 1e-7).to(log_alpha.device)
        return torch.softmax((log_alpha - torch.log(-torch.log(uniform))) / tau, dim=1)

    def code(self, e: Tensor) -> Tensor:
        """Codes of all code-books, not packed: (B, D) -> (B, T) of 1 and ``low``."""
        return _threshold(torch.addmm(self.encoder_bias, e, self.weights.T), self.low)

    def forward(self, e: Tensor, selection: Tensor) -> Tensor:
        """Equation 5: e (B, D) and u (B, C) -> o (B, D)."""
        return torch.addmm(selection @ self.decoder_bias, self.code(e) * selection[:, self.book_of_bit], self.weights)

    def one_book(self, e: Tensor, books: Tensor) -> Tensor:
        """Equation 5 where u says one code-book for each row, books (B,): the others are not computed."""
        order = books.argsort(stable=True)
        counts = torch.bincount(books, minlength=len(self.code_lengths)).tolist()
        weights = torch.split(self.weights, self.code_lengths)
        biases = torch.split(self.encoder_bias, self.code_lengths)
        rows = []
        for book, part in enumerate(torch.split(e[order], counts)):
            code = _threshold(torch.addmm(biases[book], part, weights[book].T), self.low)
            rows.append(torch.addmm(self.decoder_bias[book], code, weights[book]))
        return torch.cat(rows)[order.argsort()]

    def penalty(self) -> Tensor:
        """Equation 6, summed over the code-books."""
        total = self.weights.new_zeros(())
        for weights in torch.split(self.weights, self.code_lengths):
            bits, dim = weights.shape
            # The two Gram matrices have the same eigenvalues but for |n - D| zeros, each of which adds 1.
            gram = weights @ weights.T if bits <= dim else weights.T @ weights
            total = total + (gram - torch.eye(len(gram), device=gram.device)).square().sum() + max(0, bits - dim)
        return total

    @torch.no_grad()
    def start(self, sample: Tensor, random: torch.Generator) -> None:
        """Orthonormal directions, balanced bits, and lengths and biases b' by least squares on ``sample`` (B, D)."""
        dim = sample.shape[1]
        mean = sample.mean(dim=0)
        first = 0
        for book, bits in enumerate(self.code_lengths):
            directions = frames(bits, dim, random).to(sample.device)
            code = ((sample - mean) @ directions.T >= 0).to(torch.float32)
            lengths, bias = fit_lengths(directions, code, sample)
            if self.low:  # a step from -1 to 1 is two steps from 0 to 1
                lengths = 0.5 * lengths
                bias = bias + lengths @ directions
            part = slice(first, first + bits)
            self.weights[part] = directions * lengths[:, None]
            self.encoder_bias[part] = -self.weights[part] @ mean
            self.decoder_bias[book] = bias
            first += bits
        # Random theta and theta', small enough that no code-book is preferred.
        count, device = self.choice.shape[1], self.choice.device
        self.hidden.copy_((torch.randn((dim, dim), generator=random) / math.sqrt(dim)).to(device))
        self.choice.copy_((0.1 * torch.randn((dim, count), generator=random) / math.sqrt(dim)).to(device))

    @torch.no_grad()
    def errors(self, vectors: Tensor) -> Tensor:
        """Squared error of every row in every code-book, in units of the network: table rows (N, D) -> (N, C)."""
        out = torch.empty((len(vectors), len(self.code_lengths)), device=vectors.device)
        for rows, part in chunks(vectors, len(self.weights) + vectors.shape[1]):
            e = part / self.unit
            codes = torch.split(self.code(e), self.code_lengths, dim=1)
            for book, (code, weights) in enumerate(zip(codes, torch.split(self.weights, self.code_lengths), strict=True)):
                out[rows, book] = (torch.addmm(self.decoder_bias[book], code, weights) - e).square().sum(dim=1)
        return out

    @torch.no_grad()
    def costs(self, vectors: Tensor) -> Tensor:
        """How little the selector wants each code-book, -log alpha: table rows (N, D) -> (N, C)."""
        parts = [-self.log_alpha(part / self.unit) for _, part in chunks(vectors, 2 * vectors.shape[1])]
        return torch.cat(parts)
