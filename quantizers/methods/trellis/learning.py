"""Step, classes and frequency tables of a fit, learned on a sample of the rows.

The rate term weighs a bit as :func:`rate_weights` says, in squared steps. In turns the sample is coded, and tables,
classes and step follow from what came out: the tables from its symbols, a row's class from its bits, and the step from
the bits of all rows together. A class is a length of the slot and tables of its own, so that a long row is coded as long
rows are; what the length costs to tell comes back in shorter symbols.

Shapes: n rows of the sample, r columns, G classes, T tables, W magnitudes, C = G * r cells.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from quantizers.methods.trellis.model import LEVELS, Model, integer_frequencies
from quantizers.methods.trellis.search import contexts_of, search

LARGEST_MAGNITUDE = 2000
_TURNS = 8
_FIRST_CLASSES = 2  # the turn after which there are classes
_FIRST_TABLES = 48
_TABLE_BYTES = 2 * (2 + 2 * LEVELS)  # of a table without its frequencies
_MOST_TABLE_ROWS, _MOST_SLOTS = 24, 40
# About how far the lengths of slots are from one another, in bits: at one bit a column, and at the most. Where columns have
# more, a rate weight hardly changes what a row takes, and a row that is forced into a slot far from its bits loses more than
# it costs to tell slots apart: on GloVe 100d at 8 times smaller, 16 bits apart, a sixth more error than 5.
_SLOT_BITS, _MOST_SLOT_BITS = 20.0, 16.0
_ROWS_SHARE = 0.02  # of all bytes, that telling the classes' tables may take


@dataclasses.dataclass(frozen=True)
class _Coded:
    """The sample as it was coded: values, symbols, and quantizers (n, r), classes (n,)."""

    values: Tensor
    symbols: Tensor
    quantizers: Tensor
    classes: Tensor


@dataclasses.dataclass(frozen=True)
class Learned:
    """What learning gives.

    Attributes:
        model: the tables.
        slope, intercept: bits that are expected of a row, from :func:`energy`: a first guess of its class.
    """

    model: Model
    slope: float
    intercept: float


def energy(values: Tensor) -> Tensor:
    """About how many bits a row asks for, up to a scale: (N, r) in steps -> (N,)."""
    return torch.log2(1 + (0.5 * values).square_()).sum(dim=1)


def rate_weights(weights: Tensor | None, count: int, column_bits: float, device: torch.device) -> Tensor:
    """(N,) float32: what a bit weighs beside the error of each row.

    Args:
        weights: of the rows, or None.
        count: N.
        column_bits: of a row, over its columns.
        device: where to make them.
    """
    weight = max(0.5, min(0.7, 0.8 - 0.1 * column_bits))  # the best of those tried on GloVe 100d at 8 to 32 times smaller
    if weights is None:
        return torch.full((count,), weight, device=device)
    return weight / weights.clamp_min(1e-4)


def nearest_class(bits: Tensor, slot_bytes: Tensor) -> Tensor:
    """The class whose slot is nearest to so many bits: (N,) -> (N,) int64."""
    edges = 4.0 * (slot_bytes[1:] + slot_bytes[:-1])
    return torch.bucketize(bits, edges.to(bits.dtype))


def learn(coordinates: Tensor, rate_weight: Tensor, row_bits: float, num_rows: int, states: int) -> Learned:
    """Learn from a sample.

    Args:
        coordinates: (n, r) float32.
        rate_weight: (n,) of :func:`rate_weights`.
        row_bits: what a row may take on average, tables and classes included.
        num_rows: N of the whole table.
        states: S.
    """
    device = coordinates.device
    spread = coordinates.square().mean(dim=0, dtype=torch.float64).clamp_min(1e-300)
    peak = float(coordinates.abs().max())
    finest = math.log2(peak / (2 * LARGEST_MAGNITUDE)) if peak else 0.0
    log_step = max(finest, _first_log_step(spread, row_bits))
    classes = torch.zeros(len(coordinates), dtype=torch.int64, device=device)
    most_rows = num_table_rows(row_bits * num_rows, coordinates.shape[1])
    model = _gaussian(spread.sqrt() / 2.0**log_step)
    per_octave = max(1.0, min(1.1 * coordinates.shape[1], 1.6 * row_bits))
    for turn in range(_TURNS):
        values = coordinates * 2.0**-log_step
        found = search(values, classes, rate_weight, model, states)
        quantizers = contexts_of(found.symbols, classes, model, states) % 2
        if turn < _FIRST_CLASSES:
            slots = (found.bits.mean() / 8).round().to(torch.int64)[None]
        else:
            apart = min(_MOST_SLOT_BITS, _SLOT_BITS * coordinates.shape[1] / row_bits)
            slots = _slots(found.bits, apart)
            classes = nearest_class(found.bits, slots)
        share = torch.bincount(classes, minlength=len(slots)).to(torch.float64) / len(classes)
        row_of_class = ((share.cumsum(0) - 0.5 * share) * most_rows).to(torch.int64).clamp_(0, most_rows - 1)
        last = turn == _TURNS - 1
        growth = (0.25 if num_rows > len(coordinates) else 0.0) if last else 1.0
        coded = _Coded(values, found.symbols, quantizers, classes)
        model, table_bytes = _tables(coded, slots, row_of_class, num_rows, growth)
        telling = float(-(share * share.clamp_min(1e-9).log2()).sum())
        used = float(found.bits.mean()) + telling + 8 * table_bytes / num_rows
        if not last:
            log_step = max(finest, log_step + max(-1.0, min(1.0, (used - row_bits) / per_octave)))
    guess = energy(coordinates * 2.0**-log_step)
    slope, intercept = _line(guess, found.bits)
    return Learned(dataclasses.replace(model, step=torch.tensor(2.0**log_step, device=device)), slope, intercept)


def num_table_rows(all_bits: float, rank: int) -> int:
    """How many classes may have tables of their own: to tell which takes a byte a column."""
    return max(1, min(_MOST_TABLE_ROWS, int(_ROWS_SHARE * all_bits / (8 * rank))))


def _line(guess: Tensor, bits: Tensor) -> tuple[float, float]:
    """Least squares."""
    centred = guess - guess.mean()
    slope = float((centred * bits).sum() / centred.square().sum().clamp_min(1e-9))
    return slope, float(bits.mean()) - slope * float(guess.mean())


def _first_log_step(spread: Tensor, row_bits: float) -> float:
    """Reverse water-filling; a dependent quantizer's error is about 0.3 squared steps."""
    low, high = -400.0, float(spread.max().log2())
    deviations = spread.log2()
    for _ in range(60):
        level = (low + high) / 2
        bits = float((0.5 * (deviations - level)).clamp_min(0).sum())
        low, high = (level, high) if bits > 0.9 * row_bits else (low, level)
    return 0.5 * (high - math.log2(0.3))


