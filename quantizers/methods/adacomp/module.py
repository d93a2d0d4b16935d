"""The network of AdaComp: code-book selector and one tied binary autoencoder a code-book; training it with a task.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), sections 3.1 to 3.4.
Equations: alpha = softplus(theta^T tanh(theta'^T e + b') + b) (1); u = softmax((log alpha + Gumbel noise) / tau) (2);
e'_k = W_k phi(W_k^T e + b_k) + b'_k, phi(x) = 1[x >= 0] (3), its gradient passed where its magnitude is at most 1 (4);
o = sum_k u_k e'_k (5); P = sum_k |W_k^T W_k - I|^2 (6); L_task + lambda P (7); L_pre = sum_w |o_w - e_w|^2 (8).

Everything is computed on e / scale: see :func:`unit`. All code-books' bits stand side by side, so that the sum over k is one
product. Here W_k^T is stored, a row a bit.

Shapes: N rows, D columns, B batch, C code-books, n_k bits of code-book k, T = sum of all n_k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantizers.base import Quantizer, generator
from quantizers.fitting.minibatches import chunks, moments
from quantizers.learned import LearnedEmbedding
from quantizers.methods.binary import fit_lengths, frames
from quantizers.table import Table

_PRIOR_MARGIN = 1.0  # by how much at the least log alpha of a row's own code-book is above the others' at the start
_UNIT_DEVIATION = 0.4  # of GloVe's 300-d vectors, which the paper's learning rate, lambda and rule (4) are meant for


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
    return mean, deviation / _UNIT_DEVIATION


def annealed(first: float, last: float, fraction: float) -> float:
    """A temperature that falls geometrically from ``first`` to ``last``."""
    return float(first * (last / first) ** min(1.0, max(0.0, fraction)))


class AdaCompNetwork(nn.Module):
    """Selector and autoencoders; inputs and outputs are rows divided by the table's unit.

    Args:
        code_lengths: bits of each code-book.
        embedding_dim: D.
        signs: codes are -1 and 1 instead of 0 and 1.
    """

    book_of_bit: Tensor

    def __init__(self, code_lengths: Sequence[int], embedding_dim: int, *, signs: bool) -> None:
        super().__init__()
        self.code_lengths = list(code_lengths)
        self.low = -1.0 if signs else 0.0
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

    def log_alpha(self, e: Tensor) -> Tensor:
        """Logarithm of equation 1: (B, D) -> (B, C)."""
        hidden = torch.tanh(torch.addmm(self.hidden_bias, e, self.hidden))
        return torch.log(functional.softplus(torch.addmm(self.choice_bias, hidden, self.choice)) + 1e-8)

    def select(self, e: Tensor, tau: float, random: torch.Generator, prior: Tensor | None = None) -> Tensor:
        """Equation 2, with ``prior`` (B, C) added to log alpha: (B, D) -> (B, C)."""
        log_alpha = self.log_alpha(e) if prior is None else self.log_alpha(e) + prior
        uniform = torch.rand(log_alpha.shape, generator=random).clamp(1e-9, 1 - 1e-7).to(e.device)
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
        self.start_selector(random)

    @torch.no_grad()
    def start_selector(self, random: torch.Generator) -> None:
        """Random theta and theta', small enough that no code-book is preferred."""
        dim, count = self.choice.shape
        device = self.choice.device
        self.hidden.copy_((torch.randn((dim, dim), generator=random) / math.sqrt(dim)).to(device))
        self.choice.copy_((0.1 * torch.randn((dim, count), generator=random) / math.sqrt(dim)).to(device))

    @torch.no_grad()
    def restore(
        self, vectors: Tensor, books: Tensor, row_bits: Callable[[Tensor, int], Tensor], decoder: Tensor, bias: Tensor
    ) -> float:
        """Make the autoencoders those that a stored state came from; returns the table's unit.

        A threshold lies anywhere between the rows whose bit is 0 and those whose bit is 1: half-way is as good as what was.

        Args:
            vectors: (N, D), the table.
            books: (N,) int64, the code-book of each row.
            row_bits: gives the bits (B, n_k) of rows of one code-book.
            decoder: (T, D) as stored.
            bias: (C, D) as stored.
        """
        mean, scale = unit(vectors)
        scale = scale or 1.0
        self.weights.copy_(decoder / ((1.0 - self.low) * scale))
        thresholds = []
        for book, part in enumerate(torch.split(self.weights, self.code_lengths)):
            self.decoder_bias[book] = bias[book] / scale - self.low * part.sum(dim=0)
            zeros, ones = torch.full_like(part[:, 0], -math.inf), torch.full_like(part[:, 0], math.inf)
            for _, some in chunks((books == book).nonzero()[:, 0], len(part)):
                value, bits = (vectors[some] / scale) @ part.T, row_bits(some, book) > 0
                zeros = torch.maximum(zeros, value.masked_fill(bits, -math.inf).amax(dim=0))
                ones = torch.minimum(ones, value.masked_fill(~bits, math.inf).amin(dim=0))
            margin = _UNIT_DEVIATION * part.norm(dim=1)  # about one standard deviation, where all bits are the same
            zeros, ones = torch.where(zeros.isinf(), ones - margin, zeros), torch.where(ones.isinf(), zeros + margin, ones)
            thresholds.append(torch.where(zeros.isinf(), part @ (mean / scale), 0.5 * (zeros + ones)))
        self.encoder_bias.copy_(-torch.cat(thresholds))
        return scale

    @torch.no_grad()
    def errors(self, vectors: Tensor, scale: float) -> Tensor:
        """Squared error of every row in every code-book, in units of the network: (N, D) -> (N, C)."""
        out = torch.empty((len(vectors), len(self.code_lengths)), device=vectors.device)
        for rows, part in chunks(vectors, len(self.weights) + vectors.shape[1]):
            e = part / scale
            codes = torch.split(self.code(e), self.code_lengths, dim=1)
            for book, (code, weights) in enumerate(zip(codes, torch.split(self.weights, self.code_lengths), strict=True)):
                out[rows, book] = (torch.addmm(self.decoder_bias[book], code, weights) - e).square().sum(dim=1)
        return out

    @torch.no_grad()
    def costs(self, vectors: Tensor, scale: float) -> Tensor:
        """How little the selector wants each code-book, -log alpha: (N, D) -> (N, C)."""
        parts = [-self.log_alpha(part / scale) for _, part in chunks(vectors, 2 * vectors.shape[1])]
        return torch.cat(parts)


