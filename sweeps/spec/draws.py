"""Configurations drawn at random from a space."""

from __future__ import annotations

import math
import random
from typing import Any

from quantizers import QuantizerConfig
from sweeps.spec.space import Entry, Planned, Range, Roles, Space


def drawn(space: Space, samples: int, seed: int) -> tuple[list[Planned], list[tuple[Planned, str, str]]]:
    """Configurations drawn at random, each once: every entry is as likely as the others as long as it has some left.

    Returns:
        Up to ``samples`` configurations to run, and what was drawn and is not run, with status and reason.
    """
    chance = random.Random(seed)
    listed = {entry.label: chance.sample(entry.configurations, len(entry.configurations)) for entry in space.entries}
    entries = list(space.entries)
    found: dict[tuple[str, QuantizerConfig, Roles], Planned] = {}
    refused: dict[tuple[str, QuantizerConfig, Roles], tuple[Planned, str, str]] = {}
    misses = 0
    while entries and len(found) < samples and misses < 20 * samples:
        entry = chance.choice(entries)
        if entry.ranged:
            one = space.at(entry, draw(entry, chance))
            if one is None:  # parameters that exclude each other
                misses += 1
                continue
            key = (one.method, one.config, one.roles)
            reason = space.refusal(one)
            misses += key in found or reason is not None
            if reason is not None:
                refused[key] = (one, *reason)
                continue
        else:
            one = listed[entry.label].pop()
            key = (one.method, one.config, one.roles)
            if not listed[entry.label]:
                entries.remove(entry)
        found.setdefault(key, one)
    return list(found.values()), list(refused.values())


def draw(entry: Entry, chance: random.Random) -> dict[str, Any]:
    """Values for the axes of ``entry``, each drawn evenly from its axis."""
    values: dict[str, Any] = {}
    for name, axis in entry.axes.items():
        if not isinstance(axis, Range):
            values[name] = chance.choice(axis)
            continue
        margin = 0.5 if axis.whole else 0.0  # every whole number has an interval of its own
        low, high = axis.low - margin, axis.high + margin
        value = math.exp(chance.uniform(math.log(low), math.log(high))) if axis.log else chance.uniform(low, high)
        values[name] = min(max(round(value) if axis.whole else value, axis.low), axis.high)
    return values
