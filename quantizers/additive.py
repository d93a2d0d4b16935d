"""What all additive methods share: a row is the sum of M codewords, one of each codebook (RQ, LSQ, DCCL).

x_hat = sum_m C_m[code_m], C of (M, K, D). Payload: ``N * ceil(M * ceil(log2 K) / 8)`` bytes of codes and
``M * K * D * 4`` bytes of codebooks (``M * K * D * 2`` in float16, ``M * K * (D + 2)`` in int8, whose codewords have a
factor each, see :mod:`quantizers.coding.codebooks`).

Which M, K and codebook type a budget is spent on is decided by :func:`additive_configs`, for all additive methods alike.

Shapes: N rows, D columns, B batch, M num_codebooks, K codebook_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Budget, QuantizerConfig, Role, Skip, StorageCost
from quantizers.codes import CodeQuantizer
from quantizers.coding.bits import bits_for, pack, row_bytes
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


def largest_num_codebooks(
    budget: Budget, shape: tuple[int, int], codebook_size: int, codebook_dtype: CodebookDtype = "float32"
) -> int:
    """The largest M whose codes and codebooks are within ``budget``; 0 where not even one is."""
    num_embeddings, embedding_dim = shape
    bits = bits_for(codebook_size)
    book = stored_bytes(codebook_size, embedding_dim, codebook_dtype)
    count = int(budget.payload_bytes / (num_embeddings * bits / 8 + book))
    while count and num_embeddings * row_bytes(count, bits) + count * book > budget.payload_bytes:
        count -= 1
    return count


def roomiest(budget: Budget, stats: TableStats, codebook_size: int) -> tuple[int, CodebookDtype]:
    """The largest M within ``budget`` and the codebook type that leaves room for it, the more exact one of equals."""
    found = [
        (largest_num_codebooks(budget, stats.shape, codebook_size, dtype), dtype) for dtype in codebook_dtypes_for(stats)
    ]
    return max(found, key=lambda entry: entry[0])


ConfigT = TypeVar("ConfigT", bound=AdditiveConfig)
CODEBOOK_SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def additive_configs(
    budget: Budget,
    stats: TableStats,
    config_type: type[ConfigT],
    *,
    sizes: Sequence[int] = CODEBOOK_SIZES,
    max_codebooks: int = 256,
    max_codewords: int | None = None,
    count: int = 1,
    **parameters: Any,
) -> list[ConfigT] | Skip:
    """The M, K and codebook type that make the most of ``budget``, best first: what ``configs_for`` returns.

    For every K the budget gives a largest M. A codebook of K codewords makes better use of its bits the larger K is, and
    costs more bytes: the K is taken whose M maximizes ``M * b * (b + 5)``, b = ceil(log2 K). The factor b + 5 was fitted to
    residual quantizers of GloVe tables (10,000 x 50 at ratios 8 to 128, 100,000 x 100 at 16 to 128), where the K that it
    takes is the best of those tried or within 2 percent of it; codebooks then take 10 to 35 percent of the budget.

    Args:
        budget: the most bytes of codes and codebooks together.
        stats: shape and spectrum of the table.
        config_type: the method's ``Config``.
        sizes: values of K to choose from (those above N are left out).
        max_codebooks: the largest M to propose, which bounds the time of a fit at generous budgets.
        max_codewords: the most codewords in all, M * K.
        count: how many configurations to return at the most (of different K).
        parameters: further fields of the configurations.

    Returns:
        One to ``count`` configurations, or why there is none.
    """
    ranked: list[tuple[int, int, int, CodebookDtype]] = []
    for size in sizes:
        if size <= stats.num_embeddings:
            bits = bits_for(size)
            most = max_codebooks if max_codewords is None else min(max_codebooks, max_codewords // size)
            num_codebooks, dtype = roomiest(budget, stats, size)
            num_codebooks = min(most, num_codebooks)
            ranked.append((num_codebooks * bits * (bits + 5), num_codebooks, size, dtype))
    ranked = sorted((entry for entry in ranked if entry[0]), key=lambda entry: (-entry[0], entry[2]))
    if not ranked:
        return Skip(f"one code a row and one codebook take more than {budget.payload_bytes} bytes")
    return [
        config_type(num_codebooks=num_codebooks, codebook_size=size, codebook_dtype=dtype, **parameters)
        for _, num_codebooks, size, dtype in ranked[:count]
    ]


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
