"""Methods that give each row M codes.

Shapes: N rows (num_embeddings), D columns (embedding_dim), B batch, M codes a row, K values of a code, L code bytes a row.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from quantizers.base import Quantizer
from quantizers.coding.bits import bits_for, row_bytes, unpack
from quantizers.errors import InputError

_CHUNK_CODES = 1 << 20  # looked at at once


class CodeQuantizer(Quantizer):
    """A method that gives each row M codes of the same width, which any new vector can be given too.

    The state holds ``codes``: (N, L) uint8, packed. A method implements ``num_codes``, ``code_values``, ``encode`` and
    ``decode``.
    """

    @classmethod
    @abstractmethod
    def num_codes(cls, config: Any, embedding_dim: int) -> int:
        """M, the codes of one row."""

    @classmethod
    @abstractmethod
    def code_values(cls, config: Any) -> int:
        """K, how many values a code has."""

    @classmethod
    def code_bits(cls, config: Any) -> int:
        """Bits of one code: ceil(log2 K)."""
        return bits_for(cls.code_values(config))

    @classmethod
    def code_bytes_per_row(cls, config: Any, embedding_dim: int) -> int:
        """L, the packed bytes of one row."""
        return row_bytes(cls.num_codes(config, embedding_dim), cls.code_bits(config))

    @abstractmethod
    def encode(self, vectors: Tensor) -> Tensor:
        """Packed codes of new vectors: (B, D) float32 -> (B, L) uint8."""

    @abstractmethod
    def decode(self, packed: Tensor) -> Tensor:
        """Vectors of packed codes: (B, L) uint8 -> (B, D) float32."""

    def unpack(self, packed: Tensor) -> Tensor:
        """Codes as numbers: (B, L) uint8 -> (B, M) int64."""
        return unpack(packed, self.num_codes(self.config, self.embedding_dim), self.code_bits(self.config))

    def codes(self, ids: Tensor | None = None) -> Tensor:
        """Codes of rows ``ids`` (default: of all): (B, M) int64."""
        packed = self.state()["codes"]
        return self.unpack(packed if ids is None else packed[ids])

    def verify(self) -> None:
        """No code points past the last value; where a code's bits have no room for such, nothing is read."""
        values = self.code_values(self.config)
        if values >= 1 << self.code_bits(self.config):
            return
        step = max(1, _CHUNK_CODES // self.num_codes(self.config, self.embedding_dim))
        for rows in torch.split(torch.arange(self.num_embeddings), step):
            largest = int(self.codes(rows).max())
            if largest >= values:
                raise InputError(f"a code is {largest}, and there are {values} values")

    def reconstruct(self, ids: Tensor) -> Tensor:
        """See :meth:`Quantizer.reconstruct`."""
        self._require_fitted()
        return self.decode(self._state["codes"][ids])
