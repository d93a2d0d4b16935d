"""Binary autoencoder: a row becomes n bits, from which a tied layer rebuilds it.

Paper: Tissier, Gravier & Habrard, "Near-lossless Binarization of Word Embeddings" (AAAI 2019), the ``rec`` variant.
Equations: code h(W x), h(a) = 1[a > 0]; reconstruction x_hat = tanh(W^T code + c); loss mean |x - x_hat|^2 +
lambda / 2 * |W W^T - I|^2. The gradient goes through the decoder only (h has none). The table is scaled into [-1, 1] first.

Payload: N * ceil(n / 8) bytes of bits, the decoder W (n * D values), c (D float32) and the scale (4 bytes). The paper's rule
is N * n / 8 + (n + 1) * D * 4. Encoding new vectors needs no more than that, because W is tied.

What the paper leaves open, or what two recipes differ in:

- ``paper``: batches of 75, plain gradient descent on the batch's sum at rate 1e-3 (times 0.95 an epoch), lambda 1, 5 epochs
  (on 400,000 rows), a random start of Frobenius norm 1, scale = max |x|: as in the authors' program.
- ``fast`` (default): the start is a stack of random orthonormal frames, each bit's length and c set by least squares, then
  Adam on the mean loss, its rate relative to the start's root mean square weight and falling to a twentieth, lambda 1e-3,
  scale = 2 max |x| so that tanh is nearly linear. On 10,000 rows of GloVe 50d, 1 to 3 seconds: half squared error 2.81 /
  1.75 / 1.06 at 64 / 128 / 256 bits; 50 epochs of the paper's recipe 2.98 / 1.82 / 1.09, 5 epochs 3.13 at 64 bits.

Shapes: N rows, D columns, B batch, n num_bits, L = ceil(n / 8) bytes a row.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Budget, FitStep, QuantizerConfig, Role, Skip, StorageCost, generator
from quantizers.codes import CodeQuantizer
from quantizers.coding.bits import pack, row_bytes
from quantizers.coding.codebooks import CodebookDtype, codebook_dtypes_for, stored, stored_bytes
from quantizers.coding.streams import unpack_bits
from quantizers.fitting.checkpoint import Checkpoint
from quantizers.fitting.minibatches import Minibatches, chunks, moments
from quantizers.table import Table, TableStats

MAX_BITS = 8192
_MAX_BITS_A_COLUMN = 16
_REPORTS = 20
_START_ROWS = 8192
_FINAL_RATE = 0.05
_MAX_WORK = 2e12  # multiplications and additions of a whole training: a minute or two on one core


class BinConfig(QuantizerConfig):
    """Parameters of the binary autoencoder.

    Attributes:
        num_bits: n, bits a row.
        recipe: how it is trained; see the module. None below means the recipe's own value.
        epochs: passes over the table (fast: 200 to 4,000 steps, by the size of the table and of the code).
        batch_size: rows a step (fast 512, paper 75).
        learning_rate: of the first step (fast 0.05, relative to the weights; paper 1e-3).
        orthogonality: lambda (fast 1e-3, paper 1).
        codebook_dtype: what the decoder is stored in, int8 with a float16 factor for each bit; c is float32 always.
    """

    num_bits: int = Field(default=128, ge=1, le=MAX_BITS)
    recipe: Literal["fast", "paper"] = "fast"
    epochs: int | None = Field(default=None, ge=0)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    orthogonality: float | None = Field(default=None, ge=0)
    codebook_dtype: CodebookDtype = "float32"


class Bin(CodeQuantizer):
    """n one-bit codes a row. State: ``codes`` (N, L), ``decoder`` (n, D), ``bias`` (D,), ``scale`` (1,)."""

    name = "bin"
    Config = BinConfig
    reference = "Tissier et al. 2019, rec"
    state_roles: ClassVar[dict[str, Role]] = {
        "codes": "code",
        "decoder": "codebook",
        "decoder_scale": "codebook",
        "bias": "codebook",
        "scale": "side",
    }
    codebook_state: ClassVar[dict[str, bool]] = {"decoder": False}
    uses_weights = True
    iterative = True
    lookup = False

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[BinConfig] | Skip:
        """The most bits that fit, at most 16 a column."""
        num_embeddings, dim = stats.shape
        left = budget.payload_bytes - cls.storage(BinConfig(num_bits=1), stats.shape).side_bytes - 4 * dim
        most_bits = min(MAX_BITS, _MAX_BITS_A_COLUMN * dim)
        found = []
        for dtype in codebook_dtypes_for(stats):
            # With L bytes a row there are at most 8 L bits, and no more than the rest pays decoder rows for.
            most = [
                min(8 * row, (left - num_embeddings * row) // stored_bytes(1, dim, dtype))
                for row in range(1, 1 + row_bytes(most_bits, 1))
            ]
            found.append((min(max(most), most_bits), dtype))
        bits, dtype = max(found, key=lambda entry: entry[0])  # of equals the first, which is the more exact
        if bits < 1:
            return Skip(f"one bit a row and its decoder take more than {budget.payload_bytes} bytes")
        return [BinConfig(num_bits=bits, codebook_dtype=dtype)]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """Bits, decoder and bias, scale; exact."""
        num_embeddings, dim = shape
        decoder = stored_bytes(config.num_bits, dim, config.codebook_dtype)
        return StorageCost(num_embeddings * row_bytes(config.num_bits, 1), decoder + dim * 4, 4)

    @classmethod
    def examples(cls) -> Sequence[BinConfig]:
        """Both recipes, a number of bits that does not fill its bytes, a decoder in float16."""
        return [
            BinConfig(num_bits=64),
            BinConfig(num_bits=13, codebook_dtype="float16"),
            BinConfig(num_bits=16, recipe="paper"),
        ]

    @classmethod
    def num_codes(cls, config: Any, embedding_dim: int) -> int:
        """How many bits."""
        return int(config.num_bits)

    @classmethod
    def code_values(cls, config: Any) -> int:
        """2."""
        return 2

    @property
    def codebooks(self) -> Tensor:
        """The decoder, (n, 1, D) float32: what each bit adds."""
        return self.codewords("decoder")[:, None]

    def encode(self, vectors: Tensor) -> Tensor:
        """h(W x): (B, D) float32 -> (B, L) uint8."""
        state = self.state()
        encoder = self.codewords("decoder").T
        out = torch.empty((len(vectors), row_bytes(self.config.num_bits, 1)), dtype=torch.uint8, device=vectors.device)
        for rows, part in chunks(vectors, self.config.num_bits):
            out[rows] = pack((part / state["scale"]) @ encoder > 0, 1)
        return out

    def decode(self, packed: Tensor) -> Tensor:
        """Undo :meth:`encode` nearly, scale * tanh(W^T code + c): (B, L) uint8 -> (B, D) float32."""
        state = self.state()
        decoder, bias, scale = self.codewords("decoder"), state["bias"], state["scale"]
        # Small batches, as in the look-ups of a task, are one part; a large one is kept from growing 32 times as floats.
        parts = [torch.addmm(bias, unpack_bits(part, len(decoder)), decoder) for _, part in chunks(packed, len(decoder))]
        return torch.tanh(torch.cat(parts)) * scale if parts else packed.new_zeros((0, len(bias)), dtype=torch.float32)

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        config, vectors = self.config, table.vectors
        paper = config.recipe == "paper"
        mean, deviation, largest = moments(vectors)
        scale = (largest or 1.0) * (1.0 if paper else 2.0)
        random = generator(seed)
        settings = _Settings.of(config)
        batch_size, steps_an_epoch = settings.batch_size, max(1, math.ceil(table.num_embeddings / settings.batch_size))
        steps = self._steps(table.num_embeddings, steps_an_epoch) if deviation else 0
        self._resolve(epochs=round(steps / steps_an_epoch, 3), **dataclasses.asdict(settings))
        sample = next(Minibatches(len(vectors), _START_ROWS, 1, generator=random, weights=weights)).to(vectors.device)
        if deviation == 0:  # one vector says it all, and no bit does
            decoder = torch.zeros((config.num_bits, table.embedding_dim), device=vectors.device)
            bias = torch.atanh((mean / scale).clamp(-0.99, 0.99))
        elif paper:
            decoder = _unit_norm((config.num_bits, table.embedding_dim), random).to(vectors.device)
            bias = _unit_norm((table.embedding_dim,), random).to(vectors.device)
        else:
            decoder, bias = _start(vectors[sample] / scale, config.num_bits, random)
        probe = sample[:2048]
        batches = Minibatches(len(vectors), batch_size, steps, generator=random, weights=weights)
        train = _Training(decoder, bias, settings, steps, steps_an_epoch, paper=paper)
        saved = Checkpoint("bin", decoder=decoder, bias=bias, optimizer=train.optimizer, batches=batches)
        train.done = batches.done
        for step, ids in enumerate(batches, batches.done):
            train.step(vectors[ids.to(vectors.device)] / scale)
            if (step + 1) % max(1, steps // _REPORTS) == 0 and step + 1 < steps:
                yield self._report(vectors[probe], decoder, bias, scale, (step + 1) / (steps + 1))
            saved.save()
        state = {**stored("decoder", decoder, config.codebook_dtype), "bias": bias}
        state["scale"] = torch.tensor([scale], dtype=torch.float32, device=vectors.device)
        self._set_state(state)  # encode needs the decoder as it is stored
        begin = time.perf_counter()
        self._set_state({"codes": self.encode(vectors), **state})
        self.encode_seconds = time.perf_counter() - begin
        yield self._report(vectors[probe], decoder, bias, scale, 1.0)

    def _steps(self, num_embeddings: int, steps_an_epoch: int) -> int:
        if self.config.epochs is not None:
            return int(self.config.epochs) * steps_an_epoch
        if self.config.recipe == "paper":
            return 5 * steps_an_epoch
        affordable = int(_MAX_WORK / (6 * (self.config.batch_size or 512) * self.config.num_bits * self.embedding_dim))
        return max(200, min(4000, max(400, num_embeddings // 5), affordable))

    def _report(self, vectors: Tensor, decoder: Tensor, bias: Tensor, scale: float, fraction: float) -> FitStep:
        scaled = vectors / scale
        code = (scaled @ decoder.T > 0).to(torch.float32)
        error = (torch.tanh(torch.addmm(bias, code, decoder)) - scaled).square().sum(dim=1).mean()
        return FitStep("train", fraction, 0.5 * float(error) * scale * scale, {"ones": float(code.mean())})


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What a configuration leaves to its recipe; names as in :class:`BinConfig`."""

    batch_size: int
    learning_rate: float
    orthogonality: float

    @classmethod
    def of(cls, config: Any) -> _Settings:
        paper = config.recipe == "paper"
        orthogonality = config.orthogonality
        if orthogonality is None:
            orthogonality = 1.0 if paper else 1e-3
        batch_size = config.batch_size or (75 if paper else 512)
        return cls(batch_size, config.learning_rate or (1e-3 if paper else 0.05), orthogonality)


