"""One answer to "which one?": the pick of a frontier, what is close to it, and what the seeds cannot tell from it.

Without a limit the pick is the knee of the frontier: of its points, drawn over the logarithm of the size with both ends of
either axis at 0 and 1, the one farthest from the line between the ends, on the side of small and good (Satopaa et al. 2011,
"Finding a kneedle in a haystack").
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from analysis import text
from analysis.recommend import Advice, Recommendation
from analysis.statistics import MIN_SEEDS, metric_bounds, paired_difference

WIDTH = 80
_CLOSE = 1.5  # sizes up to so many times larger or smaller are "close"
_MOST_NAMED = 2


@dataclasses.dataclass(frozen=True)
class Answer:
    """The pick of one frontier, and how it stands to the smaller points there, compared seed by seed.

    Attributes:
        pick: the point.
        why: "the knee of the frontier", or the limit that it keeps.
        close: other points of the frontier of nearly its size, the nearest first.
        smaller: how many points of the frontier are smaller.
        alike: those of them whose difference to it may be 0, by its 95 % interval.
        fixed: how many differ from it by the same at every seed, so that seeds cannot test it.
        tested: whether all of them have seeds enough in common with it.
    """

    pick: Recommendation
    why: str
    close: tuple[Recommendation, ...]
    smaller: int
    alike: tuple[Recommendation, ...]
    fixed: int
    tested: bool


def knee(points: Sequence[Recommendation]) -> Recommendation:
    """The knee of a frontier; the best of equals. ``points``: at least one, by size."""
    compressed = [point for point in points if point.quantizer != "identity"] or points
    kept = [point for point in compressed if math.isfinite(point.value)] or list(compressed[:1])
    sign = 1.0 if kept[0].direction == "max" else -1.0
    sizes = np.log([max(point.payload_bytes, 1.0) for point in kept])
    values = sign * np.array([point.value for point in kept])
    for axis in (sizes, values):
        axis -= axis.min()
        axis /= axis.max() or 1.0
    gain = np.round(values - sizes, 12)  # both ends gain the same
    return kept[len(kept) - 1 - int(np.argmax(gain[::-1]))]


def answers(advice: Advice, limit: str) -> list[Answer]:
    """One answer for each frontier that has one, in the order of the objectives.

    Args:
        advice: what :func:`~analysis.recommend.recommend` found.
        limit: the limits in words; empty without any.
    """
    picks = advice.found if limit else [knee(points) for points in advice.frontiers]
    out = []
    for pick in picks:
        points = next(points for points in advice.frontiers if any(_same(one, pick) for one in points))
        others = [point for point in points if not _same(point, pick) and point.quantizer != "identity"]
        near = [point for point in others if 1 / _CLOSE <= point.payload_bytes / max(pick.payload_bytes, 1.0) <= _CLOSE]
        near.sort(key=lambda point: abs(math.log(point.payload_bytes / pick.payload_bytes)))
        tests = [(point, _compared(point, pick)) for point in others if point.payload_bytes < pick.payload_bytes]
        alike = tuple(point for point, result in tests if result == "alike")
        fixed = sum(result == "fixed" for _, result in tests)
        tested = all(result != "untested" for _, result in tests)
        why = limit or "the knee of the frontier"
        out.append(Answer(pick, why, tuple(near[:_MOST_NAMED]), len(tests), alike, fixed, tested))
    return out


def _same(one: Recommendation, other: Recommendation) -> bool:
    return (one.metric, one.role, one.trial_keys) == (other.metric, other.role, other.trial_keys)


def _compared(one: Recommendation, other: Recommendation) -> Literal["alike", "apart", "fixed", "untested"]:
    """What the seeds that both have say of their difference; "alike" where its 95 % interval holds 0."""
    common = sorted(set(one.by_seed) & set(other.by_seed))
    if len(common) < MIN_SEEDS:
        return "untested"
    task, _, metric = one.metric.rpartition(".")
    pairs = [one.by_seed[s] for s in common], [other.by_seed[s] for s in common]
    mean, low, high = paired_difference(*pairs, metric_bounds(task, metric))
    if math.isnan(low):
        return "alike" if mean == 0 else "fixed"
    return "alike" if low <= 0 <= high else "apart"


def lines(found: Sequence[Answer], unmet: Sequence[str], run_dir: Path) -> list[str]:
    """The answer in at most 8 lines of 80 columns: the first frontier's in full, the others' picks in one line.

    The last line, a command to paste, may be longer where the run's path is.
    """
    if not found:
        return textwrap.wrap(nothing_found(unmet), WIDTH)
    first, *others = found
    pick = first.pick
    said = [f"Pick: {_named(pick)}, {first.why}"]
    said += _cost(pick)
    if first.close:
        said.append("Close: " + "; ".join(f"{_named(one)}, {text.number(one.value)}" for one in first.close))
    said.append(evidence(first, _named))
    if others:
        picks = [f"{one.pick.metric}: {one.pick.quantizer}, {text.size(one.pick.payload_bytes)}" for one in others]
        said.append(_listed("Other objectives: ", picks))
    said = [_cut(line) for line in [*said, *unmet]][:7]
    key = pick.trial_keys[0] if pick.trial_keys else ""
    return [*said, f"Next: frontier export {shlex.quote(str(run_dir))} --trial {key} -o small.safetensors"]


def nothing_found(unmet: Sequence[str]) -> str:
    """Why nothing is within the limits, by the first objective, which decides; others are counted. Empty without any."""
    more = f" The same for {text.counted(len(unmet) - 1, 'other objective')}." if len(unmet) > 1 else ""
    return f"{unmet[0]}{more}" if unmet else ""


def _named(point: Recommendation) -> str:
    ratio = "" if point.compression_ratio is None else f" ({text.ratio(point.compression_ratio)})"
    return f"{point.quantizer}, {text.size(point.payload_bytes)}{ratio}"


def _cost(point: Recommendation) -> list[str]:
    """What the pick costs against the uncompressed table, with its interval."""
    value = f"{point.metric} {text.number(point.value)}"
    if point.baseline is None or point.drop is None:
        return [value]
    told = [f"{value}, uncompressed {text.number(point.baseline)}: a change of {signed(-point.drop, point.direction)}"]
    if said := change_over_seeds(point):
        told.append(f"{said}; picked from {point.compared}")
    if said := held(point):
        told.append(said)
    return told


def signed(change: float, direction: str, digits: int = 2) -> str:
    """A change of a metric, with its sign; ``change`` is positive where it is for the better."""
    value = change if direction == "max" else -change
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{text.number(abs(value), digits)}"


def change_over_seeds(point: Recommendation) -> str:
    """What several seeds say of a point's change against the uncompressed table; nothing of one seed."""
    drops = point.drop_by_seed.values()
    if len(drops) < 2:
        return ""
    if len(set(drops)) == 1:
        return f"The change does not vary with the seed ({len(drops)} seeds)"
    between = [point.drop_low, point.drop_high] if point.drop_low is not None else [min(drops), max(drops)]
    if point.direction == "max":  # a drop makes the value smaller: the larger drop is the smaller number
        between.reverse()
    # As many digits as it takes to tell the ends apart.
    texts = ([signed(-(end or 0.0), point.direction, digits) for end in between] for digits in range(2, 8))
    ends = next((f"{first} to {second}" for first, second in texts if first != second), "the same but for rounding")
    if point.drop_low is None:
        return f"{len(drops)} seeds: {ends}, no interval"
    return f"95 % interval of the change over {len(drops)} seeds: {ends}"


