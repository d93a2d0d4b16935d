"""Every row into a slot of its class, as full as it gets.

The classes are chosen so that all slots together take what there is; within its slot a row then gets a rate weight of its
own, the least with which it fits.

Shapes: N rows, r columns, G classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from quantizers.coding.range_coder import decode_list, encode_list
from quantizers.coding.slots import encode_rows, slot_words
from quantizers.methods.trellis.learning import nearest_class
from quantizers.methods.trellis.model import Model
from quantizers.methods.trellis.search import contexts_of, search

_TRIES, _PLAIN_TRIES = 12, 3
_TILT, _NEAR = 0.8, 0.5  # of logarithms of rate weights
_FULL = 0.6  # bits that may be left over
_LEAST = 6.0  # of the logarithm of a rate weight's divisor
_MOST_ROWS = 1 << 13


def choose_classes(bits: Tensor, model: Model, most_bytes: int) -> tuple[Tensor, int] | None:
    """Classes of rows that ask for so many bits, such that slots and classes take at most ``most_bytes``.

    Args:
        bits: (N,).
        model: the tables.
        most_bytes: of slots and of :func:`code_classes` together.

    Returns:
        Classes (N,) int64 and the bytes that they and the slots take; None where the shortest slots are too long.
    """

    def within(shift: float) -> tuple[Tensor, int] | None:
        classes = nearest_class(bits - shift, model.slot_bytes)
        size = int(model.slot_bytes[classes].sum())
        if size <= most_bytes:
            coded = code_classes(classes, len(model.slot_bytes))
            size += sum(tensor.numel() * tensor.element_size() for tensor in coded.values())
        return (classes, size) if size <= most_bytes else None

    reach = 8.0 * float(model.slot_bytes[-1] - model.slot_bytes[0] + 8) + float(bits.max() - bits.min())
    low, high = -reach, reach
    best = within(high)
    if best is None:
        return None
    for _ in range(24):
        middle = (low + high) / 2
        found = within(middle)
        low, high = (middle, high) if found is None else (low, middle)
        best = best if found is None else found
    return best


def code_classes(classes: Tensor, count: int) -> dict[str, Tensor]:
    """Classes (N,) as tensors of a file; none where there is one class only."""
    if count == 1:
        return {}
    stream, block_bytes, frequency = encode_list(classes, count)
    return {
        "classes": stream,
        "class_bytes": block_bytes.to(torch.int16),
        "class_frequency": frequency.to(torch.int16),
    }


def read_classes(state: dict[str, Tensor], num_rows: int) -> Tensor:
    """Undo :func:`code_classes`: (N,) int64 on the CPU."""
    if "classes" not in state:
        return torch.zeros(num_rows, dtype=torch.int64)
    stream, block_bytes, frequency = (state[name].cpu() for name in ("classes", "class_bytes", "class_frequency"))
    return decode_list(stream, block_bytes, frequency, num_rows)


def fill(
    chunks: Iterator[tuple[slice, Tensor]], classes: Tensor, rate_weight: Tensor, model: Model, states: int
) -> tuple[Tensor, Tensor]:
    """Heads and words of rows in the slots of their classes.

    Args:
        chunks: rows and their values (n, r) float32, in steps, one after another.
        classes: (N,) int64.
        rate_weight: (N,) what a bit weighs in the first try.
        model: the tables.
        states: of the machine.
    """
    slots = model.slot_bytes.cpu().numpy()[classes.cpu().numpy()]
    num_words = int(slot_words(slots).sum())
    heads = torch.empty(int(slots.sum()) - 4 * num_words, dtype=torch.uint8)
    words = torch.empty(num_words, dtype=torch.int32)
    head_end = word_end = 0
    for rows, values in chunks:
        for part in range(rows.start, rows.stop, _MOST_ROWS):
            here = slice(part, min(part + _MOST_ROWS, rows.stop))
            own = values[part - rows.start : here.stop - rows.start]
            head, word = _Filling(own, classes[here], rate_weight[here], model, states).coded()
            heads[head_end : head_end + len(head)] = torch.from_numpy(head)
            words[word_end : word_end + len(word)] = torch.from_numpy(word.view(np.int32))
            head_end, word_end = head_end + len(head), word_end + len(word)
    return heads.to(classes.device), words.to(classes.device)


class _Filling:
    def __init__(self, values: Tensor, classes: Tensor, rate_weight: Tensor, model: Model, states: int) -> None:
        self.values, self.classes, self.rate_weight, self.model, self.states = values, classes, rate_weight, model, states
        self.room = 8.0 * model.slot_bytes[classes].to(torch.float32) - 0.05
        self.symbols = torch.zeros(values.shape, dtype=torch.int16, device=values.device)

    def coded(self) -> tuple[np.ndarray, np.ndarray]:
        rows = torch.arange(len(self.values), device=self.values.device)
        for tightened in (0.0, 0.2, 1.0, 4.0, 16.0):
            self._find(rows, tightened)
            heads, words, over = self._encode()
            if not over.any():
                return heads, words
            rows = torch.from_numpy(np.flatnonzero(over)).to(rows.device)
        self.symbols[rows] = 0
        return self._encode()[:2]

    def _find(self, rows: Tensor, tightened: float) -> None:
        """The symbols of ``rows``: those with the least error that was met and fits.

        First the rate weight is moved to where a row's bits are about what there is room for. There they change in leaps, as
        a symbol changes with those after it; so then the weights of single columns are moved a little, each time others.
        """
        room = self.room[rows] - tightened
        least, slack = torch.full_like(room, torch.inf), torch.full_like(room, torch.inf)
        weight = _Weight(room)
        active = torch.arange(len(rows), device=rows.device)
        for attempt in range(_TRIES):
            here = rows[active]
            found = search(
                self.values[here],
                self.classes[here],
                self.rate_weight[here] * torch.exp2(weight.place[active]),
                self.model,
                self.states,
                room=room[active],
                tilt=_tilt(attempt, self.values),
            )
            better = found.errors < least[active]
            self.symbols[here[better]] = found.symbols[better]
            least[active[better]] = found.errors[better]
            slack[active[better]] = (room[active] - found.bits)[better]
            weight.move(active, found.asked - room[active], attempt)
            # A weight near nothing gets no more bits out of a row.
            active = ((slack > _FULL) & (weight.place > -_LEAST)).nonzero()[:, 0]
            if not len(active):
                break

    def _encode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        contexts = contexts_of(self.symbols, self.classes, self.model, self.states).cpu().numpy().T
        symbols = self.symbols.cpu().numpy().T.astype(np.int64)
        symbols = 2 * np.abs(symbols) - (symbols > 0)
        numbers = self.model.numbers
        slots = self.model.slot_bytes[self.classes].cpu().numpy()
        frequency, first = numbers.frequency[contexts, symbols], numbers.first[contexts, symbols]
        return encode_rows(frequency, first, numbers.numbers, self.model.precision, slots)


def _tilt(attempt: int, values: Tensor) -> Tensor | None:
    """What the rate weight of each column is multiplied by: (r,)."""
    if attempt < _PLAIN_TRIES:
        return None
    columns = torch.arange(values.shape[1], device=values.device)
    return torch.exp2(_TILT * torch.sin(columns * (2.4 * attempt + 2.4) + attempt))


class _Weight:
    """Where the rate weight of each row is: log2 of what it is multiplied by (n,), moved between too little and enough."""

    def __init__(self, room: Tensor) -> None:
        self.room, self.place = room, torch.zeros_like(room)
        self.low, self.high = torch.full_like(room, -torch.inf), torch.full_like(room, torch.inf)
        self.above, self.below = torch.full_like(room, torch.inf), torch.full_like(room, -torch.inf)  # bits beyond, there

    def move(self, rows: Tensor, beyond: Tensor, attempt: int) -> None:
        """Go on from what ``rows`` had more bits than there is room for."""
        place, fits = self.place[rows], beyond <= 0
        down, up = fits & (place <= self.high[rows]), ~fits & (place >= self.low[rows])
        self.high[rows], self.below[rows] = _where(down, (place, beyond), (self.high[rows], self.below[rows]))
        self.low[rows], self.above[rows] = _where(up, (place, beyond), (self.low[rows], self.above[rows]))
        low, high, above, below = (part[rows] for part in (self.low, self.high, self.above, self.below))
        between = (above / (above - below)).clamp(0.2, 0.8) * (high - low) + low
        # Where both are near the rest is chance, and other places are as good as this one.
        between = torch.where(high - low < _NEAR, between + 0.5 * ((0.618 * attempt) % 1 - 0.4), between)
        stride = 10 * beyond / self.room[rows].clamp_min(8) * (1 + 0.5 * attempt)
        stride = torch.where(fits, stride.clamp(-2, -0.4), stride.clamp(0.4, 4))
        self.place[rows] = torch.where(between.isfinite(), between, place + stride)


def _where(condition: Tensor, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.where(condition, one[0], other[0]), torch.where(condition, one[1], other[1])
