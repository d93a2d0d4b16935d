"""The symbols of rows with the least error + weight * bits, by dynamic programming over the states of the machine.

Viterbi 1967; error and bits together: Fischer & Wang, "Entropy-constrained trellis-coded quantization" (IEEE Trans. Inf.
Theory 1992). Of the magnitudes of one parity three are looked at: the nearest to the value, the next towards 0, and 0.

Shapes: N rows, B rows of a chunk, r columns, S states.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from quantizers.methods.trellis.machine import flips, transitions
from quantizers.methods.trellis.model import Model

_CHUNK_DECISIONS = 1 << 23  # columns, states and rows of what is kept for the way back
_MOST_ROWS = 1 << 13


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        symbols: (N, r) int16.
        bits: (N,) float32.
        errors: (N,) float32, squared, in squared steps.
        asked: (N,) float32, the bits of the least error + weight * bits, whatever there is room for.
    """

    symbols: Tensor
    bits: Tensor
    errors: Tensor
    asked: Tensor


def search(
    values: Tensor,
    classes: Tensor,
    rate_weight: Tensor,
    model: Model,
    states: int,
    *,
    room: Tensor | None = None,
    tilt: Tensor | None = None,
) -> Found:
    """Find the symbols; each row by itself, so that they do not depend on which rows are searched for together.

    Args:
        values: (N, r) float32, in steps.
        classes: (N,) int64.
        rate_weight: (N,) float32 above 0, what a bit weighs, in squared steps.
        model: the tables.
        states: S.
        room: (N,) bits: of the ends at which a row's bits are no more, the one with the least error is taken.
        tilt: (r,) what the rate weights are multiplied by in each column.

    """
    if tilt is None:
        tilt = torch.ones(values.shape[1], device=values.device)
    parts = []
    step = max(256, min(_MOST_ROWS, _CHUNK_DECISIONS // (states * values.shape[1])))
    for begin in range(0, len(values), step):
        part = slice(begin, begin + step)
        found = _Chunk(values[part].T.contiguous(), classes[part], rate_weight[part], tilt, model, states)
        parts.append(found.result(None if room is None else room[part]))
    return Found(*(torch.cat([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(Found)))


class _Chunk:
    """The dynamic programming over some rows: values (r, B)."""

    def __init__(
        self, values: Tensor, classes: Tensor, rate_weight: Tensor, tilt: Tensor, model: Model, states: int
    ) -> None:
        self.model, self.values, self.rate_weight, self.tilt = model, values, rate_weight, tilt
        self.tables = model.table_of.T[:, classes]  # (r, B)
        self.width = model.frequency.shape[1]
        self.bits, self.rebuilt = model.bits.reshape(-1), model.values.reshape(-1)
        self.before, self.branch = (part.to(values.device) for part in transitions(states))
        self.states = states
        branches = torch.arange(4, device=values.device)[:, None]
        self.quantizer, self.parity = branches // 2, branches % 2
        # The largest magnitude of a context and a parity, or the least where there is none.
        parities = self.parity[:2].T
        largest = model.largest[:, None]
        self.caps = torch.maximum(largest - ((largest - parities) & 1), parities).reshape(-1)
        self.counts = torch.tensor([1.0, 0.0, 1.0], device=values.device)[:, None, None]

    def result(self, room: Tensor | None) -> Found:
        """Of these rows."""
        rank, count = self.values.shape
        energy = self.values.square()
        rest = energy.flip(0).cumsum(0).flip(0)  # error of the columns from each one on, if they are 0
        # Of the way to each state: cost, bits and error, one above the other.
        ways = torch.full((3, self.states, count), torch.inf, device=energy.device)
        ways[:, 0] = 0
        second = torch.empty((rank, self.states, count), dtype=torch.bool, device=energy.device)
        magnitudes = torch.empty((rank, 4, count), dtype=torch.int16, device=energy.device)
        end, within = _End(rest[0]), _End(rest[0])
        rest = torch.cat([rest[1:], torch.zeros_like(rest[:1])])
        for column in range(rank):
            branches = self._branches(column, magnitudes[column])
            one, other = (ways[:, self.before[way]] + branches[:, self.branch[way]] for way in (0, 1))
            torch.lt(other[0], one[0], out=second[column])
            ways = torch.where(second[column], other, one)
            total = ways + rest[column] * self.counts
            end.offer(column, total, total[0])
            if room is not None:
                within.offer(column, total, torch.where(total[1] <= room, total[2], torch.inf))
        chosen = end if room is None else within
        return Found(self._way_back(chosen, second, magnitudes), chosen.bits, chosen.errors, end.bits)

    def _branches(self, column: int, magnitudes: Tensor) -> Tensor:
        """Cost, bits and error (3, 4, B) of the best magnitude for each branch; the magnitude goes into ``magnitudes``."""
        value = self.values[column].abs()
        contexts = 2 * self.tables[column] + self.quantizer  # (4, B), as all that follows
        nearest = (value + (self.quantizer - 2 * self.parity)).mul_(0.25).round_().clamp_min_(0).mul_(2).add_(self.parity)
        nearest = torch.minimum(nearest.to(torch.int64), self.caps[2 * contexts + self.parity])
        candidates = torch.stack([nearest, torch.maximum(nearest - 2, self.parity), self.parity.expand_as(nearest)])
        entries = candidates + contexts * self.width
        errors, bits = (value - self.rebuilt[entries]).square_(), self.bits[entries]
        cost, best = torch.addcmul(errors, self.rate_weight * self.tilt[column], bits).min(dim=0)
        magnitudes.copy_(candidates.gather(0, best[None])[0])
        return torch.stack([cost, bits.gather(0, best[None])[0], errors.gather(0, best[None])[0]])

    def _way_back(self, end: _End, second: Tensor, magnitudes: Tensor) -> Tensor:
        rank, count = self.values.shape
        rows = torch.arange(count, device=second.device)
        found = torch.zeros((rank, count), dtype=torch.int16, device=second.device)
        state = end.state
        for column in reversed(range(rank)):
            way = second[column][state, rows].to(torch.int64)
            branch, before = self.branch[way, state], self.before[way, state]
            magnitude = magnitudes[column][branch, rows]
            coded = column < end.columns
            found[column] = torch.where(coded, torch.where(self.values[column] < 0, -magnitude, magnitude), 0)
            state = torch.where(coded, before, state)
        return found.T


class _End:
    """Where rows end: what follows a row's last symbol that is not 0 costs no bits."""

    def __init__(self, nothing: Tensor) -> None:
        self.best, self.errors, self.bits = nothing.clone(), nothing.clone(), torch.zeros_like(nothing)
        self.columns, self.state = torch.zeros((2, len(nothing)), dtype=torch.int64, device=nothing.device).unbind(0)

    def offer(self, column: int, ways: Tensor, key: Tensor) -> None:
        """The ways (3, S, B) that end with ``column``: a row takes that of the least key (S, B), if less than its own."""
        best, state = key.min(dim=0)
        better = best < self.best
        bits, errors = ways[1:].gather(1, state.expand(2, 1, -1))[:, 0].unbind(0)
        self.best, self.bits = torch.where(better, best, self.best), torch.where(better, bits, self.bits)
        self.errors = torch.where(better, errors, self.errors)
        self.columns, self.state = torch.where(better, column + 1, self.columns), torch.where(better, state, self.state)


def contexts_of(symbols: Tensor, classes: Tensor, model: Model, states: int) -> Tensor:
    """The context of each symbol, as a reader follows the machine: (N, r) -> (N, r) int64."""
    flip = torch.tensor(flips(states), device=symbols.device)
    state = torch.zeros_like(classes)
    out = torch.empty(symbols.shape, dtype=torch.int64, device=symbols.device)
    tables = model.table_of[classes]
    for column in range(symbols.shape[1]):
        quantizer = state & 1
        out[:, column] = 2 * tables[:, column] + quantizer
        state = (state >> 1) ^ flip[2 * quantizer + (symbols[:, column].to(torch.int64) & 1)]
    return out
