"""DCCL trained with a task: the encoder chooses the codes anew at every step, with a straight-through gradient.

Paper: Shu & Nakayama (ICLR 2018) learn codes from a fixed table; Kim, Kim & Lee (ACL 2020, footnote 6) train them with the
task. How is open there. Here a row in training is the sum of the codewords that a Gumbel-softmax sample chooses (hard
forward, soft backward), temperature and noise falling as the training goes on.

Shapes: N rows, D columns, B batch, M num_codebooks, K codebook_size.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from quantizers.additive import AdditiveQuantizer
from quantizers.base import Quantizer, generator
from quantizers.fitting.gumbel import CodeNetwork, gumbel_noise
from quantizers.fitting.minibatches import chunks, moments
from quantizers.learned import LearnedEmbedding
from quantizers.table import Table

_HIDDEN = 256
_MARGIN = 3.0
_TAU_END = 0.1


class DCCLEmbedding(LearnedEmbedding):
    """Encoder and codebooks as parameters.

    The finished codes are better than the encoder's. So that a training starts from them, each row's finished codes get a
    head start, as much as makes their logits lead those of all other codes by ``log K + 3`` (the code is then drawn with a
    probability of about 0.95 at the least); the encoder can overtake it.

    Args:
        quantizer: the fitted quantizer.
        table: the table it was fitted to.
        network: its network, or None (after reading a file) for a new encoder.
        seed: of the noise, and of a new encoder.
    """

    codes: Tensor
    lead: Tensor
    vectors: Tensor
    mean: Tensor

    def __init__(self, quantizer: AdditiveQuantizer, table: Table, network: CodeNetwork | None, *, seed: int) -> None:
        super().__init__(quantizer, table)
        mean, deviation, _ = moments(table.vectors)
        self._type, self._seed, self._progress = type(quantizer), seed, 0.0
        self.unit = deviation or 1.0
        self.register_buffer("vectors", table.vectors, persistent=False)
        self.register_buffer("mean", mean, persistent=False)
        if network is None:
            shape = (table.embedding_dim, self.config.num_codebooks, self.config.codebook_size)
            network = CodeNetwork(
                *shape, _HIDDEN, generator=generator(seed, 4), bound=None, vectors=self._scaled(slice(0, 1))
            )
        self.network = copy.deepcopy(network).to(table.vectors.device).requires_grad_(True)
        with torch.no_grad():
            books = (quantizer.codebooks - mean / self.config.num_codebooks) / self.unit
            self.network.codebooks.copy_(books.flatten(0, 1))
            self.register_buffer("codes", quantizer.codes().to(torch.int32))
            self.register_buffer("lead", self._head_start())

    def _scaled(self, ids: Tensor | slice) -> Tensor:
        return (self.vectors[ids] - self.mean) / self.unit

    def _head_start(self) -> Tensor:
        """(N, M): what the logits of the finished codes get."""
        margin = math.log(self.config.codebook_size) + _MARGIN
        out = torch.empty(self.codes.shape, device=self.codes.device)
        for part, _ in chunks(self.codes, 4 * self.config.num_codebooks * self.config.codebook_size):
            logits = self.network.logits(self._scaled(part))
            own = logits.gather(2, self.codes[part, :, None].to(torch.int64))[:, :, 0]
            out[part] = logits.amax(dim=2) - own + margin
        return out

    def _logits(self, ids: Tensor | slice) -> Tensor:
        logits = self.network.logits(self._scaled(ids))
        return logits.scatter_add(2, self.codes[ids][:, :, None].to(torch.int64), self.lead[ids][:, :, None])

    def soft(self, ids: Tensor) -> Tensor:
        """Rows of sampled codes; the gradient is that of the soft sample."""
        logits = self._logits(ids)
        # A generator for each draw: unlike the state of one generator, a count can be copied and kept.
        self.draws += 1
        noise = gumbel_noise(logits.shape, generator(self._seed, 5 + self.draws), logits.device)
        tau = self.config.tau * (_TAU_END / self.config.tau) ** self._progress
        choice = torch.softmax((logits + (1 - self._progress) * noise) / tau, dim=2)
        hard = torch.zeros_like(choice).scatter_(2, choice.argmax(dim=2, keepdim=True), 1.0)
        return self.network.rebuild(hard + choice - choice.detach()) * self.unit + self.mean

    def set_progress(self, fraction: float) -> None:
        """Temperature from ``tau`` to 0.1, noise from all to none."""
        self._progress = min(1.0, max(0.0, fraction))

    def build(self) -> Quantizer:
        """Codes of the highest logits, and the codebooks."""
        codes = torch.empty_like(self.codes)
        for part, _ in chunks(codes, 4 * self.config.num_codebooks * self.config.codebook_size):
            codes[part] = self._logits(part).max(dim=2).indices
        quantizer = self._type(self.config)
        quantizer._shape = (self.num_embeddings, self.embedding_dim)
        books = self.network.books() * self.unit + self.mean / self.config.num_codebooks
        quantizer._set_codes(codes, books)
        return quantizer
