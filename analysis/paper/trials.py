"""The trials that stand beside a paper's numbers: read from run directories, one for each seed, and what they come to."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantizers
from analysis import store, text
from analysis.layout import SWEEP_FILE, artifact_name
from analysis.paper.numbers import Column
from analysis.paper.significance import Counts
from analysis.statistics import metric_bounds, paired_difference, t_interval

Interval = tuple[float, float, float]  # mean, low, high; the ends are NaN where there is no interval


@dataclasses.dataclass(frozen=True, eq=False)
class Books:
    """Rows by code-book, in the order of the configuration.

    Attributes:
        rows: (C,) all of them.
        opinion: (C,) those of words of the opinion lexicon.
    """

    rows: NDArray[np.int64]
    opinion: NDArray[np.int64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """(C,) share of all rows."""
        return np.divide(self.rows, max(1, int(self.rows.sum())), dtype=np.float64)

    @property
    def opinion_shares(self) -> NDArray[np.float64]:
        """(C,) share of the rows of opinion words."""
        return np.divide(self.opinion, max(1, int(self.opinion.sum())), dtype=np.float64)

    def in_book(self, book: int) -> Counts:
        """Opinion words, then other rows, in one code-book and elsewhere."""
        inside, others = self.opinion, self.rows - self.opinion
        first, second = ((int(part[book]), int(part.sum() - part[book])) for part in (inside, others))
        return first, second


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """A row of ``trials.parquet`` with its scores.

    Attributes:
        row: its columns.
        config: its configuration.
        resolved: the same with the values of the fit where it leaves them open; files of schema 2 do not have them.
        scores: value and uncompressed baseline by (task, metric).
        artifact: where its compressed file is, if it was kept.
    """

    row: Mapping[str, Any]
    config: Mapping[str, Any]
    resolved: Mapping[str, Any]
    scores: Mapping[tuple[str, str], tuple[float, float | None]]
    artifact: Path

    @property
    def ok(self) -> bool:
        """Whether it was measured."""
        return bool(self.row["status"] == "ok")

    @property
    def table(self) -> tuple[str, int]:
        """The table it started from, and its columns."""
        return str(self.row["table"]).removesuffix(f" ({self.row['task_scope']})"), int(self.row["embedding_dim"] or 0)

    @property
    def variant(self) -> tuple[Any, ...]:
        """What is the same for all seeds of it."""
        names = ("quantizer", "config_json", "budget_bytes", "regime", "retrain", "weights", "fit_metric")
        return tuple(self.row[name] for name in names)

    @functools.cached_property
    def books(self) -> Books | None:
        """How many rows each code-book has; None of a method with one, and of old trials whose file was not kept."""
        text = self.row["book_counts"]
        if text is None and self.artifact.is_file():
            from trainables.books import book_counts

            text = json.dumps(book_counts(quantizers.read(self.artifact).quantizer))
        if text is None:
            return None
        counts = json.loads(text)
        length = len(self.config["code_lengths"])
        rows, opinion = (counts[name] + [0] * (length - len(counts[name])) for name in ("rows", "opinion_rows"))
        return Books(np.array(rows), np.array(opinion))

    @property
    def plain(self) -> bool:
        """Whether nothing was added that the paper does not do: weights, a metric, more training, a limit of the size."""
        extras = (self.row["weights"] or "none", self.row["fit_metric"] or "none", self.row["retrain"])
        return extras == ("none", "none", None) and self.config.get("max_payload_bytes") is None


def unfinished(run_dir: Path) -> bool:
    """Whether it is the folder of a run that has not ended: rows of the paper's tables would lack seeds."""
    return (run_dir / SWEEP_FILE).is_file() and not store.has_ended(run_dir)


