"""Trellis coding: two quantizers by turns, chosen by a state machine, searched with the bits in mind, and entropy-coded.

Papers: Fischer & Wang, "Entropy-constrained trellis-coded quantization" (IEEE Trans. Inf. Theory 1992); Schwarz et al.,
"Hybrid video coding with trellis-coded quantization" (DCC 2019) for two quantizers that both have 0; Duda,
"Asymmetric numeral systems" (arXiv:1311.2540) for the coder.
Equation: with y = (x - mean) B^+ and s_0 = 0, column j has the quantizer q_j = s_j mod 2 and a symbol k_j, whose parity
leads to s_(j+1); y_j is rebuilt as step * sign(k_j) * (2 |k_j| - q_j - shrink), 0 where k_j = 0, and x_hat = mean + y_hat B.
The symbols of a row have the least |y - y_hat|^2 + weight * bits of all ways through the machine.

What a decoder does, row by row:

1. **Class and slot.** ``classes`` has the class of each row, range-coded in blocks of 256 by
   :mod:`quantizers.coding.range_coder` with the frequencies ``class_frequency`` and the block lengths ``class_bytes`` (none
   of them where there is one class). A row of class g has a slot of ``slot_bytes[g]`` bytes: its head in ``heads`` and its
   words in ``tails``, each behind those of the rows before it (:mod:`quantizers.coding.slots`).
2. **Tables.** Column j of class g has table t = ``table_of[table_row[g], j]``, and the context c = 2 t + q. Of a context,
   the magnitudes 1 .. ``largest[c]`` have a frequency each in ``frequency``, context after context, for either sign; 0 has
   what is missing to 2^``precision``. Its symbols are in the order 0, 1, -1, 2, -2, .., and share the numbers below
   2^precision as :func:`quantizers.coding.slots.spread` says.
3. **Symbols** are read one by one; the machine (:mod:`quantizers.methods.trellis.machine`, ``states`` states) goes on by
   each symbol's parity.
4. **Values** as above, with ``shrink[c, min(|k|, 3) - 1]``; then B = ``basis`` (int8) * ``basis_scale``, a factor for each
   axis, or no transform where there is no ``basis``.

Chosen: axes are stored in 8 bits, and coordinates are of the axes as stored, so that rounding them costs next to nothing; a
row's slot is filled by a rate weight of its own, since neither a length nor an end then need be stored.

Row weights enter the axes, the mean, and the weight of a row's bits against its error.

Shapes: N rows, D columns, B batch, r columns that are coded (the rank, or D), G classes, T tables.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost
from quantizers.coding.int8 import to_int8
from quantizers.fitting.gaussian import gaussian_distortion
from quantizers.fitting.principal_axes import Coordinates, principal_axes
from quantizers.methods.trellis.checking import check_rows, check_tables
from quantizers.methods.trellis.filling import choose_classes, code_classes, fill, read_classes
from quantizers.methods.trellis.learning import Learned, energy, learn, nearest_class, rate_weights
from quantizers.methods.trellis.model import STATE_NAMES, Model, rebuilt_values
from quantizers.methods.trellis.reading import Reader
from quantizers.methods.trellis.search import search
from quantizers.table import Table, TableStats

_STEP_BYTES = 4 + 1 + 2 + 1  # step, precision, and one slot
_TABLE_BYTES = 4 + 12  # the first table, all zeros
_LEARNINGS = 3
_NEAR_ENOUGH = 0.015  # of the bits of a row, that may be left over or lacking
_RANKS_TRIED = 64
_STATES = 32  # that are proposed: 2 to 4 percent less error than 8, in twice the time


class TrellisConfig(QuantizerConfig):
    """What a row may take on average, and the axes that it is spent on.

    Attributes:
        row_bits: bits a row for symbols, classes and tables together, on average at the most.
        rank: the most principal axes that are kept, stored in 8 bits a value; 0: no transform, the columns as they are.
            Where table, weights and metric make fewer serve better, the bytes of the others go to the rows.
        states: of the state machine; more find better symbols, and take longer to search, not to read.
        train_rows: rows that step, classes and tables are learned on.
    """

    row_bits: float = Field(default=128.0, ge=1)
    rank: int = Field(default=64, ge=0)
    states: Literal[4, 8, 16, 32, 64] = 8
    train_rows: int = Field(default=1 << 13, ge=1)


class Trellis(Quantizer):
    """Dependent quantization of principal coordinates, entropy-coded in slots that are read alone."""

    name = "trellis"
    Config = TrellisConfig
    reference = "Fischer & Wang 1992; Duda 2013"
    state_roles: ClassVar[dict[str, Role]] = {
        "heads": "code",
        "tails": "code",
        "classes": "code",
        "class_bytes": "side",
        "class_frequency": "side",
        **dict.fromkeys(STATE_NAMES, "side"),
        "basis": "codebook",
        "basis_scale": "codebook",
        "mean": "side",
    }
    uses_weights = True
    linear_state = ("basis", "mean")
    lookup = False
    learns_on_sample = True

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        self._reader: Reader | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[TrellisConfig] | Skip:
        """The transform with the least error that the spectrum predicts for a Gaussian, and all other bytes for the rows.

        Without a transform every column is taken to have the same variance, which is the worst case.
        """
        rows, dim = stats.shape
        spectrum = np.maximum(stats.eigenvalues[: min(stats.shape)], 0)
        equal = np.full(dim, stats.eigenvalues.sum() / dim)
        ranks = {*([] if stats.under_metric else [0]), *_ranks(len(spectrum))}
        best: tuple[float, TrellisConfig] | None = None
        for rank in sorted(ranks):
            row_bits = math.floor(8000 * (budget.payload_bytes - _fixed_cost(rank, stats.shape).payload_bytes) / rows) / 1000
            if row_bits < 1:
                continue
            error = _expected_error(spectrum if rank else equal, rank or dim, row_bits, rows)
            if best is None or error < best[0]:
                best = (error, TrellisConfig(row_bits=row_bits, rank=rank, states=_STATES))
        if best is None:
            smallest = min(_fixed_cost(rank, stats.shape).payload_bytes for rank in (0, 1)) + -(-rows // 8)
            return Skip(f"tables for its columns and a bit a row take {smallest} bytes")
        return [best[1]]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """An upper bound: ``row_bits`` for each row, axes, mean, and the least that tables take."""
        fixed = _fixed_cost(config.rank, shape)
        return dataclasses.replace(fixed, code_bytes=int(shape[0] * config.row_bits / 8), exact=False)

    @classmethod
    def check(cls, config: Any, shape: tuple[int, int]) -> Skip | None:
        """A rank above the table's own makes no sense."""
        if config.rank > min(shape):
            return Skip(f"rank {config.rank} is more than a table of {shape[0]} x {shape[1]} can have")
        return None

    @classmethod
    def takes_metric(cls, config: Any) -> bool:
        """Without axes there is nothing that a metric could be folded into."""
        return bool(config.rank)

    @classmethod
    def examples(cls) -> Sequence[TrellisConfig]:
        """Some axes, and the columns as they are."""
        return [TrellisConfig(row_bits=24, rank=8), TrellisConfig(row_bits=60.5, rank=0, states=4, train_rows=100)]

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        self._reader = None
        mean, spectrum, axes = principal_axes(table.vectors, weights)
        stored: dict[str, Tensor] = {"mean": mean.to(torch.float32)}
        row_bits = self.config.row_bits
        if self.config.rank:
            rank, row_bits = self._axes_that_pay(spectrum.cpu().numpy(), table.shape)
            self._resolve(rank=rank, row_bits=row_bits)
            axes = axes[:rank]
            stored["basis"], stored["basis_scale"] = to_int8(axes)
            axes = torch.linalg.pinv(_axes(stored).to(torch.float64)).T
        else:
            axes = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        coordinates = Coordinates(table.vectors, mean, axes)
        peak = coordinates.peak()
        yield FitStep("rotate", 0.1)
        unit = 2.0 ** math.floor(math.log2(peak)) if peak else 1.0  # so that squares stay in float32's range
        coordinates = coordinates.scaled(1 / unit)
        rate_weight = rate_weights(weights, len(coordinates), row_bits / coordinates.shape[1], coordinates.device)
        model, classes = self._learned(coordinates, rate_weight, row_bits)
        yield FitStep("learn", 0.4)
        values = ((rows, part.div_(model.step)) for rows, part in coordinates.chunks(self.chunk_rows))
        heads, tails = fill(values, classes, rate_weight, model, self.config.states)
        model = dataclasses.replace(model, step=model.step * unit)
        coded = {"heads": heads, "tails": tails, **code_classes(classes, len(model.slot_bytes))}
        self._set_state({**coded, **model.state(), **stored})
        yield FitStep("code", 1.0)

    def _axes_that_pay(self, spectrum: np.ndarray[Any, Any], shape: tuple[int, int]) -> tuple[int, float]:
        """How many axes to keep, and the bits a row that are then left for symbols, classes and tables."""
        most, (rows, dim) = self.config.rank, shape
        # An axis that is not kept frees its values, its factor, and its place in the first table.
        left = {rank: self.config.row_bits + 8 * (most - rank) * (dim + 5) / rows for rank in (*_ranks(most), most)}
        rank = min(left, key=lambda rank: (_expected_error(spectrum, rank, left[rank], rows), -rank))
        return rank, left[rank]

    @staticmethod
    def _zeros(coordinates: Coordinates) -> tuple[Model, Tensor]:
        """What :meth:`_learned` falls back to."""
        rows, rank = coordinates.shape
        return Model.of_zeros(rank, coordinates.device), torch.zeros(rows, dtype=torch.int64, device=coordinates.device)

    def _learned(self, coordinates: Coordinates, rate_weight: Tensor, row_bits: float) -> tuple[Model, Tensor]:
        """Tables, and the class of each row, such that all is within ``row_bits``."""
        config, (rows, rank) = self.config, coordinates.shape
        most_bytes = int(rows * row_bits / 8) + _STEP_BYTES + _TABLE_BYTES + rank
        every = -(-rows // config.train_rows)
        target, best_score = row_bits, -math.inf
        best, sample = self._zeros(coordinates), coordinates[::every]
        for _ in range(_LEARNINGS if bool(sample.any()) else 0):
            learned = learn(sample, rate_weight[::every], target, rows, config.states)
            model = learned.model
            asked = self._asked(coordinates, rate_weight, learned)
            chosen = choose_classes(asked, model, most_bytes - model.size_bytes())
            if chosen is None:
                target *= 0.85
                continue
            classes, size = chosen
            # Where a symbol has many bits, a rate weight hardly moves a row's: more rows must fit as they are.
            spare = min(10.0, 0.03 * row_bits, max(0.0, 2.5 * (row_bits / rank - 1)))
            lacking = max(0.0, spare + float(asked.mean()) - 8 * float(model.slot_bytes[classes].to(torch.float32).mean()))
            unused = 8 * (most_bytes - model.size_bytes() - size) / rows
            if -unused - lacking > best_score:
                best, best_score = (model, classes), -unused - lacking
            if unused + lacking < _NEAR_ENOUGH * row_bits:
                break
            target += 0.9 * (unused - lacking)
        return best

    def _asked(self, coordinates: Coordinates, rate_weight: Tensor, learned: Learned) -> Tensor:
        """How many bits each row asks for, with the tables of the class that it seems to have: (N,)."""
        asked = torch.empty_like(rate_weight)
        for rows, values in coordinates.chunks(self.chunk_rows):
            values /= learned.model.step
            classes = nearest_class(learned.intercept + learned.slope * energy(values), learned.model.slot_bytes)
            asked[rows] = search(values, classes, rate_weight[rows], learned.model, self.config.states).bits
        return asked

    def verify(self) -> None:
        """See :mod:`quantizers.methods.trellis.checking`."""
        check_tables(self._state, *self.shape)
        check_rows(self._state, read_classes(self._state, self.num_embeddings), self.num_embeddings)

    def reconstruct(self, ids: Tensor) -> Tensor:
        """Read the symbols of each row; their values times axes, plus the mean."""
        self._require_fitted()
        state = self._state
        reader = self._opened()
        values = rebuilt_values(state["shrink"].to(torch.float32), reader.width) * state["step"]
        leaves = torch.stack([values, -values], dim=2).flatten(1)[:, 1:].flatten()  # of 0, 1, -1, 2, -2, ..
        rows = ids.detach().cpu().numpy()
        few = len(rows) * len(reader.bases) < len(reader.entries)  # a table of values for all entries would cost more
        if few or (leaves.requires_grad and torch.is_grad_enabled()):
            symbols = torch.from_numpy(reader.read(rows, reader.symbol)).to(leaves.device)
            coordinates = leaves[symbols]
        else:
            of_entries = leaves.detach().cpu().numpy()
            coordinates = torch.from_numpy(reader.read(rows, of_entries[reader.symbol])).to(leaves.device)
        if "basis" in state:
            return coordinates @ _axes(state) + state["mean"]
        return (coordinates + state["mean"]).contiguous()

    def _opened(self) -> Reader:
        if self._reader is None:
            here = {name: tensor.detach().cpu() for name, tensor in self._state.items()}
            model, classes = Model.from_state(here), read_classes(here, self.num_embeddings)
            self._reader = Reader(model, classes, here["heads"], here["tails"], self.config.states)
        return self._reader


def _axes(state: dict[str, Tensor]) -> Tensor:
    """(r, D) float32."""
    return state["basis"].to(torch.float32) * state["basis_scale"][:, None]


def _ranks(most: int) -> list[int]:
    """Some numbers of axes, up to ``most``."""
    return [int(rank) for rank in np.unique(np.linspace(1, most, min(_RANKS_TRIED, most)).astype(int))]


def _expected_error(spectrum: np.ndarray[Any, Any], rank: int, row_bits: float, rows: int) -> float:
    """Of a Gaussian with the variances ``spectrum``, descending, of which the first ``rank`` are coded."""
    tables = 8 * min(1500, 0.02 * row_bits * rows / 8) / rows
    return gaussian_distortion(spectrum[:rank], 0.97 * row_bits - tables) + float(spectrum[rank:].sum())


def _fixed_cost(rank: int, shape: tuple[int, int]) -> StorageCost:
    """Everything but what ``row_bits`` is for."""
    tables = _STEP_BYTES + _TABLE_BYTES + (rank or shape[1])
    return StorageCost(0, codebook_bytes=rank * (shape[1] + 4), side_bytes=4 * shape[1] + tables)
