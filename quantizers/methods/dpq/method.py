"""Differentiable product quantization: codes and codewords of column blocks that a task can train.

Paper: Chen, Li & Sun, "Differentiable Product Quantization for End-to-End Embedding Compression" (ICML 2020).
Each row has a query q, cut into M blocks; block m has K keys and K values. SX: code = argmax_k q_m . k_m + b_m, output the
value of that code, gradient through softmax((q_m . k_m + b_m) / tau). VQ: keys and values are the same, code = the nearest,
gradient of the output handed to q as it is, and |v - sg(q)|^2 + beta |sg(v) - q|^2 added to the loss (sg: no gradient).

Payload: as product quantization's, N * ceil(M * ceil(log2 K) / 8) bytes of codes and K * D * 4 of values (K * D * 2 in
float16, K * (D + 2 * M) in int8, each with a factor); queries and keys are not needed to rebuild a row.

What the paper leaves open, and what is done here: a table is fitted with its rows as fixed queries. The fit starts from a
few steps of k-means, goes on with Adam on the variant's own loss, and ends with every row coded by its nearest value, which
is never worse than by its keys. On a fixed table neither variant can do better than product quantization's optimum, which
VQ comes nearer to than k-means does (by 1 to 2 % on 10,000 rows of GloVe 50d), and SX does not; what DPQ adds is the
training module. That has the rows as queries (or, with ``train_queries=False``, frozen), the values as keys, and
b = -|k|^2 / 2 at the start (b is not in the paper; without it a dot product prefers long keys, and the training would
start from other codes). tau is relative to the mean squared error of a block at the start.

Shapes: N rows, D columns, B batch, M num_codebooks (blocks), K codebook_size, d columns of the widest block.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import (
    Budget,
    FitStep,
    QuantizerConfig,
    Role,
    Skip,
    StorageCost,
    generator,
)
from quantizers.codes import CodeQuantizer, block_layouts
from quantizers.coding.bits import pack
from quantizers.coding.codebooks import CodebookDtype, codebook_dtypes_for, stored, stored_bytes
from quantizers.embedding import CompressedEmbedding
from quantizers.fitting.checkpoint import Checkpoint
from quantizers.fitting.kmeans import kmeans, nearest
from quantizers.fitting.minibatches import Minibatches, chunks, moments
from quantizers.methods.dpq.module import Blocks, DPQEmbedding, DPQNetwork
from quantizers.table import Table, TableStats

_REPORTS = 10
_FINAL_RATE = 0.05
_START_ITERATIONS = 4
_SAMPLE_ROWS = 2048


class DPQConfig(QuantizerConfig):
    """Parameters of differentiable product quantization.

    Attributes:
        num_codebooks: M, blocks of columns, at most D.
        codebook_size: K, codes of a block.
        codebook_dtype: what the values are stored in, int8 with a float16 factor for each.
        variant: ``sx`` (softmax over keys) or ``vq`` (nearest value).
        epochs: passes over the table; None for 100 to 1,000 steps by the number of rows.
        batch_size: rows a step.
        learning_rate: of Adam, relative to the table's standard deviation; None for 0.03 (VQ) or 0.001 (SX).
        tau: temperature of SX, relative to the mean squared error of a block.
        commitment: beta of VQ.
        train_queries: whether a training with a task moves the rows' queries too.
    """

    num_codebooks: int = Field(default=8, ge=1, le=65_536)
    codebook_size: int = Field(default=256, ge=2, le=65_536)
    codebook_dtype: CodebookDtype = "float32"
    variant: Literal["sx", "vq"] = "vq"
    epochs: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    tau: float = Field(default=1.0, gt=0)
    commitment: float = Field(default=0.25, ge=0)
    train_queries: bool = True


class DPQ(CodeQuantizer):
    """One code for each block of columns. State: ``codes`` (N, L) and ``codebooks`` (K, D), block m in its columns."""

    name = "dpq"
    Config = DPQConfig
    reference = "Chen, Li & Sun, ICML 2020"
    state_roles: ClassVar[dict[str, Role]] = {"codes": "code", "codebooks": "codebook", "codebooks_scale": "codebook"}
    codebook_state: ClassVar[dict[str, bool]] = {"codebooks": True}
    uses_weights = True
    iterative = True

    @classmethod
    def examples(cls) -> Sequence[DPQConfig]:
        """Both variants, blocks of unequal width, a K that is no power of two."""
        return [
            DPQConfig(num_codebooks=4, codebook_size=16),
            DPQConfig(num_codebooks=3, codebook_size=11, variant="sx", codebook_dtype="float16"),
            DPQConfig(num_codebooks=5, codebook_size=8, train_queries=False),
        ]

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[DPQConfig] | Skip:
        """The K, at most 256, and M that maximize ``M * b * (b + 25)``, b = log2 K.

        A larger K makes better use of its bits and leaves fewer of them; 25 weighs the one against the other.
        """
        ranked = []
        for number, dtype in enumerate(codebook_dtypes_for(stats)):
            for bits in range(1, 9):
                config = DPQConfig(codebook_dtype=dtype)
                for num_codebooks, size in block_layouts(cls, config, budget, stats.shape, bits, stats.embedding_dim):
                    worth = num_codebooks * math.log2(size) * (math.log2(size) + 25)
                    ranked.append((worth, num_codebooks, -number, size, dtype))
        if not ranked:
            return Skip(f"one code a row and one codebook take more than {budget.payload_bytes} bytes")
        _, num_codebooks, _, size, dtype = max(ranked)
        return [DPQConfig(num_codebooks=num_codebooks, codebook_size=size, codebook_dtype=dtype)]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Codes and values, exact."""
        count = cls.num_codes(config, shape[1])
        codebooks = stored_bytes(config.codebook_size, shape[1], config.codebook_dtype, side_by_side=count)
        return StorageCost(shape[0] * cls.code_bytes_per_row(config, shape[1]), codebooks)

    @classmethod
    def check(cls, config: Any, shape: tuple[int, int]) -> Skip | None:
        """More codes than rows, or more blocks than columns, make no sense."""
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

    @property
    def codebooks(self) -> Tensor:
        """(K, D) float32: the values of block m are in its columns."""
        return self.codewords("codebooks")

    def encode(self, vectors: Tensor) -> Tensor:
        """The nearest value of every block: (B, D) float32 -> (B, L) uint8."""
        count = self.num_codes(self.config, self.embedding_dim)
        blocks = zip(vectors.tensor_split(count, dim=1), self.codebooks.tensor_split(count, dim=1), strict=True)
        codes = [nearest(block.contiguous(), values.contiguous()) for block, values in blocks]
        return pack(torch.stack(codes, dim=1), self.code_bits(self.config))

    def decode(self, packed: Tensor) -> Tensor:
        """The values side by side: (B, L) uint8 -> (B, D) float32."""
        blocks = _blocks(self.embedding_dim, self.num_codes(self.config, self.embedding_dim), packed.device)
        return blocks.look_up(self.unpack(packed), blocks.cut(self.codebooks).transpose(0, 1))

    def codeword_products(self, hidden: Tensor) -> Tensor:
        """See :class:`quantizers.output.summed.SumOfCodewords`; a codeword is zero outside its block."""
        blocks = _blocks(self.embedding_dim, self.num_codes(self.config, self.embedding_dim), hidden.device)
        return torch.einsum("bmw,kmw->mkb", blocks.cut(hidden), blocks.cut(self.codebooks))

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        vectors, size = table.vectors, self.config.codebook_size
        blocks = vectors.tensor_split(self.num_codes(self.config, table.embedding_dim), dim=1)
        books = []
        for number, block in enumerate(blocks):
            random = generator(seed, 1 + number)
            books.append(kmeans(block.contiguous(), size, generator=random, weights=weights, iterations=_START_ITERATIONS))
            yield FitStep("kmeans", 0.2 * (number + 1) / len(blocks))
        _, unit, _ = moments(vectors)
        steps = self._steps(table.num_embeddings) if unit else 0
        unit = unit or 1.0
        random = generator(seed)
        sample = next(Minibatches(len(vectors), _SAMPLE_ROWS, 1, generator=random, weights=weights)).to(vectors.device)
        network = self._network(torch.cat(books, dim=1), vectors[sample], unit)
        vq = self.config.variant == "vq"
        rate = self.config.learning_rate or (0.03 if vq else 1e-3)
        self._resolve(epochs=round(steps / math.ceil(len(vectors) / self.config.batch_size), 3), learning_rate=rate)
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        batches = Minibatches(len(vectors), self.config.batch_size, steps, generator=random, weights=weights)
        saved = Checkpoint("dpq", network=network, optimizer=optimizer, batches=batches)
        for done, ids in enumerate(batches, batches.done):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - (1 - _FINAL_RATE) * done / steps)
            x = vectors[ids.to(vectors.device)] / unit
            with torch.enable_grad():
                # Fixed queries leave VQ nothing but its own term.
                loss = network.distance(x) if vq else (network(x) - x).square().sum(dim=1).mean()
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if (done + 1) % max(1, steps // _REPORTS) == 0 and done + 1 < steps:
                with torch.no_grad():
                    error = float((network(vectors[sample] / unit) - vectors[sample] / unit).square().sum(dim=1).mean())
                yield FitStep("train", 0.2 + 0.8 * (done + 1) / (steps + 1), 0.5 * error * unit * unit)
            saved.save()
        codebooks = self._stored(network, unit)
        begin = time.perf_counter()
        self._set_state(codebooks)  # encode needs the values as they are stored
        self._set_state({"codes": self.encode(vectors), **codebooks})
        self.encode_seconds = time.perf_counter() - begin
        error = float(((self.reconstruct(sample) - vectors[sample]) / unit).square().sum(dim=1).mean())
        yield FitStep("train", 1.0, 0.5 * error * unit * unit)

    def _steps(self, num_embeddings: int) -> int:
        if self.config.epochs is not None:
            return int(self.config.epochs * math.ceil(num_embeddings / self.config.batch_size))
        return min(1000, max(100, num_embeddings // 20))

    def _network(self, codebooks: Tensor, sample: Tensor, unit: float) -> DPQNetwork:
        """A network that starts from ``codebooks`` (K, D); rows ``sample`` say how far from them a block is."""
        num_codebooks = self.num_codes(self.config, codebooks.shape[1])
        network = DPQNetwork(codebooks / unit, num_codebooks, self.config)
        with torch.no_grad():
            error = float(network.distance(sample / unit)) / (1 + self.config.commitment) / num_codebooks
        network.tau = self.config.tau * max(error, 1e-6)
        return network

    @classmethod
    def _of_network(cls, config: Any, network: DPQNetwork, queries: Tensor, unit: float) -> Self:
        """The quantizer whose codes are those of ``queries`` (N, D), in units."""
        self = cls(config)
        self._shape = (queries.shape[0], queries.shape[1])
        count = self.num_codes(config, queries.shape[1])
        parts = chunks(queries, count * config.codebook_size)
        codes = torch.cat([network.scores(part).argmax(dim=2) for _, part in parts])
        self._set_state({"codes": pack(codes, self.code_bits(config)), **self._stored(network, unit)})
        return self

    def _stored(self, network: DPQNetwork, unit: float) -> dict[str, Tensor]:
        values = network.codebooks().detach() * unit
        count = self.num_codes(self.config, values.shape[1])
        return stored("codebooks", values, self.config.codebook_dtype, side_by_side=count)

    def training_module(self, table: Table, *, seed: int = 0) -> CompressedEmbedding:
        """See :class:`DPQEmbedding`."""
        _, unit, _ = moments(table.vectors)
        unit = unit or 1.0
        sample = next(Minibatches(table.num_embeddings, _SAMPLE_ROWS, 1, generator=generator(seed))).to(table.vectors.device)
        network = self._network(self.codebooks, table.vectors[sample], unit)
        return DPQEmbedding(self, table, network, unit, sample, type(self)._of_network)


@functools.lru_cache(maxsize=64)
def _blocks(embedding_dim: int, num_codebooks: int, device: torch.device) -> Blocks:
    return Blocks(embedding_dim, num_codebooks).to(device)
