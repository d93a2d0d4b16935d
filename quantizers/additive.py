"""What all additive methods share: a row is the sum of M codewords, one of each codebook (RQ, LSQ, DCCL).

x_hat = sum_m C_m[code_m], C of (M, K, D). Payload: ``N * ceil(M * ceil(log2 K) / 8)`` bytes of codes and
``M * K * D * 4`` bytes of codebooks (``M * K * D * 2`` in float16, ``M * K * (D + 2)`` in int8, whose codewords have a
factor each, see :mod:`quantizers.coding.codebooks`).

Which M, K and codebook type a budget is spent on is decided by :func:`additive_configs`, for all additive methods alike.

Shapes: N rows, D columns, B batch, M num_codebooks, K codebook_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Budget, QuantizerConfig, Role, Skip, StorageCost
from quantizers.codes import CodeQuantizer
from quantizers.coding.bits import pack, row_bytes
from quantizers.coding.codebooks import CodebookDtype, codebook_dtypes_for, stored, stored_bytes
from quantizers.table import TableStats


class AdditiveConfig(QuantizerConfig):
    """Parameters that every additive method has.

    Attributes:
        num_codebooks: M, codes a row.
        codebook_size: K, codewords a codebook, 2 to 65,536.
        codebook_dtype: what the codewords are stored in; int8 with a float16 factor for each.
    """

    num_codebooks: int = Field(default=16, ge=1, le=4096)
    codebook_size: int = Field(default=16, ge=2, le=65_536)
    codebook_dtype: CodebookDtype = "float32"


def codebook_bytes(config: Any, embedding_dim: int) -> int:
    """Bytes of M codebooks of K codewords of D values."""
    return stored_bytes(config.num_codebooks * config.codebook_size, embedding_dim, config.codebook_dtype)


ConfigT = TypeVar("ConfigT", bound=AdditiveConfig)


def worth(num_codebooks: int, codebook_size: int, *, slope: float = 1 / 11.5, most: float = 5.4) -> float:
    """What M codebooks of K codewords are worth to a row, as :func:`additive_configs` has it."""
    bits = math.log2(codebook_size)
    row = num_codebooks * bits
    return row * (bits + min(slope * row, most))


def additive_configs(
    budget: Budget,
    stats: TableStats,
    config_type: type[ConfigT],
    *,
    bits: Sequence[int] = range(1, 11),
    value: Callable[[int, int], float] = worth,
    max_codebooks: int = 256,
    max_codewords: int | None = None,
    count: int = 1,
    **parameters: Any,
) -> list[ConfigT] | Skip:
    """The M, K and codebook type that make the most of ``budget``, best first: what ``configs_for`` returns.

    Every M is tried with every number of bits and every codebook type; K is what the bytes left by the codes hold, at most
    2**bits, so that nothing stays unused. A codebook of K codewords makes better use of its bits the larger K is, and costs
    more bytes: the K is taken whose M maximizes ``B * (b + min(B / 11.5, 5.4))``, b = log2 K and B = M * b bits a row. Of
    the best M and K of each number of bits, this takes the one with the least error on GloVe (docs/results/proposals.md).

    Args:
        budget: the most bytes of codes and codebooks together.
        stats: shape and spectrum of the table.
        config_type: the method's ``Config``.
        bits: of a code, to choose from.
        value: of M codebooks of K codewords, what is maximized, if it is not :func:`worth`.
        max_codebooks: the largest M to propose, which bounds the time of a fit at generous budgets.
        max_codewords: the most codewords in all, M * K.
        count: how many configurations to return at the most (of different bits).
        parameters: further fields of the configurations.

    Returns:
        One to ``count`` configurations, or why there is none.
    """
    num_embeddings, embedding_dim = stats.shape
    ranked: list[tuple[float, int, ConfigT]] = []
    for width in bits:
        best: tuple[float, int, int, CodebookDtype] | None = None
        for dtype in codebook_dtypes_for(stats):
            codeword = stored_bytes(1, embedding_dim, dtype)
            for num_codebooks in range(1, max_codebooks + 1):
                left = budget.payload_bytes - num_embeddings * row_bytes(num_codebooks, width)
                size = min(1 << width, num_embeddings, max(0, left) // (num_codebooks * codeword))
                if max_codewords is not None:
                    size = min(size, max_codewords // num_codebooks)
                if size <= 1 << (width - 1):
                    break  # a code of fewer bits would do
                found_worth = value(num_codebooks, size)
                if best is None or found_worth > best[0]:
                    best = found_worth, num_codebooks, size, dtype
        if best is not None:
            found = {"num_codebooks": best[1], "codebook_size": best[2], "codebook_dtype": best[3]}
            ranked.append((-best[0], width, config_type(**found, **parameters)))
    if not ranked:
        return Skip(f"one code a row and one codebook take more than {budget.payload_bytes} bytes")
    return [config for _, _, config in sorted(ranked, key=lambda entry: entry[:2])[:count]]


class AdditiveQuantizer(CodeQuantizer):
    """Base of the additive methods.

    State: ``codes`` (N, L) uint8, ``codebooks`` (M, K, D), and where these are int8, ``codebooks_scale`` (M, K) float16.
    """

    Config = AdditiveConfig
    state_roles: ClassVar[dict[str, Role]] = {"codes": "code", "codebooks": "codebook", "codebooks_scale": "codebook"}
    codebook_state: ClassVar[dict[str, bool]] = {"codebooks": False}
    linear_state = ("codebooks",)

    @classmethod
    def num_codes(cls, config: Any, embedding_dim: int) -> int:
        """M."""
        return int(config.num_codebooks)

    @classmethod
    def code_values(cls, config: Any) -> int:
        """K."""
        return int(config.codebook_size)

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Codes and codebooks, exact."""
        return StorageCost(shape[0] * cls.code_bytes_per_row(config, shape[1]), codebook_bytes(config, shape[1]))

    @classmethod
    def check(cls, config: Any, shape: tuple[int, int]) -> Skip | None:
        """A codebook larger than the table makes no sense."""
        if config.codebook_size > shape[0]:
            return Skip(f"codebook_size {config.codebook_size} is more than the table's {shape[0]} rows")
        return None

    @property
    def codebooks(self) -> Tensor:
        """(M, K, D) float32."""
        return self.codewords("codebooks")

    def decode(self, packed: Tensor) -> Tensor:
        """Sum of the codewords: (B, L) uint8 -> (B, D) float32."""
        return sum_codewords(self.unpack(packed), self.codebooks)

    def codeword_products(self, hidden: Tensor) -> Tensor:
        """See :class:`quantizers.output.summed.SumOfCodewords`."""
        books = self.codebooks.to(hidden.dtype)
        products: Tensor = books.flatten(0, 1) @ hidden.T
        return products.reshape(*books.shape[:2], len(hidden))

    def _set_codes(self, codes: Tensor, codebooks: Tensor) -> None:
        """Keep codes (N, M) of integers and codebooks (M, K, D); packs the one and rounds the other as configured."""
        packed = pack(codes, self.code_bits(self.config))
        self._set_state({"codes": packed, **stored("codebooks", codebooks, self.config.codebook_dtype)})


def sum_codewords(codes: Tensor, codebooks: Tensor) -> Tensor:
    """x_hat = sum_m C_m[code_m]: codes (B, M) int64, codebooks (M, K, D) float32 -> (B, D)."""
    num_codebooks, codebook_size, dim = codebooks.shape
    offsets = torch.arange(num_codebooks, device=codes.device) * codebook_size
    # embedding_bag gathers and adds in one pass, without the (B, M, D) intermediate.
    return torch.nn.functional.embedding_bag(codes + offsets, codebooks.reshape(-1, dim), mode="sum")