class _Training:
    """Gradient steps on W (n, D) and c (D,), in place; the gradients are written out, as h has none."""

    def __init__(
        self, decoder: Tensor, bias: Tensor, settings: _Settings, steps: int, steps_an_epoch: int, *, paper: bool
    ) -> None:
        self.decoder, self.bias = decoder, bias
        self.paper = paper
        self.steps, self.steps_an_epoch = steps, steps_an_epoch
        self.orthogonality, self.rate = settings.orthogonality, settings.learning_rate
        if not self.paper:
            self.rate *= float(decoder.square().mean().sqrt())
        self.optimizer: torch.optim.Optimizer
        if self.paper:
            self.optimizer = torch.optim.SGD([decoder, bias], lr=self.rate)
        else:
            self.optimizer = torch.optim.Adam([decoder, bias], lr=self.rate, eps=1e-12)
        self.done = 0

    def step(self, x: Tensor) -> None:
        """One step on rows ``x`` (B, D), scaled."""
        decoder = self.decoder
        code = (x @ decoder.T > 0).to(torch.float32)
        rebuilt = torch.tanh(torch.addmm(self.bias, code, decoder))
        # The authors' program adds the batch up, halved; the loss of the paper is a mean.
        slope = (rebuilt - x) * (1 - rebuilt * rebuilt) * (1.0 if self.paper else 2.0 / len(x))
        decoder.grad = torch.addmm(_orthogonality_gradient(decoder), code.T, slope, beta=self.orthogonality)
        self.bias.grad = slope.sum(dim=0)
        rate = 0.95 ** (self.done // self.steps_an_epoch) if self.paper else 1 - (1 - _FINAL_RATE) * self.done / self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate
        self.optimizer.step()
        self.done += 1


def hamming_neighbours(quantizer: CodeQuantizer, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The rows whose bits differ least from those of the queries: search without rebuilding a vector.

    Args:
        quantizer: fitted, with one-bit codes.
        queries: (B,) int64 row numbers (each then finds itself first), or (B, L) uint8 packed codes.
        k: how many, cut to N.

    Returns:
        Row numbers (B, k) and Hamming distances (B, k), int64, nearest first; of equally near rows the first.
    """
    codes = quantizer.state()["codes"]
    packed = queries if queries.dtype == torch.uint8 else codes[queries]
    ones = unpack_bits(torch.arange(256, dtype=torch.uint8, device=codes.device)[:, None], 8).sum(dim=1).to(torch.int32)
    count = min(k, len(codes))
    best = torch.empty((len(packed), 0), dtype=torch.int64, device=codes.device)
    for rows, part in chunks(codes, codes.shape[1] * max(1, len(packed))):
        differ = ones[(packed[:, None] ^ part[None]).to(torch.int64)].sum(dim=2)
        # Distance and row in one number: its order is the order of the answer.
        keys = differ * len(codes) + torch.arange(rows.start, rows.start + len(part), device=codes.device)
        best = torch.cat([best, keys], dim=1).sort(dim=1).values[:, :count]
    return best % len(codes), best // len(codes)


def _orthogonality_gradient(weights: Tensor) -> Tensor:
    """Gradient of |W W^T - I|^2 / 2, W of (n, D); the smaller of the two Gram matrices gives the same."""
    if weights.shape[0] <= weights.shape[1]:
        return 2 * (weights @ weights.T @ weights - weights)
    return 2 * (weights @ (weights.T @ weights) - weights)


def _unit_norm(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    values = torch.rand(shape, generator=random) - 0.5
    return values / float(torch.linalg.vector_norm(values))


def frames(count: int, dim: int, random: torch.Generator) -> Tensor:
    """(count, dim) unit vectors: random orthonormal bases one below the other, the last one cut. On the CPU."""
    bases = [torch.linalg.qr(torch.randn((dim, dim), generator=random))[0] for _ in range(-(-count // dim))]
    return torch.cat(bases)[:count].contiguous()


def fit_lengths(directions: Tensor, code: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares for the length s_j of each bit's direction: x ~ sum_j s_j code_j direction_j + c.

    Args:
        directions: (n, D) unit vectors.
        code: (B, n) 0 or 1, float32.
        x: (B, D).

    Returns:
        s (n,), not negative, and c (D,).
    """
    centred, target = code - code.mean(dim=0), x - x.mean(dim=0)
    gram = (directions @ directions.T) * (centred.T @ centred)
    right = ((centred.T @ target) * directions).sum(dim=1)
    ridge = 1e-4 * float(gram.diagonal().mean()) + 1e-30
    gram.diagonal().add_(ridge)
    lengths = torch.linalg.solve(gram, right)
    # A length below 0 would turn the direction round, and with it the bit; a small one lets training find its own.
    lengths = lengths.clamp_min(0.05 * float(lengths.abs().mean()))
    return lengths, x.mean(dim=0) - (code.mean(dim=0) * lengths) @ directions


def _start(x: Tensor, num_bits: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    directions = frames(num_bits, x.shape[1], random).to(x.device)
    lengths, bias = fit_lengths(directions, (x @ directions.T > 0).to(torch.float32), x)
    return directions * lengths[:, None], bias
