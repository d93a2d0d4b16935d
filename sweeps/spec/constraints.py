"""What a trial must keep to: ``payload_bytes: "<= 1MB"``, ``sentiment.accuracy: ">= baseline - 1%"``.

Sizes are known before a trial, so that a trial that would break one of them never runs; metrics are looked at afterwards.
``baseline - 1%`` is one per cent of the uncompressed table's value, ``baseline - 0.01`` is in the metric's own unit.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quantizers.errors import InputError, unknown_name
from trainables.records import TrialResult

SIZES = ("payload_bytes", "compression_ratio")
_FORM = re.compile(r"\s*(<=|>=)\s*(?:(baseline)\s*(?:([+-])\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(%?))?|(.+?))\s*")


@dataclasses.dataclass(frozen=True)
class Constraint:
    """One limit.

    Attributes:
        name: a size of ``SIZES``, or ``task.metric``.
        upper: whether the value may not be larger than the limit (or else: not smaller).
        limit: the limit, or what is added to the baseline.
        relative: None where the limit stands alone; "share" where it is a share of the baseline, "unit" where it is added.
        text: as the sweep file has it.
    """

    name: str
    upper: bool
    limit: float
    relative: str | None
    text: str

    def violation(self, value: float, baseline: float | None = None) -> float:
        """How far ``value`` is beyond the limit: above 0 where it breaks it; NaN is infinitely far."""
        limit = self.limit
        if self.relative is not None:
            if baseline is None or not math.isfinite(baseline):
                return math.inf
            limit = baseline + (self.limit * abs(baseline) if self.relative == "share" else self.limit)
        beyond = value - limit if self.upper else limit - value
        return math.inf if math.isnan(beyond) else beyond


def parse_constraints(entries: Mapping[str, Any], metrics: Iterable[str]) -> tuple[Constraint, ...]:
    """The constraints of a sweep.

    Args:
        entries: name: text, as in the sweep file.
        metrics: ``task.metric`` names that the sweep measures.

    Raises:
        InputError: no such size or metric, or the text is not a limit.
    """
    known = [*SIZES, *metrics]
    found = []
    for name, text in entries.items():
        if name not in known:
            raise unknown_name("constraint", name, known)
        found.append(_parse(name, str(text)))
    return tuple(found)


def _parse(name: str, text: str) -> Constraint:
    from sweeps.spec.units import parse_bytes

    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(f"constraints.{name}: {text!r} is not a limit such as '<= 0.2', '<= 1MB' or '>= baseline - 1%'.")
    sign, baseline, plus, amount, percent, number = match.groups()
    try:
        if baseline is None:
            limit = float(parse_bytes(number)) if name == "payload_bytes" else float(number)
        else:
            limit = float(amount or 0) * (-1 if plus == "-" else 1) / (100 if percent else 1)
    except ValueError:
        kind = "size" if name in SIZES else "number"
        raise InputError(f"constraints.{name}: {text!r}: {number!r} is not a {kind}.") from None
    if baseline is not None and name in SIZES:
        raise InputError(f"constraints.{name}: {text!r}: a size has no baseline; give it in numbers.")
    return Constraint(name, sign == "<=", limit, ("share" if percent else "unit") if baseline else None, text)


def size_violations(constraints: Sequence[Constraint], payload_bytes: int, dense_bytes: int) -> dict[str, float]:
    """How far a predicted size is beyond each limit on sizes: above 0 where it breaks it."""
    values = {"payload_bytes": payload_bytes, "compression_ratio": dense_bytes / max(payload_bytes, 1)}
    return {one.name: one.violation(values[one.name]) for one in constraints if one.name in SIZES}


def too_large(constraints: Sequence[Constraint], payload_bytes: int, dense_bytes: int) -> str | None:
    """Why a configuration of this predicted size is not run, or None."""
    beyond = size_violations(constraints, payload_bytes, dense_bytes)
    reasons = [
        f"{payload_bytes:,} bytes (x{dense_bytes / max(payload_bytes, 1):.1f}) would break {one.name} {one.text}"
        for one in constraints
        if beyond.get(one.name, 0.0) > 0
    ]
    return "; ".join(reasons) or None


def violations(constraints: Sequence[Constraint], result: TrialResult) -> dict[str, float]:
    """How far a finished trial is beyond each limit: above 0 where it breaks it."""
    scores = {f"{score['task']}.{score['metric']}": score for score in result.scores}
    out = {}
    for one in constraints:
        if one.name in SIZES:
            out[one.name] = one.violation(float(result.row[one.name]))
        else:
            score = scores.get(one.name, {"value": math.nan, "baseline": None})
            out[one.name] = one.violation(score["value"], score["baseline"])
    return out


def mark(constraints: Sequence[Constraint], result: TrialResult) -> None:
    """Make a finished trial ``infeasible``, with the reason, where it breaks a constraint; the baseline never is."""
    if result.row["status"] != "ok" or result.row["quantizer"] == "identity":
        return
    broken = {name for name, beyond in violations(constraints, result).items() if beyond > 0}
    values = {f"{score['task']}.{score['metric']}": score["value"] for score in result.scores} | result.row
    reasons = [
        f"{one.name} is {values.get(one.name, math.nan):.6g}, the limit is {one.text}"
        for one in constraints
        if one.name in broken
    ]
    if reasons:
        result.row.update(status="infeasible", reason="; ".join(reasons))
