"""Transform coding with an entropy coder: equal steps along the principal axes, and as many bits as each row needs.

Papers: Goyal, "Theoretical Foundations of Transform Coding" (IEEE Signal Process. Mag. 2001), on entropy-coded scalar
quantization; Sullivan, "Efficient Scalar Quantization of Exponential and Laplacian Random Variables" (IEEE Trans. Inf.
Theory 1996), on rounding and reconstruction; the entropy coder is :mod:`quantizers.coding.range_coder`.
Equation: y = (x - mean) B^T with B (r, D) the first principal axes; k = sign(y) * floor(|y| / step + 0.47);
x_hat = mean + B^T (step * (k - sign(k) * shrink)). One step for all axes is reverse water-filling: an axis whose standard
deviation is below the step is nearly always 0 and costs next to nothing.

The symbols k of a row are range-coded by themselves, so that a row can be read alone; where each row begins follows from
the rows' lengths, which are range-coded too and read once. Neighbouring axes share a frequency table (and
the ``shrink``, the distance of the values' mean from k) where tables of their own would cost more than they save. The step
is the finest with which codes, lengths and tables together stay within ``row_bits`` a row on average: lengths vary from row
to row, and what ``storage`` predicts is an upper bound, which fits come within 1 % of unless the finest step is reached.

Row weights enter the axes and the mean.

Shapes: N rows, D columns, B batch, r rank, C frequency tables, T entries of all tables.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import special
from torch import Tensor

from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Role, Skip, StorageCost
from quantizers.coding.dtypes import DTYPES
from quantizers.coding.frequency_tables import ENTRY_BYTES, TABLE_BYTES, FrequencyTables, count_symbols, share, table_bits
from quantizers.coding.range_coder import LIST_BLOCK, TOTAL, decode, decode_list, encode, encode_list, symbol_lookup
from quantizers.errors import InputError
from quantizers.fitting.principal_axes import Coordinates, principal_axes
from quantizers.table import Table, TableStats

_ROUNDING = 0.47
_LARGEST_SYMBOL = 2000
_FIXED_BYTES = 4 + 4 + 2 * ENTRY_BYTES + TABLE_BYTES  # step, shortest length, and two tables of one symbol
_SAMPLE_ROWS = 1 << 13
_CHUNK_VALUES, _FEWEST_ROWS = 1 << 20, 1 << 12
_MOST_ENCODINGS = 6


class TransformEntropyConfig(QuantizerConfig):
    """What a row may take on average, and the axes that it is spent on.

    Attributes:
        row_bits: bits a row for codes, lengths and frequency tables together, on average at the most.
        rank: axes that are kept; more than D is the same as D.
        basis_dtype: what the axes are stored in.
    """

    row_bits: float = Field(default=128.0, ge=1)
    rank: int = Field(default=64, ge=1)
    basis_dtype: Literal["float32", "float16"] = "float32"


def gaussian_curve(log_ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rate and distortion of a Gaussian that is quantized so: log2(deviation / step) -> bits, error / variance."""
    grid, bits, distortion = _curve_points()
    fine = log_ratio > grid[-1]
    rate = np.where(fine, log_ratio + 0.5 * math.log2(2 * math.pi * math.e), np.interp(log_ratio, grid, bits))
    return rate, np.where(fine, np.exp2(-2 * log_ratio) / 12, np.interp(log_ratio, grid, distortion))


@functools.cache
def _curve_points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    grid = np.linspace(-4, 4, 65)
    rates, distortions = [], []
    for ratio in np.exp2(grid):
        edges = (np.arange(1, 10 * ratio + 3) - _ROUNDING) / ratio  # in deviations; 10 of them are all
        tails, density = special.ndtr(-edges), np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        mass = np.maximum(tails[:-1] - tails[1:], 1e-300)  # of k = 1, 2, .., and as much of -k
        zero = 1 - 2 * tails[0]
        rates.append(-zero * np.log2(zero) - 2 * (mass * np.log2(mass)).sum())
        distortions.append(1 - 2 * ((density[:-1] - density[1:]) ** 2 / mass).sum())
    return grid, np.array(rates), np.array(distortions)


_TYPES = {
    **dict.fromkeys(("stream", "lengths"), torch.uint8),
    **dict.fromkeys(("length_bytes", "length_frequency", "table_axes", "table_sizes", "frequency"), torch.int16),
    **dict.fromkeys(("mean", "step"), torch.float32),
    "shrink": torch.float16,
    "shortest": torch.int32,
}


