"""AdaComp: each row chooses one of several binary code-books of different lengths.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), equations 1 to 8 (in ``network``).
Stored: which code-book each row has (ceil(log2 C) bits a row), its bits in that code-book, one row after the other without
gaps, and of each code-book the decoder W_k (n_k * D values) and b'_k (D float32). The selector's network and the encoders'
biases b_k are not needed to rebuild a row and are not stored: a quantizer has them as long as it lives in the process that
fitted it, and goes on from them in a training with a task (``embedding``).

What the paper leaves open, and what is done here:

- tau falls geometrically from 1 to 0.1 over the pretraining, and again over the first 0.3 of a training with a task;
  annealing the paper does not mention, but the deployed selection is hard. Early stopping waits for it.
- Pretraining "until it converges": 200 to 3,000 steps of 512 rows (by N) with a rate that falls to a twentieth, from a start
  by least squares; ``batch_size=64, epochs=...`` is the paper's. Equation 8 is a sum over the batch, so that rule 4 does not
  depend on the batch; lambda P is added in pretraining too.
- A selector trained with equation 8 alone takes the longest code-book for nearly every row; the paper's takes it for about
  80 % (figure 2). A load term (``balance``, in ``selection``) keeps ours from saturating.
- The size is whatever the selector makes it. With a budget or ``max_payload_bytes`` there are two ways. ``limit="error"``:
  in pretraining another rule takes the selector's place, the code-books that minimize error + mu * bits, with the mu that
  keeps the size, found anew 12 times, so that each code-book learns the rows that it will hold.
  ``limit="selector"``: a rate term in every loss makes the selector itself keep the size (``selection``). Either way what
  the selector is over the size in the end is taken off by -log alpha + mu * bits.

Shapes: N rows, D columns, B batch, C code-books, n_k bits of code-book k, T = sum of all n_k.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost, generator
from quantizers.coding.bits import bits_for, pack, unpack
from quantizers.coding.codebooks import KeptCodewords, codebook_dtypes_for, codewords, stored
from quantizers.embedding import CompressedEmbedding
from quantizers.errors import InputError
from quantizers.fitting.checkpoint import Checkpoint, Notes
from quantizers.fitting.minibatches import Minibatches, chunks
from quantizers.methods.adacomp.embedding import AdaCompEmbedding, restore
from quantizers.methods.adacomp.finish import finish
from quantizers.methods.adacomp.network import AdaCompNetwork, unit
from quantizers.methods.adacomp.selection import allocate, shares
from quantizers.methods.adacomp.storage import (
    AdaCompConfig,
    check_state,
    decoder_bytes,
    fixed_bytes,
    largest,
    most_bytes,
    stream,
    too_few_bytes,
)
from quantizers.methods.adacomp.training import Pretraining
from quantizers.table import Table, TableStats

_REPORTS = 20
_ALLOCATIONS = 12
_START_ROWS = 8192
_MAX_WORK = 2.5e12  # multiplications and additions of a whole pretraining: about two minutes on one core


class AdaComp(Quantizer):
    """State: ``books`` (packed, absent with one code-book), ``codes`` (packed), ``decoder`` (T, D), ``bias`` (C, D)."""

    name = "adacomp"
    Config = AdaCompConfig
    reference = "Kim, Kim & Lee 2020, equations 1-8"
    state_roles: ClassVar[dict[str, Role]] = {
        "codes": "code",
        "books": "side",
        "decoder": "codebook",
        "decoder_scale": "codebook",
        "bias": "codebook",
    }
    uses_weights = True
    linear_state = ("decoder", "bias")
    iterative = True
    lookup = False

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        self._index: tuple[Tensor, Tensor] | None = None
        self._kept = KeptCodewords()
        # The network of a fit of this process, which no file and no copy has, and whether its selector chose the code-books.
        self._trained: tuple[AdaCompNetwork, bool] | None = None

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[AdaCompConfig] | Skip:
        """Code-books of L, L/2 (and L/4, L/8) bits, L so that rows may have 0.8 L on average.

        0.8 was the best of 0.5, 0.65, 0.8 on GloVe 50d and 100d at 8 to 32 times smaller. Four code-books are better than
        two where their decoders are a small part of the budget (by 2 %), and worse where they are not (by 5 %). Codes of -1
        and 1 came out 5 to 7 % better than those of 0 and 1; stored they are the same.
        """
        if budget.payload_bytes < 1:
            return Skip("there is no code of no bytes")
        for count in (4, 2):
            config = largest(count, codebook_dtypes_for(stats), budget.payload_bytes, stats.shape)
            if config is not None and (
                count == 2 or decoder_bytes(config, stats.embedding_dim) < 0.1 * budget.payload_bytes
            ):
                return [config]
        return Skip(f"code-books of 2 bits and 1 bit take more than {budget.payload_bytes} bytes")

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """An upper bound: every row in the longest code-book, or ``max_payload_bytes``."""
        return most_bytes(config, shape)

    @classmethod
    def check(cls, config: Any, shape: tuple[int, int]) -> Skip | None:
        """``max_payload_bytes`` must hold every row in the shortest code-book."""
        return too_few_bytes(config, shape)

    @classmethod
    def examples(cls) -> Sequence[AdaCompConfig]:
        """Four code-books whose lengths fill no bytes, one alone, signs, and a size that is kept, in each way."""
        return [
            AdaCompConfig(code_lengths=(48, 24, 12, 5), epochs=40),
            AdaCompConfig(code_lengths=(20,), codebook_dtype="float16", epochs=40),
            AdaCompConfig(code_lengths=(16, 16, 8), code_values="pm1", epochs=40),
            AdaCompConfig(code_lengths=(48, 24, 12), max_payload_bytes=8_000, epochs=40),
            AdaCompConfig(code_lengths=(48, 24, 12), max_payload_bytes=8_000, limit="selector", epochs=40),
            AdaCompConfig(code_lengths=(32, 16, 8), max_payload_bytes=7_000, finish=True, epochs=40),
        ]

    # Fitting -----------------------------------------------------------------------------------------------------

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        config, vectors = self.config, table.vectors
        self._trained = None
        max_bits = self._max_bits(budget)
        by_error = max_bits is not None and config.limit == "error"
        random = generator(seed)
        network = self._blank_network(vectors)
        sample = next(Minibatches(len(vectors), _START_ROWS, 1, generator=random, weights=weights)).to(vectors.device)
        probe, steps = sample[:2048], 0
        mean, scale = unit(vectors)
        if scale > 0:
            network.start(vectors[sample] / scale, random)
            steps = self._steps(table.num_embeddings)
        else:  # all rows are the same: b' says it all
            network.decoder_bias.data.copy_(mean.expand_as(network.decoder_bias))
        epochs = round(steps / max(1, math.ceil(table.num_embeddings / config.batch_size)), 3)
        most = self.storage(config, table.shape).payload_bytes
        self._resolve(epochs=epochs, max_payload_bytes=most if max_bits is None else self._limit(budget))
        bits_a_row = None if max_bits is None or by_error else max_bits / table.num_embeddings
        training = Pretraining(network, vectors, config, steps, bits_a_row, random)
        batches = Minibatches(len(vectors), config.batch_size, steps, generator=random, weights=weights)
        notes = Notes(books=None)
        parts: dict[str, Any] = {"network": network, "optimizer": training.optimizer, "terms": training.terms}
        saved = Checkpoint("adacomp", **parts, batches=batches, notes=notes)
        books: Tensor | None = None if notes.books is None else notes.books.to(vectors.device)
        training.done = batches.done
        for step, ids in enumerate(batches, batches.done):
            if by_error and step % max(1, steps // _ALLOCATIONS) == 0:
                books = notes.books = self._choose(_error_costs(network, vectors, weights), max_bits)
            ids = ids.to(vectors.device)
            loss = training.step(ids, None if books is None else books[ids])
            if (step + 1) % max(1, steps // _REPORTS) == 0 and step + 1 < steps:
                chosen = network.costs(vectors[probe]).argmin(dim=1) if books is None else books[probe]
                yield self._report((step + 1) / (steps + 1), network, vectors[probe], chosen, train_loss=loss)
            saved.save()
        begin = time.perf_counter()
        books = self._choose(_error_costs(network, vectors, weights) if by_error else network.costs(vectors), max_bits)
        self._store(network, vectors, books)
        self.encode_seconds = time.perf_counter() - begin
        yield self._report(1.0, network, vectors[probe], books[probe], books)
        if config.finish:
            self._finish(network, vectors, books, weights, max_bits, random)
            error = (self.reconstruct(probe) - vectors[probe]).square().sum(dim=1).mean()
            yield FitStep("finish", 1.0, 0.5 * float(error), shares(self.books(), len(config.code_lengths)))
        else:
            self._trained = network, not by_error

    def _blank_network(self, vectors: Tensor) -> AdaCompNetwork:
        signs, scale = self.config.code_values == "pm1", unit(vectors)[1] or 1.0
        return AdaCompNetwork(self.config.code_lengths, vectors.shape[1], signs=signs, unit=scale).to(vectors.device)

    def _limit(self, budget: Budget | None) -> int | None:
        limits = [self.config.max_payload_bytes, None if budget is None else budget.payload_bytes]
        return min((limit for limit in limits if limit is not None), default=None)

    def _max_bits(self, budget: Budget | None) -> int | None:
        limit = self._limit(budget)
        if limit is None:
            return None
        bits = int(8 * (limit - fixed_bytes(self.config, self.shape)))
        if bits < self.num_embeddings * min(self.config.code_lengths):
            raise InputError(
                f"adacomp: {limit} bytes hold not even every row in the shortest of the code-books "
                f"{self.config.code_lengths}; choose shorter ones."
            )
        return bits

    def _choose(self, costs: Tensor, max_bits: int | None) -> Tensor:
        """The cheapest code-book of every row, or what comes nearest within ``max_bits``: (N, C) -> (N,)."""
        return costs.argmin(dim=1) if max_bits is None else allocate(costs, self.config.code_lengths, max_bits)

    def _steps(self, num_embeddings: int) -> int:
        if self.config.epochs is not None:
            return int(self.config.epochs * max(1, math.ceil(num_embeddings / self.config.batch_size)))
        affordable = int(_MAX_WORK / (12 * self.config.batch_size * sum(self.config.code_lengths) * self.embedding_dim))
        return max(200, min(3000, max(300, num_embeddings // 5), affordable))

    def _report(
        self,
        fraction: float,
        network: AdaCompNetwork,
        vectors: Tensor,
        chosen: Tensor,
        books: Tensor | None = None,
        **metrics: float,
    ) -> FitStep:
        """Error of rows ``vectors`` (B, D) in the code-books ``chosen`` (B,), and the shares of those, or of ``books``."""
        error = 0.5 * float(network.errors(vectors).gather(1, chosen[:, None]).mean()) * network.unit**2
        metrics |= shares(chosen if books is None else books, len(self.config.code_lengths))
        return FitStep("pretrain", fraction, error, metrics)

    @torch.no_grad()
    def _finish(
        self,
        network: AdaCompNetwork,
        vectors: Tensor,
        books: Tensor,
        weights: Tensor | None,
        max_bits: int | None,
        random: torch.Generator,
    ) -> None:
        lengths, scale = self.config.code_lengths, network.unit
        e = vectors / scale
        codes = torch.cat([network.code(part) > 0 for _, part in chunks(e, 2 * sum(lengths))])
        books, codes, w, b = finish(e, books, codes, lengths, weights=weights, max_bits=max_bits, generator=random)
        self._write(books, codes, stored("decoder", w * scale, self.config.codebook_dtype), b * scale)

    @torch.no_grad()
    def _store(self, network: AdaCompNetwork, vectors: Tensor, books: Tensor) -> None:
        """Set the state: hard codes of every row in its code-book, with the decoder as it is stored."""
        config, scale, lengths = self.config, network.unit, list(self.config.code_lengths)
        step = 1.0 - network.low  # what a bit adds
        decoder = stored("decoder", network.weights * (step * scale), config.codebook_dtype)
        # Codes of the decoder as it is stored: a training module, which has no other, then finds their thresholds.
        encoder = codewords(decoder, "decoder") / (step * scale)
        bias = network.decoder_bias + network.low * torch.stack([part.sum(dim=0) for part in torch.split(encoder, lengths)])
        parts = [part for _, part in chunks(vectors, sum(lengths))]
        codes = torch.cat([torch.addmm(network.encoder_bias, part / scale, encoder.T) >= 0 for part in parts])
        self._write(books.to(torch.int64), codes, decoder, bias * scale)

    def _write(self, books: Tensor, codes: Tensor, decoder: dict[str, Tensor], bias: Tensor) -> None:
        """Set the state, of the bits (N, T) of every row in every code-book those of its own."""
        count = len(self.config.code_lengths)
        state = {"codes": stream(books, codes, self.config.code_lengths), **decoder, "bias": bias}
        if count > 1:
            state["books"] = pack(books[None], bits_for(count))[0]
        self._index = None
        self._set_state(state)

    # Use ---------------------------------------------------------------------------------------------------------

    def books(self, ids: Tensor | None = None) -> Tensor:
        """Which code-book rows ``ids`` (default: all) have: (B,) int64."""
        chosen = self._row_index()[0]
        return (chosen if ids is None else chosen[ids]).to(torch.int64)

    def _row_index(self) -> tuple[Tensor, Tensor]:
        """Code-book and first bit of every row: two (N,) tensors, worked out once."""
        if self._index is None:
            state, lengths = self.state(), self.config.code_lengths
            books = torch.zeros(self.num_embeddings, dtype=torch.int64, device=self.device)
            if "books" in state:
                books = unpack(state["books"][None], self.num_embeddings, bits_for(len(lengths)))[0]
            bits = torch.tensor(lengths, device=self.device)[books]
            self._index = (books.to(torch.uint8), bits.cumsum(0) - bits)
        return self._index

    def row_bits(self, ids: Tensor, book: int) -> Tensor:
        """The bits of rows ``ids``, all of code-book ``book``: (B, n_k) float32 of 0 and 1."""
        places = self._row_index()[1][ids][:, None] + torch.arange(self.config.code_lengths[book], device=ids.device)
        octets = self._state["codes"][places >> 3]
        return ((octets >> (places & 7).to(torch.uint8)) & 1).to(torch.float32)

    def reconstruct(self, ids: Tensor) -> Tensor:
        """W_k code + b'_k of each row's own code-book."""
        self._require_fitted()
        lengths = list(self.config.code_lengths)
        decoders = torch.split(self._kept.of(self._state, "decoder"), lengths)
        parts = []
        for _, some in chunks(ids, 4 * max(lengths)):
            order = self.books(some).argsort(stable=True)
            counts = torch.bincount(self.books(some), minlength=len(lengths)).tolist()
            rows = [
                torch.addmm(self._state["bias"][book], self.row_bits(members, book), decoders[book])
                for book, members in enumerate(torch.split(some[order], counts))
            ]
            parts.append(torch.cat(rows)[order.argsort()])
        return torch.cat(parts) if parts else self._state["bias"].new_zeros((0, self.embedding_dim))

    def training_module(self, table: Table, *, seed: int = 0) -> CompressedEmbedding:
        """See :class:`AdaCompEmbedding`; the network goes on from where the fit left it.

        A quantizer that was read from a file, copied or unpickled has no network: its autoencoders are found again from
        ``table`` and the codes, and its selector starts anew, each row with a lead for the code-book that it has. So does
        one whose code-books were given by errors. Bits that were searched for are no signs of anything: after ``finish``
        they stay, and the decoders are trained.
        """
        if self.config.finish:
            return super().training_module(table, seed=seed)
        chosen = False
        if self._trained is None:
            network = self._blank_network(table.vectors)
            restore(network, table.vectors, self.books(), self.row_bits, self.state())
        else:
            network, chosen = copy.deepcopy(self._trained[0]).to(table.vectors.device), self._trained[1]
        max_bits = self._max_bits(None)
        bits_a_row = max_bits / self.num_embeddings if max_bits and self.config.limit == "selector" else None
        books = None if chosen else self.books()
        return AdaCompEmbedding(self, table, network, books, bits_a_row, type(self)._of_network, seed)

    @classmethod
    def _of_network(cls, config: Any, network: AdaCompNetwork, vectors: Tensor, costs: Tensor) -> Self:
        self = cls(config)
        self._shape = (vectors.shape[0], vectors.shape[1])
        self._store(network, vectors, self._choose(costs, self._max_bits(None)))
        return self

    def verify(self) -> None:
        """The decoders are stored as they should be, and the codes have the bits of all rows."""
        check_state(self._state, self.config, self.num_embeddings)

    def to(self, device: torch.device | str) -> Self:
        """See :meth:`Quantizer.to`; the network moves too."""
        moved = super().to(device)
        if self._trained is not None:
            moved._trained = copy.deepcopy(self._trained[0]).to(device), self._trained[1]
        return moved

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None, "_trained": None}


def _error_costs(network: AdaCompNetwork, vectors: Tensor, weights: Tensor | None) -> Tensor:
    """Squared errors of every row in every code-book (N, C), weighted by ``weights`` (N,)."""
    errors = network.errors(vectors)
    return errors if weights is None else errors * weights[:, None]