def lucky(point: Recommendation) -> bool:
    """Whether a point may owe its place to chance: not where an error of the whole table is the same for every seed."""
    exact = point.metric.startswith("reconstruction.") and len(point.by_seed) > 1 and len(set(point.by_seed.values())) == 1
    return point.compared > 1 and not exact


def held(point: Recommendation) -> str:
    """Whether the seeds can tell that a limit of the drop is held; nothing without such a limit."""
    if point.allowed is None or point.quantizer == "identity":
        return ""
    if point.certain:
        at_once = f", for all {point.compared:,} configurations at once" if point.compared > 1 else ""
        return f"The limit is held: 95 % sure{at_once}."
    drops = set(point.drop_by_seed.values())
    if len(drops) == 1 < len(point.drop_by_seed):
        return "Every seed keeps the limit equally; they cannot tell about other test rows."
    return f"The mean keeps the limit; {text.counted(point.num_seeds, 'seed')} cannot tell whether it is held."


def evidence(answer: Answer, named: Callable[[Recommendation], str]) -> str:
    """What the seeds can tell of the smaller points of the frontier, in a sentence; ``named`` names a point."""
    if not answer.smaller:
        return "No point of the frontier is smaller."
    if answer.pick.quantizer == "identity":
        return "No compressed table of the frontier keeps to it."
    if answer.alike:
        smallest = min(answer.alike, key=lambda point: point.payload_bytes)
        return f"The seeds cannot tell it from {named(smallest)}."
    if not answer.tested:
        return f"{text.counted(answer.pick.num_seeds, 'seed')}: small differences cannot be told from chance."
    if answer.fixed:
        worse = answer.smaller - answer.fixed
        tested = f"{worse} worse (95 % level); " if worse else ""
        return f"Smaller points: {tested}{answer.fixed} worse by the same amount at every seed."
    return "Every smaller point of the frontier is worse, at the 95 % level."


def _listed(start: str, items: Sequence[str]) -> str:
    """``start`` and as many of the items as a line takes, and how many more there are."""
    for count in range(len(items), 0, -1):
        more = f"; and {len(items) - count} more" if count < len(items) else ""
        line = start + "; ".join(items[:count]) + more
        if len(line) <= WIDTH:
            return line
    return f"{start}{len(items)}, see --all"


def _cut(line: str) -> str:
    return textwrap.shorten(line, WIDTH, placeholder=" ...") if len(line) > WIDTH else line