class TransformEntropy(Quantizer):
    """Rotation, one step for all axes, and range-coded rows."""

    name = "transform_entropy"
    Config = TransformEntropyConfig
    reference = "Goyal 2001; Rissanen & Langdon 1979"
    state_roles: ClassVar[dict[str, Role]] = {
        "stream": "code",
        "lengths": "side",
        "length_bytes": "side",
        "length_frequency": "side",
        "shortest": "side",
        "basis": "codebook",
        "mean": "side",
        "step": "side",
        "shrink": "side",
        "table_axes": "side",
        "table_sizes": "side",
        "frequency": "side",
    }
    uses_weights = True
    linear_state = ("basis", "mean")
    lookup = False
    learns_on_sample = True

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        self._reader: _Reader | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    @classmethod
    def configs_for(cls, budget: Budget, stats: TableStats) -> Sequence[TransformEntropyConfig] | Skip:
        """The rank with the least error that the spectrum predicts for a Gaussian, and all other bytes for the rows."""
        spectrum = np.maximum(stats.eigenvalues[: min(stats.shape)], 0)
        ranks = np.arange(1, len(spectrum) + 1)
        side = np.array([_fixed_cost(int(rank), "float16", stats.shape).payload_bytes for rank in (1, 2)])
        side = side[0] + (ranks - 1) * (side[1] - side[0])
        row_bits = np.floor(8000 * (budget.payload_bytes - side) / stats.num_embeddings) / 1000
        if row_bits[0] < 1:
            return Skip(f"one axis and a bit a row take {int(side[0]) + -(-stats.num_embeddings // 8)} bytes")
        # Of every rank and step that its bits pay for; about 3 of them go to a row's length, 4 to rounding.
        best = (math.inf, 0)
        deviation = 0.5 * np.log2(np.maximum(spectrum, 1e-300))
        for log_step in deviation[0] + np.linspace(-16, 2, 721):
            bits, distortion = gaussian_curve(deviation - log_step)
            error = np.cumsum(distortion * spectrum) + spectrum.sum() - np.cumsum(spectrum)
            error[(np.cumsum(bits) > np.maximum(row_bits - 7, 0)) | (row_bits < 1)] = np.inf
            best = min(best, (float(error.min()), int(error.argmin()) + 1))
        rank = best[1]
        if not rank:
            return Skip(f"rows of {float(row_bits[0]):g} bits hold their length and nothing else")
        return [TransformEntropyConfig(row_bits=float(row_bits[rank - 1]), rank=rank, basis_dtype="float16")]

    @classmethod
    def storage(cls, config: Any, shape: tuple[int, int]) -> StorageCost:
        """An upper bound: ``row_bits`` for each row, axes, mean."""
        fixed = _fixed_cost(config.rank, config.basis_dtype, shape)
        return dataclasses.replace(fixed, code_bytes=int(shape[0] * config.row_bits / 8), exact=False)

    @classmethod
    def check(cls, config: Any, shape: tuple[int, int]) -> Skip | None:
        """A rank above the table's own makes no sense."""
        if config.rank > min(shape):
            return Skip(f"rank {config.rank} is more than a table of {shape[0]} x {shape[1]} can have")
        return None

    @classmethod
    def examples(cls) -> Sequence[TransformEntropyConfig]:
        """Few and many bits."""
        return [
            TransformEntropyConfig(row_bits=24, rank=8, basis_dtype="float16"),
            TransformEntropyConfig(row_bits=90.5, rank=16),
        ]

    def _fit_steps(self, table: Table, *, seed: int, weights: Tensor | None, budget: Budget | None) -> Iterator[FitStep]:
        mean, _, axes = principal_axes(table.vectors, weights)
        basis = axes[: self.config.rank]
        coordinates = Coordinates(table.vectors, mean, basis)
        yield FitStep("rotate", 0.2)
        self._reader = None
        coded = _finest(coordinates, int(len(coordinates) * self.config.row_bits / 8), self.chunk_rows)
        basis = basis.to(DTYPES[self.config.basis_dtype])
        self._set_state({"basis": basis, "mean": mean.to(torch.float32), **coded})
        yield FitStep("code", 1.0)

    def verify(self) -> None:
        """The types are right, the frequencies of each table add up, and the rows take as many bytes as are stored."""
        state = self._state
        types = {**_TYPES, "basis": DTYPES[self.config.basis_dtype]}
        for name, tensor in state.items():
            _require(tensor.dtype == types[name], f"{name} is {tensor.dtype}, not {types[name]}")
        blocks, sizes, frequency = (state[name].to(torch.int64) for name in ("length_bytes", "table_sizes", "frequency"))
        whole = len(blocks) == -(-self.num_embeddings // LIST_BLOCK) and int(blocks.sum()) == len(state["lengths"])
        _require(whole and int(blocks.min()) >= 0, "length_bytes does not fit the blocks of lengths")
        _require(int(state["length_frequency"].sum()) == TOTAL, f"length_frequency does not add up to {TOTAL}")
        _require(int(sizes.min()) > 0 and int(sizes.sum()) == len(frequency), "frequency has not one entry a symbol")
        table = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        sums = torch.zeros_like(sizes).index_add_(0, table, frequency)
        _require(int(frequency.min()) >= 0 and bool((sums == TOTAL).all()), f"a table does not add up to {TOTAL}")
        lengths = self._opened().lengths
        asked, stored = int(lengths.sum()), len(state["stream"])
        _require(int(lengths.min()) >= 0 and asked == stored, f"its rows take {asked} bytes, and {stored} are stored")

    def _opened(self) -> _Reader:
        if self._reader is None:
            self._reader = _Reader(self._state, self.num_embeddings)
        return self._reader

    def reconstruct(self, ids: Tensor) -> Tensor:
        """Read the codes of each row; coordinates times axes, plus the mean."""
        self._require_fitted()
        reader = self._opened()
        # The number that each entry of the tables stands for.
        symbol = reader.symbol
        shrink = self._state["shrink"].to(torch.float32)[reader.table_of_entry]
        values = self._state["step"] * (symbol - symbol.sign() * shrink)
        basis, mean = self._state["basis"].to(torch.float32), self._state["mean"]
        out = []
        for part in torch.split(ids, max(_FEWEST_ROWS, _CHUNK_VALUES // len(basis))):
            entries = reader.entries(part)
            out.append(values.index_select(0, entries.reshape(-1)).reshape(entries.shape) @ basis + mean)
        return torch.cat(out)


class _Reader:
    """What reading needs besides the state and follows from it: where rows begin, and symbols by their numbers."""

    def __init__(self, state: dict[str, Tensor], num_embeddings: int) -> None:
        self.lengths = _read_lengths(state, num_embeddings)
        self.begins = self.lengths.cumsum(0) - self.lengths
        names = ("table_axes", "table_sizes", "frequency")
        tables = FrequencyTables(*(state[name].to(torch.int64) for name in names))
        self.tables, self.table_of_entry, self.symbol = tables.table_of_axis, tables.table_of_entry, tables.symbol_of_entry
        self.frequency, self.before = tables.frequency, tables.before
        self.lookup = symbol_lookup(tables.frequency)
        self.stream = state["stream"]

    def entries(self, ids: Tensor) -> Tensor:
        """(B,) -> (B, r)."""
        begins, lengths = self.begins[ids], self.lengths[ids]
        return decode(self.stream, begins, lengths, self.tables, self.lookup, self.frequency, self.before)


def _fixed_cost(rank: int, basis_dtype: str, shape: tuple[int, int]) -> StorageCost:
    """Everything but what ``row_bits`` is for."""
    basis = min(rank, shape[1]) * shape[1] * DTYPES[basis_dtype].itemsize
    return StorageCost(0, codebook_bytes=basis, side_bytes=4 * shape[1] + _FIXED_BYTES + 2 * -(-shape[0] // LIST_BLOCK))


def _finest(coordinates: Coordinates, most_bytes: int, chunk_rows: int) -> dict[str, Tensor]:
    """The part of the state that codes ``coordinates`` with the finest step within ``most_bytes`` (and _FIXED_BYTES)."""
    largest = coordinates.peak()
    # Coarse enough that no symbol is too large; so coarse that all are 0.
    finest, coarsest = (math.log2(largest) + math.log2(ends) if largest else 0.0 for ends in (1 / _LARGEST_SYMBOL, 2))
    best = _code(coordinates, largest, coarsest, chunk_rows)
    sample = coordinates[:: -(-len(coordinates) // _SAMPLE_ROWS)]
    target = float(most_bytes)
    for _ in range(_MOST_ENCODINGS):
        low, high = finest, coarsest
        for _ in range(14):
            middle = (low + high) / 2
            low, high = (low, middle) if _expected_bytes(sample, middle, len(coordinates)) <= target else (middle, high)
        coded = _code(coordinates, largest, high, chunk_rows)
        size = _variable_bytes(coded)
        if size <= most_bytes and size > _variable_bytes(best):
            best = coded
        if 0.995 * most_bytes < size <= most_bytes or high == finest:
            break
        target *= 0.999 * most_bytes / max(1, size)
    return best


def _variable_bytes(coded: dict[str, Tensor]) -> int:
    total = sum(tensor.numel() * tensor.element_size() for name, tensor in coded.items() if name != "length_bytes")
    return total - _FIXED_BYTES


def _expected_bytes(sample: Tensor, log_step: float, num_rows: int) -> float:
    """Bytes of codes and tables, were all rows like those of ``sample``; a byte more a row for its length and rounding."""
    counts = count_symbols(_symbols(sample, 2.0**log_step)) * (num_rows / len(sample))
    return num_rows + sum(table_bits(count) for _, count in share(counts)) / 8


def _symbols(coordinates: Tensor, step: float) -> Tensor:
    """K of every coordinate: (N, r) int16."""
    return ((coordinates.abs() / step + _ROUNDING).floor() * coordinates.sign()).to(torch.int16)


def _code(coordinates: Coordinates, peak: float, log_step: float, chunk_rows: int) -> dict[str, Tensor]:
    """Everything of the state that depends on the step."""
    step = torch.tensor(2.0**log_step, dtype=torch.float32, device=coordinates.device)
    counts, gaps = _counted(coordinates, peak, float(step))
    tables = FrequencyTables.of(counts, coordinates.device)
    sums = torch.zeros((2, len(tables.axes)), dtype=torch.float64, device=coordinates.device)
    sums.index_add_(1, tables.table_of_axis, gaps)
    shrink = sums[0] / sums[1].clamp_min(1)
    stream = bytearray()
    lengths = torch.empty(len(coordinates), dtype=torch.int64, device=coordinates.device)
    for rows, values in coordinates.chunks(chunk_rows):
        part, lengths[rows] = encode(_symbols(values, float(step)), tables.offsets, tables.frequency, tables.before)
        stream += part.cpu().numpy().tobytes()
    coded = torch.frombuffer(stream, dtype=torch.uint8) if stream else torch.empty(0, dtype=torch.uint8)
    return {
        "step": step,
        "stream": coded.to(coordinates.device),
        **_code_lengths(lengths),
        "shrink": shrink.to(torch.float16),
        "table_axes": tables.axes.to(torch.int16),
        "table_sizes": tables.sizes.to(torch.int16),
        "frequency": tables.frequency.to(torch.int16),
    }


def _counted(coordinates: Coordinates, peak: float, step: float) -> tuple[np.ndarray, Tensor]:
    """What :func:`count_symbols` gives of all rows, and how much nearer to 0 than |k| their values are.

    The latter are two sums for each axis, (2, r) float64: of the differences, in steps, and of the values that are not 0.
    """
    largest = int(_symbols(torch.tensor([peak]), step))
    counts = np.zeros((coordinates.shape[1], 2 * largest + 1))
    gaps = torch.zeros((2, coordinates.shape[1]), dtype=torch.float64, device=coordinates.device)
    for _, values in coordinates.chunks():
        symbols = _symbols(values, step)
        found = count_symbols(symbols)
        reach = found.shape[1] // 2
        counts[:, largest - reach : largest + reach + 1] += found
        magnitude = symbols.abs()
        gaps[0] += torch.where(magnitude > 0, magnitude - values.abs() / step, 0.0).sum(dim=0, dtype=torch.float64)
        gaps[1] += (magnitude > 0).sum(dim=0)
    return counts, gaps


def _code_lengths(lengths: Tensor) -> dict[str, Tensor]:
    """Entropy-coded as well, in blocks: they are read once, all together."""
    shortest = lengths.min()
    stream, block_bytes, frequency = encode_list(lengths - shortest, int(lengths.max() - shortest) + 1)
    return {
        "lengths": stream,
        "length_bytes": block_bytes.to(torch.int16),
        "length_frequency": frequency.to(torch.int16),
        "shortest": shortest.to(torch.int32),
    }


def _read_lengths(state: dict[str, Tensor], num_embeddings: int) -> Tensor:
    """Undo :func:`_code_lengths`: (N,) int64."""
    lengths = decode_list(state["lengths"], state["length_bytes"], state["length_frequency"], num_embeddings)
    return lengths + state["shortest"]


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise InputError(problem)
