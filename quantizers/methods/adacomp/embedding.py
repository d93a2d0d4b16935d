"""AdaComp in front of a task's network, and the network of a quantizer that was read from a file.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), section 3.4, equation 7.

Shapes: N rows, D columns, B rows asked for, C code-books, n_k bits of code-book k, T = sum of all n_k.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantizers.base import Quantizer, generator
from quantizers.coding.codebooks import codewords
from quantizers.fitting.minibatches import chunks, moments
from quantizers.learned import LearnedEmbedding
from quantizers.methods.adacomp.network import UNIT_DEVIATION, AdaCompNetwork, annealed
from quantizers.methods.adacomp.selection import SAMPLE_ROWS, SelectionTerms, shares
from quantizers.table import Table

_ANNEALED = 0.3  # of a training, after which tau stays as it is: what is deployed is then what is trained
_SELECTOR_RATE = 0.05  # of the training's learning rate
_AUTOENCODER_RATE = 0.2
_BALANCE = 0.15  # of the load term in a task's loss: a row matters far less to it than to its own error
_LEAD = 3.0  # of a row's own code-book over the others, in nats, where no trained selector is at hand


class AdaCompEmbedding(LearnedEmbedding):
    """Trains selector, codes and code vectors with a task (equation 7), and the vectors that codes are made of.

    In training mode a word's selection is soft and noisy (drawn once a batch for each word), its codes are hard. tau falls
    with ``set_progress`` until 0.3 of the training is done.

    With the table held, as the paper may have it, a word could change only with all others: W and theta are shared. The
    table's vectors are read by the encoder alone and no file holds them, so that to train them costs no byte.

    Args:
        quantizer: the fitted quantizer.
        table: the table it was fitted to.
        network: its network, to be trained.
        books: (N,) the code-book of each row, where the network's selector was not trained to choose them: each row's own
            then gets a lead of its own over the others. None where it was.
        bits_a_row: what the selector has to keep, see :class:`SelectionTerms`.
        deploy: makes the quantizer of a network, table rows (N, D) and how little each wants each code-book (N, C).
        seed: of the noise.
    """

    vectors: Tensor
    lead: Tensor

    def __init__(
        self,
        quantizer: Quantizer,
        table: Table,
        network: AdaCompNetwork,
        books: Tensor | None,
        bits_a_row: float | None,
        deploy: Callable[[Any, AdaCompNetwork, Tensor, Tensor], Quantizer],
        seed: int,
    ) -> None:
        super().__init__(quantizer, table)
        self.network = network
        if self.config.train_input:
            self.vectors = nn.Parameter(table.vectors / network.unit)
        else:
            self.register_buffer("vectors", table.vectors / network.unit, persistent=False)
        count = len(network.code_lengths)
        lead = table.vectors.new_zeros(count) if books is None else _LEAD * functional.one_hot(books, count).float()
        self.register_buffer("lead", lead.expand(self.num_embeddings, count), persistent=False)
        # Where a size is kept by the selector, that keeps it from saturating too.
        balance = 0.0 if bits_a_row is not None else _BALANCE * self.config.balance
        self.terms = SelectionTerms(network.code_lengths, balance, bits_a_row).to(table.vectors.device)
        self._deploy, self._seed, self._progress = deploy, seed, 0.0

    def _log_alpha(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        e = self.vectors[ids]
        return e, self.network.log_alpha(e) + self.lead[ids]

    def soft(self, ids: Tensor) -> Tensor:
        """Equation 5 for rows ``ids``."""
        unique, inverse = torch.unique(ids, return_inverse=True)
        self.draws += 1
        e, log_alpha = self._log_alpha(unique)
        tau = annealed(self.config.tau, self.config.final_tau, self._progress / _ANNEALED)
        selection = self.network.select(log_alpha, tau, generator(self._seed, self.draws))
        rows = self.network(e, selection) * self.network.unit
        return cast(Tensor, rows[inverse])

    def build(self) -> Quantizer:
        """Hard selection and hard codes."""
        vectors = self.vectors * self.network.unit
        return self._deploy(self.config, self.network, vectors, self.network.costs(vectors) - self.lead)

    def regularizer(self) -> Tensor:
        """Lambda P of equation 7, and the terms of :mod:`quantizers.methods.adacomp.selection`."""
        random = generator(self._seed + 1, self.draws)
        ids = torch.randint(self.num_embeddings, (min(SAMPLE_ROWS, self.num_embeddings),), generator=random)
        terms = self.terms(self._log_alpha(ids.to(self.vectors.device))[1])
        return cast(Tensor, self.config.orthogonality * self.network.penalty() + terms)

    def rate_scales(self) -> dict[nn.Parameter, float]:
        """Selector and autoencoders, which all words share, learn slower than each word's own vector."""
        network = self.network
        selector = dict.fromkeys(network.selector(), _SELECTOR_RATE)
        return {**selector, **dict.fromkeys(network.autoencoders(), _AUTOENCODER_RATE)}

    def set_progress(self, fraction: float) -> None:
        """Anneal tau."""
        self._progress = fraction

    @property
    def annealing(self) -> bool:
        """Whether tau still falls."""
        return self._progress < _ANNEALED

    def curves(self) -> dict[str, float]:
        """Share of the rows in each code-book, by hard selection, and lambda of the rate term."""
        found = shares(cast(Any, self.quantizer).books(), len(self.network.code_lengths))
        return found if self.terms.bits_a_row is None else {**found, "rate": self.terms.rate()}


@torch.no_grad()
def restore(
    network: AdaCompNetwork,
    vectors: Tensor,
    books: Tensor,
    row_bits: Callable[[Tensor, int], Tensor],
    state: dict[str, Tensor],
) -> None:
    """Make the autoencoders those that a stored state came from. The selector is not to be found again.

    A threshold lies anywhere between the rows whose bit is 0 and those whose bit is 1: half-way is as good as what was.

    Args:
        network: a new one; its weights and biases are set.
        vectors: (N, D), the table.
        books: (N,) int64, the code-book of each row.
        row_bits: gives the bits (B, n_k) of rows of one code-book.
        state: with ``decoder`` (T, D) and ``bias`` (C, D).
    """
    unit = network.unit
    mean = moments(vectors)[0] / unit
    network.weights.copy_(codewords(state, "decoder") / ((1.0 - network.low) * unit))
    thresholds = []
    for book, part in enumerate(torch.split(network.weights, network.code_lengths)):
        network.decoder_bias[book] = state["bias"][book] / unit - network.low * part.sum(dim=0)
        zeros, ones = torch.full_like(part[:, 0], -math.inf), torch.full_like(part[:, 0], math.inf)
        for _, some in chunks((books == book).nonzero()[:, 0], len(part)):
            value, bits = (vectors[some] / unit) @ part.T, row_bits(some, book) > 0
            zeros = torch.maximum(zeros, value.masked_fill(bits, -math.inf).amax(dim=0))
            ones = torch.minimum(ones, value.masked_fill(~bits, math.inf).amin(dim=0))
        margin = UNIT_DEVIATION * part.norm(dim=1)  # about one standard deviation, where all bits are the same
        zeros, ones = torch.where(zeros.isinf(), ones - margin, zeros), torch.where(ones.isinf(), zeros + margin, ones)
        thresholds.append(torch.where(zeros.isinf(), part @ mean, 0.5 * (zeros + ones)))
    network.encoder_bias.copy_(-torch.cat(thresholds))
