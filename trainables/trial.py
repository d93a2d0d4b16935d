"""One trial: fit, write the file, read it back, measure what was read.

Nothing is measured on the quantizer that was fitted: every number comes from the file on disk.
"""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

import quantizers
from quantizers import Artifact, Budget, FitStep, Quantizer, Table
from quantizers.fitting.checkpoint import Stopwatch, told, within
from trainables import reconstruction
from trainables.baselines import load_baseline, save_baseline
from trainables.books import book_counts
from trainables.leading import Course, LeadingTask, Report, silent
from trainables.memory import PeakMemory
from trainables.records import TrialResult, TrialSpec, blank_row, content_key, trial_code_digest
from trainables.task import Baseline, DownstreamTask

__all__ = ["Once", "TrialResult", "TrialSpec", "blank_row", "content_key", "run", "shared_baseline", "trial_code_digest"]


class Once(Protocol):
    """Makes a file once for all who ask for it, at the same time or later (``sweeps.record.ledger``)."""

    def __call__(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """The path of ``kind``/``key``, made by ``make`` if nobody has."""


def run(
    spec: TrialSpec,
    table: Table,
    tasks: Sequence[DownstreamTask],
    *,
    weights: Tensor | None,
    artifact_path: Path,
    once: Once,
    device: torch.device,
    report: Report,
) -> TrialResult:
    """Run one trial.

    Args:
        spec: what to do.
        table: the table whose digest the spec names.
        tasks: what to measure with, in the order of ``spec.task_keys``.
        weights: (N,) row weights, or None.
        artifact_path: where the compressed file goes.
        once: for what several trials share.
        device: where the fit runs.
        report: called with every report of the fit.

    Raises:
        InputError: the configuration does not fit the table.
        Exception: whatever the fit or a task raises; the caller makes it a row.
    """
    started, whole = datetime.datetime.now(datetime.UTC), Stopwatch()
    row = blank_row(spec, (table.name, *table.shape), status="ok")
    cls = quantizers.get(spec.method)
    config = quantizers.make_config(spec.method, spec.config)
    curves = told()
    watch = Stopwatch()

    def collect(step: FitStep) -> None:
        said = {"phase": step.phase, "fraction": step.fraction, "value": step.value, "seconds": watch.seconds()}
        curves.append({**said, **step.metrics})
        report(step)

    course = _begin(spec, table, tasks, weights, once, report)
    table, weights = course.table, course.weights
    with PeakMemory(device) as peak:
        watch = Stopwatch()
        quantizer, shared = _fit(spec, course.seen().to(device), weights, once, collect)
        row["fit_seconds"] = watch.seconds()
    row["resolved_json"] = json.dumps(quantizer.resolved(), sort_keys=True)
    row["tasks_json"] = json.dumps({task.label: task.resolved(table) for task in tasks}, sort_keys=True)
    quantizer = course.train(quantizer, report=collect)
    row["train_seconds"] = course.train_seconds
    row["shared_fit"], row["encode_seconds"], row["peak_memory_bytes"] = shared, quantizer.encode_seconds, peak.bytes
    artifact_path.parent.mkdir(parents=True, exist_ok=True)
    quantizer.save(artifact_path)
    del quantizer

    artifact = quantizers.read(artifact_path)
    row["book_counts"] = book_counts(artifact.quantizer)
    predicted = cls.storage(config, table.shape)
    row.update(_sizes(artifact), predicted_payload_bytes=predicted.payload_bytes, oov_words=course.oov_words)
    watch = Stopwatch()
    dense = artifact.quantizer.to_dense()
    row["decode_rows_per_second"] = table.num_embeddings / max(watch.seconds(), 1e-9)
    row.update(reconstruction.measure(table, dense, weights))
    scores = _scores(spec, course, tasks, dense, once, collect)
    row.update(device=str(device), node=platform.node(), started_at=started.isoformat())
    problem = _problem(row, scores, spec)
    if problem:
        row.update(status="failed", reason=problem)
    return TrialResult(row, scores, list(curves), str(artifact_path), whole.seconds())


def _begin(
    spec: TrialSpec,
    table: Table,
    tasks: Sequence[DownstreamTask],
    weights: Tensor | None,
    once: Once,
    report: Report,
) -> Course:
    """What the leading task makes of the table and the weights, if there is one."""
    if spec.lead is None:
        return Course(table, weights)
    lead, key = tasks[spec.lead], spec.task_keys[spec.lead]
    assert isinstance(lead, LeadingTask)  # no other task was planned to lead
    finetune = spec.regime != "pretrained"
    return lead.lead(
        table,
        weights,
        shared_baseline(lead, key, table, spec.seed, once, finetune=finetune, report=report),
        method=spec.method,
        regime=spec.regime,
        retrain=spec.retrain,
        seed=spec.seed,
        fisher=[name for name, said in (("weights", spec.weights), ("metric", spec.metric)) if said == "fisher"],
    )


def _fit(spec: TrialSpec, table: Table, weights: Tensor | None, once: Once, report: Report) -> tuple[Quantizer, bool]:
    """The fitted quantizer, and whether the fit was another trial's."""
    config = quantizers.make_config(spec.method, spec.config)
    budget = None if spec.budget_bytes is None else Budget(spec.budget_bytes)
    options: dict[str, Any] = {"seed": spec.seed, "weights": weights, "budget": budget}
    if spec.fit_with is None:
        quantizer = quantizers.get(spec.method)(config)
        for step in quantizer.fit_steps(table, **options):
            report(step)
        return quantizer, False
    made_here = False

    def make(path: Path) -> None:
        nonlocal made_here
        made_here = True
        largest = quantizers.create(spec.method, **spec.fit_with or {})
        with within(spec.fit_key):
            for step in largest.fit_steps(table, **options):
                report(step)
        largest.words = None  # the trial's own file carries the words
        largest.save(path)

    path = once("fits", spec.fit_key, make)
    largest = quantizers.read(path).quantizer.to(table.vectors.device)
    largest.words = table.words
    return largest.restrict(config, table), not made_here


def _sizes(artifact: Artifact) -> dict[str, Any]:
    storage = artifact.storage
    dense_bytes = 4 * artifact.quantizer.num_embeddings * artifact.quantizer.embedding_dim
    return {
        "code_bytes": storage.code_bytes,
        "codebook_bytes": storage.codebook_bytes,
        "side_bytes": storage.side_bytes,
        "payload_bytes": storage.payload_bytes,
        "vocab_bytes": artifact.vocab_bytes,
        "file_bytes": artifact.file_bytes,
        "compression_ratio": dense_bytes / storage.payload_bytes,
        "bits_per_value": 32 * storage.payload_bytes / dense_bytes,
        "artifact_digest": artifact.digest,
    }


def _scores(
    spec: TrialSpec,
    course: Course,
    tasks: Sequence[DownstreamTask],
    dense: Tensor,
    once: Once,
    report: Report,
) -> list[dict[str, Any]]:
    rows = []
    for task, key in zip(tasks, spec.task_keys, strict=True):
        found = course.scores(task, dense)
        if found is None:
            baseline = shared_baseline(task, key, course.table, spec.seed, once, report=report)
            more = {"report": report} if isinstance(task, LeadingTask) else {}
            with within(key):
                found = baseline, task.score(dense, course.table, baseline, seed=spec.seed, **more)
        baseline, measured = found
        directions = {metric.name: metric.direction for metric in task.metrics}
        for name, score in measured.items():
            reference = baseline.scores.get(name)
            rows.append(
                {
                    "trial_key": spec.key,
                    "role": task.roles[0],
                    "task": task.label,
                    "task_version": task.version,
                    "metric": name,
                    "direction": directions[name],
                    "value": score.value,
                    "baseline": None if reference is None else reference.value,
                    "num_examples": score.num_examples,
                }
            )
    return rows


_BASELINES: dict[str, Baseline] = {}


def shared_baseline(
    task: DownstreamTask,
    task_key: str,
    table: Table,
    seed: int,
    once: Once,
    *,
    finetune: bool = False,
    report: Report = silent,
) -> Baseline:
    """The task's uncompressed baseline: made once for all trials, kept in memory by each process that used it.

    ``finetune`` asks a task that trains a network to train the table with it.
    """
    key = content_key("baseline", table.digest, task_key, seed, finetune)

    def make(path: Path) -> None:
        if isinstance(task, LeadingTask):
            with within(key):
                made = task.baseline(table, seed=seed, finetune=finetune, report=report)
            save_baseline(made, path)
        else:
            save_baseline(task.baseline(table, seed=seed), path)

    if key not in _BASELINES:
        path = once("baselines", key, make)
        if len(_BASELINES) >= 16:
            _BASELINES.clear()
        _BASELINES[key] = load_baseline(path)
    return _BASELINES[key]


def _problem(row: Mapping[str, Any], scores: Sequence[Mapping[str, Any]], spec: TrialSpec) -> str | None:
    """Why a trial that ran to its end is a failure all the same."""
    if row["payload_bytes"] > row["predicted_payload_bytes"]:
        return f"payload is {row['payload_bytes']} bytes, {row['predicted_payload_bytes']} were predicted"
    if spec.budget_bytes is not None and row["payload_bytes"] > spec.budget_bytes:
        return f"payload is {row['payload_bytes']} bytes, over the budget of {spec.budget_bytes}"
    if not math.isfinite(row["mse"]):
        return "the reconstruction holds NaN or infinity"
    bad = [f"{score['task']}.{score['metric']}" for score in scores if math.isnan(score["value"])]
    return f"not a number: {', '.join(bad)}" if bad else None
