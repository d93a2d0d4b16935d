"""What is said of a trial beside a number of the paper: whether it was made as in the paper, or what was done otherwise.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), section 4; the compared methods are trained as
their authors train them. A trial is "as in the paper" where recipe, number formats, weights, metric and training are; all
else at the same number of codes on the same task is "ours", and every difference is named. The regime is named where it is
not the paper's: of the compared methods its footnote 4 says that training end to end changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from analysis import text
from analysis.paper.numbers import Row
from analysis.paper.trials import Trial

PAPER, OURS = "as in the paper", "ours"
_REGIME_NAMES = {"end_to_end": "end to end", "finetuned": "on the fine-tuned table"}


def label(trial: Trial, row: Row) -> str:
    """PAPER or OURS, for a trial that fits ``row``."""
    return PAPER if trial.plain and not row.changed(trial.config) else OURS


def titles(row: Row, trials: Sequence[Trial]) -> list[str]:
    """A title for each of ``trials``, which fit ``row`` and are of different variants."""
    if row.method == "identity":
        return [row.name for _ in trials]
    rest = [_rest(trial, row) for trial in trials]
    varying = text.short_configs((row.method, one) for one in rest)
    found = []
    for trial, one in zip(trials, rest, strict=True):
        said = ", ".join(part for part in (*_differences(trial, row), varying[row.method, one]) if part)
        found.append(f"{row.name}, {label(trial, row)}" + (f": {said}" if said else ""))
    return found


def _rest(trial: Trial, row: Row) -> str:
    """The parameters that are not told otherwise, with the values that they had in the fit."""
    told = {*row.parameters, *row.as_in_paper}
    return json.dumps({name: value for name, value in trial.resolved.items() if name not in told and value is not None})


def _differences(trial: Trial, row: Row) -> list[str]:
    """What is not the paper's: the regime, parameters, what was added."""
    parts = [] if trial.row["regime"] == row.regime else [_REGIME_NAMES[trial.row["regime"]]]
    for name, value in row.changed(trial.config).items():
        parts.append(f"at most {value:,} bytes" if name == "max_payload_bytes" else f"{name}={text.setting(value)}")
    return [*parts, *extras(trial)]


def extras(trial: Trial) -> list[str]:
    """What was added to a regime: weights, a metric, more training."""
    found = [f"weights: {trial.row['weights']}"] if (trial.row["weights"] or "none") != "none" else []
    found += [f"metric: {trial.row['fit_metric']}"] if (trial.row["fit_metric"] or "none") != "none" else []
    retrain = json.loads(trial.row["retrain"] or "{}")
    if retrain:
        parts = retrain.get("parts", ())
        what = f" ({parts[0]} alone)" if len(parts) == 1 else ""
        found.append(f"retrained for {text.counted(retrain['epochs'], 'epoch')}{what}")
    return found
