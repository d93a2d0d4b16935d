"""The output layer of a language model on a compressed table, which is never expanded.

Reference: Shi & Yu, Interspeech 2018 (basis embedding): the logit of a word is a sum of products with codewords,
``h . w_n = sum_m (h . C_m[code_nm])``. This holds for every method whose rows are sums of codewords
(:mod:`quantizers.output.summed`); rows of all others are rebuilt some at a time (:mod:`quantizers.output.rebuilt`).

Shapes: B positions, D columns of hidden states and table, N rows (words).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantizers.codes import CodeQuantizer
from quantizers.embedding import CompressedEmbedding
from quantizers.learned import LearnedEmbedding
from quantizers.output.rebuilt import rebuilt_logits, rebuilt_losses
from quantizers.output.summed import Layout, SumOfCodewords, join, joined, summed_logits, summed_losses

_COLUMNS_A_CODE = 4  # adding a row of products takes as long as a matrix product over so many columns


class CompressedOutput(nn.Module):
    """The output layer of a language model on a compressed table, in place of ``nn.Linear(D, N)``.

    Args:
        embedding: the table: :meth:`~quantizers.base.Quantizer.module`, or a module that is being trained.
        bias: (N,) added to the logits, or None. A parameter stays one.

    Attributes:
        embedding: the table.
    """

    def __init__(self, embedding: CompressedEmbedding, bias: Tensor | None = None) -> None:
        super().__init__()
        self.embedding = embedding
        self.bias = bias
        self._layout: tuple[Tensor, int, Layout] | None = None  # of these codes, in this version

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits: (..., D) -> (..., N) float32, differentiable in ``hidden``, the bias and what the table trains."""
        flat = hidden.reshape(-1, hidden.shape[-1]).float()
        with torch.autocast(flat.device.type, enabled=False):
            summed = self._summed(flat)
            if summed is None:
                logits = rebuilt_logits(self.embedding, flat)
            else:
                logits = summed_logits(*summed)
            logits = logits.T if self.bias is None else logits.T + self.bias
        return logits.reshape(*hidden.shape[:-1], -1)

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of every position, in nats.

        Args:
            hidden: (B, D).
            targets: (B,) int64 words, in [0, N).

        Returns:
            (B,) float32, differentiable as the logits are.
        """
        hidden = hidden.float()
        with torch.autocast(hidden.device.type, enabled=False):
            summed = self._summed(hidden)
            if summed is None:
                return rebuilt_losses(self.embedding, hidden, self.bias, targets)
            return summed_losses(*summed, self.bias, targets)

    def _summed(self, hidden: Tensor) -> tuple[Tensor, Layout] | None:
        """The table of products (R, B) and the rows of it that make each word's logits; None: rows have to be rebuilt."""
        if isinstance(self.embedding, LearnedEmbedding) and self.embedding.training:
            return None
        quantizer = self.embedding.quantizer
        if not isinstance(quantizer, CodeQuantizer) or not isinstance(quantizer, SumOfCodewords):
            return None
        count, size = quantizer.num_codes(quantizer.config, quantizer.embedding_dim), quantizer.code_values(quantizer.config)
        together = joined(count, size, quantizer.num_embeddings)
        if -(-count // together) * _COLUMNS_A_CODE > quantizer.embedding_dim:
            return None
        packed = quantizer.state()["codes"]
        if self._layout is None or self._layout[0] is not packed or self._layout[1] != packed._version:
            self._layout = packed, packed._version, Layout.of(quantizer.codes(), size, together)
        return join(quantizer.codeword_products(hidden), together), self._layout[2]