def _slots(bits: Tensor, apart: float) -> Tensor:
    """Slot lengths in bytes, rising, about ``apart`` bits from one another: (G,) int64.

    Evenly, as which one is a row's is entropy-coded; up to a little more than any row of the sample asks for, since a row
    that gets too little has many times the error.
    """
    low = float(bits.sort().values[len(bits) // 200])
    high = float(bits.max()) + _MOST_SLOT_BITS
    count = max(2, min(_MOST_SLOTS, round((high - low) / apart) + 1))
    found = torch.unique((torch.linspace(low, high, count, device=bits.device) / 8).round().to(torch.int64).clamp_min(0))
    return found if len(found) > 1 else torch.stack([found[0], found[0] + 1])


def _gaussian(ratio: Tensor) -> Model:
    """Tables to begin with, one a column, for deviations (r,) in steps."""
    rank = len(ratio)
    device = ratio.device
    ratio = ratio.to(torch.float64).clamp(1e-2, 0.2 * LARGEST_MAGNITUDE).repeat_interleave(2).cpu()
    width = int(12 * float(ratio.max())) // 2 + 3
    magnitude = torch.arange(width, dtype=torch.float64)
    value = (2 * magnitude - (torch.arange(2 * rank) % 2)[:, None]).clamp_min(0)
    place = value / ratio[:, None]
    density = torch.exp(-0.5 * place.square()) + 0.05 * torch.exp(-place)
    density[:, 1:] *= 2
    density[1::2, 0] *= 0.5  # between -1 and 1 in one quantizer, -2 and 2 in the other
    counts = density.numpy()
    largest = np.full(2 * rank, width - 1)
    return _model(
        counts, largest, np.zeros((2 * rank, LEVELS)), torch.arange(rank)[None], torch.zeros(1, dtype=torch.int64), device
    )


def _model(
    counts: np.ndarray,
    largest: np.ndarray,
    shrink: np.ndarray,
    table_of: Tensor,
    slots: Tensor,
    device: torch.device,
) -> Model:
    width = int(largest.max()) + 1
    precision = 12 if width <= 256 else 15
    frequency = np.zeros((len(counts), max(2, width)), np.int64)
    for context, (count, most) in enumerate(zip(counts, largest.tolist(), strict=True)):
        frequency[context, : most + 1] = integer_frequencies(count, most, precision)
    return Model(
        step=torch.ones((), device=device),
        precision=precision,
        slot_bytes=slots.to(device),
        table_of=table_of.to(device),
        frequency=torch.from_numpy(frequency).to(device),
        largest=torch.from_numpy(largest.astype(np.int64)).to(device),
        shrink=torch.from_numpy(shrink).to(device=device, dtype=torch.float16).to(torch.float32),
    )


def _tables(coded: _Coded, slots: Tensor, row_of_class: Tensor, num_rows: int, growth: float) -> tuple[Model, int]:
    """The tables of what was coded, and their bytes without ``growth``.

    Args:
        coded: the sample.
        slots: (G,).
        row_of_class: (G,) int64, classes with the same number share their tables.
        num_rows: N.
        growth: how much larger than those that occur magnitudes may become, as a share.
    """
    values, symbols, quantizers = coded.values, coded.symbols, coded.quantizers
    row_of_class = torch.unique(row_of_class, return_inverse=True)[1]
    scale = num_rows / len(values)
    rank, groups = values.shape[1], int(row_of_class.max()) + 1
    magnitude = symbols.abs().to(torch.int64)
    width = int(magnitude.max()) + 1
    # What follows a row's last symbol that is not 0 is not coded.
    counted = magnitude.flip(1).cumsum(1).flip(1) > 0
    cell = 2 * (row_of_class[coded.classes][:, None] * rank + torch.arange(rank, device=values.device)) + quantizers
    number = torch.bincount((cell * width + magnitude)[counted], minlength=2 * groups * rank * width)
    counts = number.reshape(groups * rank, 2 * width).cpu().numpy().astype(np.float64)
    table_of_cell, tables = _share(counts, width, scale)
    contexts = len(tables) * 2
    context = 2 * torch.from_numpy(table_of_cell).to(values.device)[cell // 2] + quantizers
    level = context * LEVELS + magnitude.clamp(1, LEVELS) - 1
    used = magnitude > 0
    gap = (2 * magnitude - quantizers).to(torch.float32) - values * symbols.sign()
    total = torch.bincount(level[used], weights=gap[used].to(torch.float64), minlength=contexts * LEVELS)
    number = torch.bincount(level[used], minlength=contexts * LEVELS)
    shrink = (total / (number + 2)).clamp(-1, 1).reshape(contexts, LEVELS).cpu().numpy()
    both = tables.reshape(contexts, width)
    largest = np.where(both > 0, np.arange(width), 0).max(axis=1)
    grown = largest
    if growth:
        grown = np.minimum(largest + 1 + (growth * largest).astype(np.int64), LARGEST_MAGNITUDE)
        both = np.pad(both, ((0, 0), (0, max(0, int(grown.max()) + 1 - width))))
    table_of = torch.from_numpy(table_of_cell).reshape(groups, rank).to(row_of_class.device)[row_of_class]
    model = _model(both, grown, shrink, table_of, slots, values.device)
    return model, model.size_bytes() - 2 * int((grown - largest).sum())


def _share(counts: np.ndarray, width: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Which cells share a table: counts (C, 2W) -> the table of each (C,), and the counts of the tables (T, 2W)."""
    magnitude = np.tile(np.arange(width), 2)
    order = np.argsort(counts @ magnitude / np.maximum(1, counts.sum(axis=1)), kind="stable")
    bounds = np.linspace(0, len(counts), min(_FIRST_TABLES, len(counts)) + 1).astype(int)
    groups = [order[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]
    sums = [counts[group].sum(axis=0) for group in groups]
    costs = [_cost(one, width, scale) for one in sums]
    while len(groups) > 1:
        merged = [_cost(one + other, width, scale) for one, other in zip(sums, sums[1:], strict=False)]
        saved = np.array(costs[:-1]) + np.array(costs[1:]) - np.array(merged)
        at = int(np.argmax(saved))
        if saved[at] <= 0 and len(groups) <= 255:
            break
        groups[at : at + 2] = [np.concatenate(groups[at : at + 2])]
        sums[at : at + 2] = [sums[at] + sums[at + 1]]
        costs[at : at + 2] = [merged[at]]
    # Each cell takes the table that codes it best.
    tables = np.stack(sums)
    for _ in range(2):
        bits = _bits(tables, width)
        best = (counts @ bits.T).argmin(axis=1)
        tables = np.stack([counts[best == table].sum(axis=0) for table in range(len(tables))])
    kept = tables.sum(axis=1) > 0
    kept[0] |= not kept.any()  # nothing but zeros, which are not coded
    return (np.cumsum(kept) - 1)[best], tables[kept]


def _bits(tables: np.ndarray, width: int) -> np.ndarray:
    """Bits of each entry: (T, 2W)."""
    smooth = tables.reshape(len(tables), 2, width) + 0.02
    bits: np.ndarray = (np.log2(smooth.sum(axis=2, keepdims=True)) - np.log2(smooth)).reshape(len(tables), -1)
    return bits


def _cost(table: np.ndarray, width: int, scale: float) -> float:
    """Bits of what a table's counts (2W,) stand for, and of the table."""
    both = table.reshape(2, width)
    used = np.where(both > 0, both * np.log2(np.maximum(both, 1)), 0).sum()
    sums = both.sum(axis=1)
    whole = np.where(sums > 0, sums * np.log2(np.maximum(sums, 1)), 0).sum()
    entries = np.where(both > 0, np.arange(width), 0).max(axis=1).sum()
    return float(scale * (whole - used) + 8 * (2 * entries + _TABLE_BYTES))
