"""How many trials a sweep may have, checked before they are listed."""

from __future__ import annotations

import math

import quantizers
from analysis.text import counted
from quantizers.errors import InputError
from sweeps.spec.config import SweepConfig
from sweeps.spec.space import Range, parse_entry


def check_size(config: SweepConfig) -> None:
    """Refuse a sweep of more trials than ``limits.trials``; nothing is listed to count them.

    Where a method proposes configurations for budgets, one for each budget is counted.

    Raises:
        InputError: it has more; or an entry of ``quantizers`` is wrong.
    """
    budgets = 0
    if config.budgets is not None:
        budgets = len(config.budgets.compression_ratio) + len(config.budgets.payload_bytes)
    listed, ranged = 0, False
    for given in quantizers.list_methods() if config.quantizers == "all" else config.quantizers:
        given = {"method": given} if isinstance(given, str) else given
        _, axes = parse_entry({key: value for key, value in given.items() if key != "roles"})
        if not axes:
            listed += budgets
        elif any(isinstance(axis, Range) for axis in axes.values()):
            ranged = True
        else:
            listed += math.prod(len(axis) for axis in axes.values() if isinstance(axis, tuple))
    check_count(config, listed, 1, "configurations")
    samples = config.search.samples
    chosen = listed if samples is None else samples if ranged else min(samples, listed)
    check_count(config, chosen, len(config.seeds), "trials")


def check_count(config: SweepConfig, configurations: int, seeds: int, what: str = "trials") -> None:
    """Refuse ``configurations`` x ``seeds`` where that is more than ``limits.trials``."""
    count, limit = configurations * seeds, config.limits.trials
    if count > limit:
        of = f" ({counted(configurations, 'configuration')} x {seeds:,} seeds)" if seeds > 1 else ""
        raise InputError(
            f"{config.name}: {count:,} {what}{of} are more than limits.trials ({limit:,}). List fewer values or seeds, "
            f"draw some with search: {{kind: random, samples: 1000}}, or raise it: --set limits.trials={count}."
        )
