"""Product quantization: the columns are cut into blocks, each with a k-means codebook of its own (basis embedding).

Jegou, Douze & Schmid, "Product Quantization for Nearest Neighbor Search", PAMI 2011; for the input and output tables of
language models Shi & Yu, "Structured Word Embedding for Low Memory Neural Network Language Model", Interspeech 2018.
x_hat = [C_1[code_1], ..., C_M[code_M]], C_m of (K, D_m), sum of D_m = D.

Payload: ``N * ceil(M * ceil(log2 K) / 8)`` bytes of codes and ``K * D * 4`` bytes of codebooks (2 instead of 4 in
float16), whatever M is. The paper leaves a D that M does not divide open: the first D mod M blocks are a column wider. Its
ablation of random bases is ``basis="random"``: the codewords of a block are K rows drawn from it, without k-means. Tied
input and output tables are one quantizer used twice; :meth:`PQ.logits` is the output side, never expanded.

Shapes: N rows, D columns, B batch, M num_codebooks (blocks), K codebook_size, L code bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from quantizers.additive import DTYPES, codebook_dtype_for
from quantizers.base import CHUNK_ROWS, Budget, CodeQuantizer, FitStep, QuantizerConfig, Role, Skip, StorageCost, generator
from quantizers.clustering import kmeans, nearest
from quantizers.packing import bits_for, pack, row_bytes
from quantizers.table import Table, TableStats


class PQConfig(QuantizerConfig):
    """Parameters of product quantization.

    Attributes:
        num_codebooks: M, blocks of columns, at most D.
        codebook_size: K, codewords a block.
        codebook_dtype: what the codewords are stored in.
        basis: ``kmeans``, or ``random`` rows of the table (ablation).
        iterations: of k-means.
    """

    num_codebooks: int = Field(default=8, ge=1, le=65_536)
    codebook_size: int = Field(default=256, ge=2, le=65_536)
    codebook_dtype: Literal["float32", "float16"] = "float32"
    basis: Literal["kmeans", "random"] = "kmeans"
    iterations: int = Field(default=12, ge=1)


class PQ(CodeQuantizer):
    """One code for each block of columns. State: ``codes`` (N, L) and ``codebooks`` (K, D), block m in its columns."""

    name = "pq"
    Config = PQConfig
    reference = "Jegou et al., PAMI 2011; Shi & Yu, Interspeech 2018 (basis embedding)"
    state_roles: ClassVar[dict[str, Role]] = {"codes": "code", "codebooks": "codebook"}
    uses_weights = True

    @classmethod
    def examples(cls) -> Sequence[PQConfig]:
        """Blocks of unequal width, a K that is no power of two, float16, and the ablation."""
        return [
            PQConfig(num_codebooks=4, codebook_size=16),
            PQConfig(num_codebooks=3, codebook_size=11, codebook_dtype="float16"),
            PQConfig(num_codebooks=5, codebook_size=8, basis="random"),
        ]

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[PQConfig] | Skip:
        """For each K up to 256 the most blocks that fit; of these the one with the smallest expected error.

        Expected is what a Gaussian block of width w costs at b bits, w * 2^(-2b / w), times what k-means loses against the
        rate-distortion bound (1 + 1.4 / w^0.6: 2.4 for scalars, as Lloyd-Max has, less for wider blocks). On the built-in
        table it is within a tenth of the error measured, and tells that blocks of unequal width waste bits.
        """
        dtype = codebook_dtype_for(stats)
        best, least = None, float("inf")
        for size in (2, 4, 8, 16, 32, 64, 128, 256):
            bits = bits_for(size)
            left = budget.payload_bytes - size * stats.embedding_dim * DTYPES[dtype].itemsize
            num_codebooks = min(stats.embedding_dim, max(0, left) // stats.num_embeddings * 8 // bits)
            if size > stats.num_embeddings or not num_codebooks:
                continue
            widths = [columns.stop - columns.start for columns in _blocks(stats.embedding_dim, num_codebooks)]
            error = sum(width * min(1.0, (1 + 1.4 / width**0.6) * 4 ** (-bits / width)) for width in widths)
            if error < least:
                best = PQConfig(num_codebooks=num_codebooks, codebook_size=size, codebook_dtype=dtype)
                least = error
        if best is None:
            return Skip(f"one code a row and one codebook take more than {budget.payload_bytes} bytes")
        return [best]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Codes and codebooks, exact."""
        codebooks = config.codebook_size * shape[1] * DTYPES[config.codebook_dtype].itemsize
        return StorageCost(shape[0] * row_bytes(cls.num_codes(config, shape[1]), cls.code_bits(config)), codebooks)

    @classmethod
    def check(cls, config: Any, shape: tuple[int, int]) -> Skip | None:
        """Codebooks larger than the table, and more blocks than columns, make no sense."""
        if config.codebook_size > shape[0]:
            return Skip(f"codebook_size {config.codebook_size} is more than the table's {shape[0]} rows")
        if config.num_codebooks > shape[1]:
            return Skip(f"num_codebooks {config.num_codebooks} is more than the table's {shape[1]} columns")
        return None

    @classmethod
    def num_codes(cls, config: Any, embedding_dim: int) -> int:
        """M, at most D: a block has a column at the least."""
        return min(int(config.num_codebooks), embedding_dim)

    @classmethod
    def code_values(cls, config: Any) -> int:
        """K."""
        return int(config.codebook_size)

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        config, dtype = self.config, DTYPES[self.config.codebook_dtype]
        blocks = _blocks(table.embedding_dim, config.num_codebooks)
        codebooks = torch.empty((config.codebook_size, table.embedding_dim), dtype=dtype, device=table.vectors.device)
        codes = torch.empty((table.num_embeddings, len(blocks)), dtype=torch.int32, device=table.vectors.device)
        squared = 0.0
        for number, columns in enumerate(blocks):
            squared += self._fit_block(table.vectors[:, columns].contiguous(), codebooks[:, columns], codes[:, number],
                                       generator(seed, number), weights)  # fmt: skip
            yield FitStep("kmeans", (number + 1) / (len(blocks) + 1))
        self._set_state({"codes": pack(codes, self.code_bits(config)), "codebooks": codebooks})
        yield FitStep("pack", 1.0, squared / (2 * table.num_embeddings))

    @torch.no_grad()
    def _fit_block(
        self, x: Tensor, codebook: Tensor, codes: Tensor, random: torch.Generator, weights: Tensor | None
    ) -> float:
        """Fill a block's codebook and codes; returns its squared error."""
        config = self.config
        if config.basis == "random":
            drawn = torch.randperm(len(x), generator=random)[: config.codebook_size]
            centroids = x[drawn.repeat(-(-config.codebook_size // len(drawn)))[: config.codebook_size].to(x.device)]
        else:
            centroids = kmeans(x, config.codebook_size, generator=random, weights=weights, iterations=config.iterations)
        largest = torch.finfo(codebook.dtype).max
        codebook.copy_(centroids.clamp(-largest, largest))
        stored = codebook.to(torch.float32)  # codes are for the codewords as they are stored
        found = nearest(x, stored)
        codes.copy_(found)
        squared = 0.0
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            squared += float((x[rows] - stored[found[rows]]).square_().sum(dtype=torch.float64))
        return squared

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """See :meth:`CodeQuantizer.encode`."""
        codebooks = self.state()["codebooks"].to(torch.float32)
        blocks = _blocks(self.embedding_dim, self.config.num_codebooks)
        codes = torch.empty((len(vectors), len(blocks)), dtype=torch.int64, device=vectors.device)
        for number, columns in enumerate(blocks if len(vectors) else []):
            codes[:, number] = nearest(vectors[:, columns].contiguous(), codebooks[:, columns].contiguous())
        return pack(codes, self.code_bits(self.config))

    def decode(self, packed: Tensor) -> Tensor:
        """See :meth:`CodeQuantizer.decode`."""
        codes, codebooks = self.unpack(packed), self.codebooks
        blocks = _blocks(self.embedding_dim, self.config.num_codebooks)
        return torch.cat([codebooks[:, columns][codes[:, m]] for m, columns in enumerate(blocks)], dim=1)

    @property
    def codebooks(self) -> Tensor:
        """(K, D) float32: the codewords of block m are in its columns."""
        self._require_fitted()
        return self._state["codebooks"].to(torch.float32)

    def logits(self, hidden: Tensor) -> Tensor:
        """Products with every row: what an output layer needs, without the table (Shi & Yu, section 3).

        The products of each block with its K codewords are made once, then gathered by code and summed.

        Args:
            hidden: (B, D).

        Returns:
            (B, N), equal to ``hidden @ to_dense().T``; differentiable in ``hidden`` and in the codebooks.
        """
        codes, codebooks = self.codes(), self.codebooks
        out = torch.zeros((len(hidden), self.num_embeddings), dtype=codebooks.dtype, device=codebooks.device)
        for number, columns in enumerate(_blocks(self.embedding_dim, self.config.num_codebooks)):
            out = out + (hidden[:, columns] @ codebooks[:, columns].T)[:, codes[:, number]]
        return out


def _blocks(embedding_dim: int, num_codebooks: int) -> list[slice]:
    """Columns of each block: as equal as they can be, the wider ones first."""
    count = min(num_codebooks, embedding_dim)
    width, wider = divmod(embedding_dim, count)
    ends = [number * width + min(number, wider) for number in range(count + 1)]
    return [slice(begin, end) for begin, end in zip(ends, ends[1:], strict=False)]
