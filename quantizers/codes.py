"""Methods that give each row M codes.

Shapes: N rows (num_embeddings), D columns (embedding_dim), B batch, M codes a row, K values of a code, L code bytes a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from quantizers.base import Budget, Quantizer, QuantizerConfig
from quantizers.coding.bits import bits_for, pack, row_bytes, unpack
from quantizers.coding.codebooks import KeptCodewords, check_stored
from quantizers.errors import InputError

_CHUNK_CODES = 1 << 20  # looked at at once


class CodeQuantizer(Quantizer):
    """A method that gives each row M codes of the same width, which any new vector can be given too.

    The state holds ``codes``: (N, L) uint8, packed. A method implements ``num_codes``, ``code_values``, ``encode`` and
    ``decode``.

    Attributes:
        codebook_state: the tensors that are stored as ``codebook_dtype`` says (:mod:`quantizers.coding.codebooks`), and
            whether a row of one holds a codeword for each of the M codes, side by side.
    """

    codebook_state: ClassVar[dict[str, bool]] = {}

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        self._kept = KeptCodewords()

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

    def _in_chunks(self, vectors: Tensor, codes_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Packed codes of vectors, ``chunk_rows`` at a time.

        Args:
            vectors: (B, D) float32.
            codes_of: the codes (n, M) of n of them.

        Returns:
            (B, L) uint8.
        """
        length = self.code_bytes_per_row(self.config, vectors.shape[1])
        out = torch.empty((len(vectors), length), dtype=torch.uint8, device=vectors.device)
        parts = zip(torch.split(vectors, self.chunk_rows), torch.split(out, self.chunk_rows), strict=True)
        for part, packed in parts:
            packed.copy_(pack(codes_of(part), self.code_bits(self.config)))
        return out

    def unpack(self, packed: Tensor) -> Tensor:
        """Codes as numbers: (B, L) uint8 -> (B, M) int64."""
        return unpack(packed, self.num_codes(self.config, self.embedding_dim), self.code_bits(self.config))

    def codes(self, ids: Tensor | None = None) -> Tensor:
        """Codes of rows ``ids`` (default: of all): (B, M) int64."""
        packed = self.state()["codes"]
        return self.unpack(packed if ids is None else packed[ids])

    def verify(self) -> None:
        """Codewords are stored as they should be, and no code points past the last value.

        Where a code's bits have no room for such, no code is read.
        """
        count, values = self.num_codes(self.config, self.embedding_dim), self.code_values(self.config)
        for name, side_by_side in self.codebook_state.items():
            check_stored(self._state, name, self.config.codebook_dtype, side_by_side=count if side_by_side else None)
        if values >= 1 << self.code_bits(self.config):
            return
        step = max(1, _CHUNK_CODES // count)
        for rows in torch.split(torch.arange(self.num_embeddings), step):
            largest = int(self.codes(rows).max())
            if largest >= values:
                raise InputError(f"a code is {largest}, and there are {values} values")

    def codewords(self, name: str) -> Tensor:
        """A tensor of the state that holds codewords, as float32 of the same shape; not to be changed."""
        self._require_fitted()
        return self._kept.of(self._state, name)

    def reconstruct(self, ids: Tensor) -> Tensor:
        """See :meth:`Quantizer.reconstruct`."""
        self._require_fitted()
        return self.decode(self._state["codes"][ids])


def block_layouts(
    cls: type[CodeQuantizer], config: QuantizerConfig, budget: Budget, shape: tuple[int, int], bits: int, most: int
) -> list[tuple[int, int]]:
    """The M and K with codes of ``bits`` bits that are worth a look within ``budget``, where K codewords have M codes a row.

    They are the largest M, up to ``most``, whose codebooks are full (K = 2**bits), and one and two bytes a row more, whose
    K is what their codes leave room for.

    Args:
        cls: the method; bytes of its codebooks grow in proportion to K.
        config: what else it is configured to.
        budget: the most bytes.
        shape: (N, D).
        bits: of a code.
        most: the largest M.
    """

    def cost(num_codebooks: int, codebook_size: int) -> int:
        update = {"num_codebooks": num_codebooks, "codebook_size": codebook_size}
        return cls.storage(config.model_copy(update=update), shape).payload_bytes

    full, fewest = 1 << bits, (1 << (bits - 1)) + 1
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle, full) <= budget.payload_bytes else (low, middle - 1)
    found = [(low, full)] if low and full <= shape[0] else []
    length = row_bytes(low, bits) if low else 0
    for more in (length + 1, length + 2):
        num_codebooks = min(most, 8 * more // bits)
        if num_codebooks > low:
            least = cost(num_codebooks, fewest)
            each = cost(num_codebooks, fewest + 1) - least
            size = min(full, shape[0], fewest + (budget.payload_bytes - least) // each)
            if size >= fewest:
                found.append((num_codebooks, size))
    return found