class AdaCompEmbedding(LearnedEmbedding):
    """Trains selector, codes and code vectors with a task (equation 7); the table itself is the input and stays as it is.

    In training mode a word's selection is soft and noisy (drawn once a batch for each word), its codes are hard. tau falls
    with ``set_progress`` as it does in pretraining. A file holds the code-book of each row and not the network that chose
    it, so that the network given here is one that learned these choices; where it differs from them, a constant is added to
    the row's log alpha. The training thus starts from the quantizer itself, whether it was fitted here or read.

    Args:
        quantizer: the fitted quantizer.
        table: the table it was fitted to.
        books: (N,) the code-book of each row.
        network: its network.
        scale: the table's unit.
        deploy: makes the quantizer of a network and of how little each row wants each code-book (N, C).
        seed: of the noise.
    """

    vectors: Tensor
    prior: Tensor

    def __init__(
        self,
        quantizer: Quantizer,
        table: Table,
        books: Tensor,
        network: AdaCompNetwork,
        scale: float,
        deploy: Callable[[Any, AdaCompNetwork, Tensor, float, Tensor], Quantizer],
        seed: int,
    ) -> None:
        super().__init__(quantizer, table)
        self.network = network
        self.register_buffer("vectors", table.vectors, persistent=False)
        self._scale, self._deploy, self._seed = scale, deploy, seed
        self._tau = float(quantizer.config.tau)
        costs = network.costs(table.vectors, scale)
        own = costs.gather(1, books[:, None])
        others = costs.scatter(1, books[:, None], math.inf).amin(dim=1, keepdim=True)
        missing = (own - others + _PRIOR_MARGIN).clamp_min(0)
        self.register_buffer("prior", torch.zeros_like(costs).scatter(1, books[:, None], missing))

    def soft(self, ids: Tensor) -> Tensor:
        """Equation 5 for rows ``ids``."""
        unique, inverse = torch.unique(ids, return_inverse=True)
        e = self.vectors[unique] / self._scale
        self.draws += 1
        selection = self.network.select(e, self._tau, generator(self._seed, self.draws), self.prior[unique])
        rows = self.network(e, selection) * self._scale
        return cast(Tensor, rows[inverse])

    def build(self) -> Quantizer:
        """Hard selection and hard codes."""
        costs = self.network.costs(self.vectors, self._scale) - self.prior
        return self._deploy(self.config, self.network, self.vectors, self._scale, costs)

    def regularizer(self) -> Tensor:
        """Lambda P of equation 7."""
        return cast(Tensor, self.config.orthogonality * self.network.penalty())

    def set_progress(self, fraction: float) -> None:
        """Anneal tau."""
        self._tau = annealed(self.config.tau, self.config.final_tau, fraction)

    def curves(self) -> dict[str, float]:
        """Share of the rows in each code-book, by hard selection."""
        books = cast(Any, self.quantizer).books()
        counts = torch.bincount(books, minlength=len(self.config.code_lengths)).tolist()
        return {f"share_book_{book}": count / len(books) for book, count in enumerate(counts)}