def read_trials(run_dirs: Sequence[str | Path]) -> list[Trial]:
    """The trials of all runs, in order; one that a later run took over from the ledger is there once.

    A run that has not ended has none: those of a preset are reported while the last of them still run.

    Raises:
        InputError: a file is missing or damaged.
    """
    found: dict[str, Trial] = {}
    for run_dir in map(Path, run_dirs):
        if unfinished(run_dir):
            continue
        scores: dict[str, dict[tuple[str, str], tuple[float, float | None]]] = collections.defaultdict(dict)
        for score in store.read_scores(run_dir).to_pylist():
            if score["role"] != "input":  # of a language model's output table too, which the paper leaves as it is
                continue
            scores[score["trial_key"]][score["task"], score["metric"]] = score["value"], score["baseline"]
        for row in store.read_trials(run_dir).to_pylist():
            key = row["trial_key"]
            config = json.loads(row["config_json"] or "{}")
            resolved = json.loads(row["resolved_json"] or "null") or config
            trial = Trial(row, config, resolved, scores[key], run_dir / artifact_name(key))
            if key not in found or (trial.ok and not found[key].ok):
                found[key] = trial
    return list(found.values())


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the seeds of one configuration come to, in the unit of the paper's column.

    Attributes:
        label: what it is called, or what tells its configuration from others.
        trial: one of it.
        num_seeds: how many were measured.
        value: the metric.
        difference: to the uncompressed baseline of the same seed.
        payload_bytes: mean.
        ratio: of the mean payload.
        without_indices: of a pruned table, the ratio as the paper counts it.
        problem: how many were not measured, and why; empty where all were.
    """

    label: str
    trial: Trial
    num_seeds: int
    value: Interval
    difference: Interval
    payload_bytes: float
    ratio: float
    without_indices: float | None
    problem: str


def measured(
    trials: Iterable[Trial], column: Column, names: Callable[[Sequence[Trial]], list[str]] | None = None
) -> list[Measured]:
    """One for every variant among ``trials``; of a seed that comes twice the first counts.

    ``names`` gives labels to one trial of each variant; by default :func:`labelled`.
    """
    variants: dict[tuple[Any, ...], dict[int | None, Trial]] = {}
    for trial in trials:
        # The uncompressed baseline of a seed is the same in every regime that fine-tunes it.
        key = ("identity",) if trial.row["quantizer"] == "identity" else trial.variant
        seeds = variants.setdefault(key, {})
        if trial.row["seed"] not in seeds or (trial.ok and not seeds[trial.row["seed"]].ok):
            seeds[trial.row["seed"]] = trial
    firsts = [next(iter(seeds.values())) for seeds in variants.values()]
    labels = (names or labelled)(firsts)
    return [_measured(list(seeds.values()), column, label) for seeds, label in zip(variants.values(), labels, strict=True)]


def labelled(trials: Sequence[Trial]) -> list[str]:
    """What tells the configurations of a method apart, and a limit of the size even where it is the same for all."""
    labels = text.short_configs((trial.row["quantizer"], trial.row["config_json"]) for trial in trials)
    found = []
    for trial in trials:
        limit = trial.config.get("max_payload_bytes")
        # One number or none; other values are lists and may hold commas of their own, which joining puts back.
        parts = [part for part in labels[trial.row["quantizer"], trial.row["config_json"]].split(", ") if part]
        parts = [part for part in parts if not part.startswith("max_payload_bytes=") and not part.endswith("=null")]
        found.append(", ".join(parts if limit is None else [*parts, f"at most {limit:,} bytes"]))
    return found


def _measured(trials: list[Trial], column: Column, label: str) -> Measured:
    done = [trial for trial in trials if trial.ok and (column.task, column.metric) in trial.scores]
    missing = [trial for trial in trials if trial not in done]
    problem = ""
    if missing:
        reason = missing[0].row["reason"] or "it has no score of this task"
        problem = f"{len(missing)} of {len(trials)} {missing[0].row['status']}: {reason}"
    pairs = [trial.scores[column.task, column.metric] for trial in done]
    values = [column.scale * value for value, _ in pairs]
    compared = [(column.scale * value, column.scale * base) for value, base in pairs if base is not None]
    least, most = metric_bounds(column.task, column.metric)
    bounds = column.scale * least, column.scale * most
    payload = sum(trial.row["payload_bytes"] for trial in done) / len(done) if done else float("nan")
    dense = done[0].row["dense_bytes"] if done else float("nan")
    return Measured(
        label,
        trials[0],
        len(done),
        t_interval(values, bounds),
        paired_difference([value for value, _ in compared], [base for _, base in compared], bounds),
        payload,
        dense / payload,
        _without_indices(done),
        problem,
    )


def _without_indices(trials: Sequence[Trial]) -> float | None:
    """The ratio of a pruned table that counts the kept values alone."""
    if not trials or trials[0].row["quantizer"] != "pruned":
        return None
    row = trials[0].row
    values = row["num_embeddings"] * row["embedding_dim"]
    return float(4 * values / row["code_bytes"]) if row["code_bytes"] else float("inf")
