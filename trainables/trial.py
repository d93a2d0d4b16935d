"""One trial: fit, write the file, read it back, measure what was read.

Nothing is measured on the quantizer that was fitted: every number comes from the file on disk.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

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
from trainables.records import TrialResult, TrialSpec, blank_row, content_key, share_of, trial_code_digest
from trainables.task import Baseline, DownstreamTask

__all__ = ["Once", "TrialResult", "TrialSpec", "blank_row", "content_key", "run", "shared_baseline", "trial_code_digest"]

T = TypeVar("T")

# What is kept of every table of a trial that compresses several.
_OF_A_ROLE = ("num_embeddings", "embedding_dim", "payload_bytes", "file_bytes", "mse", "nmse", "cosine", "artifact_digest")


class Once(Protocol):
    """Makes a file once for all who ask for it, at the same time or later (``sweeps.record.ledger``)."""

    def __call__(self, kind: str, key: str, make: Callable[[Path], None], read: Callable[[Path], T]) -> T:
        """What ``read`` makes of the file ``kind``/``key``, made by ``make`` if nobody has.

        A file of which ``read`` raises InputError is made again.
        """


def run(
    spec: TrialSpec,
    table: Table,
    tasks: Sequence[DownstreamTask],
    *,
    weights: Tensor | None,
    artifact_path: Callable[[str | None], Path],
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
        artifact_path: where the compressed file of a role goes; None stands for the first role, which has the plain name.
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
    curves = told()
    watch = Stopwatch()

    def collect(step: FitStep) -> None:
        said = {"phase": step.phase, "fraction": step.fraction, "value": step.value, "seconds": watch.seconds()}
        curves.append({**said, **step.metrics})
        report(step)

    course = _begin(spec, table, tasks, weights, once, report)
    fitted: dict[str, Quantizer] = {}
    shared = []
    with PeakMemory(device) as peak:
        watch = Stopwatch()
        for index, role in enumerate(course.tables):
            said = collect if len(course.tables) == 1 else _of_part(collect, role, index, len(course.tables))
            fitted[role], one = _fit(spec, role, course, device, once, said)
            shared.append(one)
        row["fit_seconds"] = watch.seconds()
    row["resolved_json"] = _one_or_by_role({role: quantizer.resolved() for role, quantizer in fitted.items()})
    row["tasks_json"] = json.dumps({task.label: task.resolved(course.table) for task in tasks}, sort_keys=True)
    trained = dict(course.train(fitted, report=collect))
    del fitted
    row["train_seconds"] = course.train_seconds
    row["shared_fit"], row["peak_memory_bytes"] = all(shared), peak.bytes
    encode = [quantizer.encode_seconds for quantizer in trained.values() if quantizer.encode_seconds is not None]
    row["encode_seconds"] = sum(encode) if encode else None
    paths = {role: artifact_path(role if index else None) for index, role in enumerate(trained)}
    for role, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        trained.pop(role).save(path)

    dense, parts, books, seconds = {}, {}, {}, 0.0
    for role, path in paths.items():
        artifact = quantizers.read(path)
        books[role] = book_counts(artifact.quantizer)
        watch = Stopwatch()
        dense[role] = artifact.quantizer.to_dense()
        seconds += watch.seconds()
        predicted = cls.storage(quantizers.make_config(spec.method, spec.config_of(role)), course.tables[role].shape)
        parts[role] = {
            **_sizes(artifact),
            "predicted_payload_bytes": predicted.payload_bytes,
            **reconstruction.measure(course.tables[role], dense[role], course.weights.get(role)),
        }
    row.update(_together(parts), oov_words=course.oov_words)
    row["book_counts"] = _one_or_by_role(books)
    row["decode_rows_per_second"] = sum(len(rows) for rows in dense.values()) / max(seconds, 1e-9)
    scores = _scores(spec, course, tasks, dense, once, collect)
    row.update(device=str(device), node=platform.node(), started_at=started.isoformat())
    problem = _problem(row, scores, spec)
    if problem:
        row.update(status="failed", reason=problem)
    return TrialResult(row, scores, list(curves), str(artifact_path(None)), whole.seconds())


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
        return Course({"input": table}, {} if weights is None else {"input": weights})
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


def _one_or_by_role(values: Mapping[str, Any]) -> str | None:
    """As JSON, what was found of the one table, or of each by role; None where there is nothing of any."""
    found: Any = dict(values) if len(values) > 1 else next(iter(values.values()))
    return None if all(value is None for value in values.values()) else json.dumps(found, sort_keys=True)


def _of_part(report: Report, role: str, index: int, count: int) -> Report:
    """Reports of one of several fits as those of the whole."""

    def told(step: FitStep) -> None:
        fraction = (index + step.fraction) / count
        report(dataclasses.replace(step, phase=f"{role}: {step.phase}", fraction=fraction))

    return told


def _fit(
    spec: TrialSpec, role: str, course: Course, device: torch.device, once: Once, report: Report
) -> tuple[Quantizer, bool]:
    """The fitted quantizer of ``role``, and whether the fit was another trial's."""
    config = quantizers.make_config(spec.method, spec.config_of(role))
    table, weights = course.seen(role).to(device), course.weights.get(role)
    dense_bytes = {name: 4 * one.num_embeddings * one.embedding_dim for name, one in course.tables.items()}
    budget = None if spec.budget_bytes is None else Budget(share_of(spec.budget_bytes, role, dense_bytes))
    options: dict[str, Any] = {"seed": spec.seed, "weights": weights, "budget": budget}
    if spec.fit_with is None:
        quantizer = quantizers.get(spec.method)(config)
        with within(role):
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

    largest = once("fits", spec.fit_key, make, quantizers.read).quantizer.to(table.vectors.device)
    largest.words = table.words
    return largest.restrict(config, table), not made_here


def _sizes(artifact: Artifact) -> dict[str, Any]:
    storage = artifact.storage
    num_embeddings, embedding_dim = artifact.quantizer.shape
    dense_bytes = 4 * num_embeddings * embedding_dim
    return {
        "num_embeddings": num_embeddings,
        "embedding_dim": embedding_dim,
        "dense_bytes": dense_bytes,
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


def _together(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of all tables of a trial, from those of each role; with one table, just those."""
    if len(parts) == 1:
        (only,) = parts.values()
        return {name: value for name, value in only.items() if name not in ("num_embeddings", "embedding_dim")}
    sums = ("code_bytes", "codebook_bytes", "side_bytes", "payload_bytes", "predicted_payload_bytes", "vocab_bytes")
    row = {name: sum(part[name] for part in parts.values()) for name in (*sums, "file_bytes", "dense_bytes")}
    shapes = [(part["num_embeddings"], part["embedding_dim"]) for part in parts.values()]
    row |= reconstruction.together(shapes, list(parts.values()))
    return row | {
        "compression_ratio": row["dense_bytes"] / row["payload_bytes"],
        "bits_per_value": 32 * row["payload_bytes"] / row["dense_bytes"],
        "artifact_digest": content_key(*(part["artifact_digest"] for part in parts.values())),
        "roles": json.dumps({role: {name: part[name] for name in _OF_A_ROLE} for role, part in parts.items()}),
    }


def _scores(
    spec: TrialSpec,
    course: Course,
    tasks: Sequence[DownstreamTask],
    dense: Mapping[str, Tensor],
    once: Once,
    report: Report,
) -> list[dict[str, Any]]:
    rows = []
    first = next(iter(dense.values()))
    for task, key in zip(tasks, spec.task_keys, strict=True):
        found, role = course.scores(task, dense), "+".join(dense)
        if found is None:
            role = next(iter(dense))
            baseline = shared_baseline(task, key, course.reference, spec.seed, once, report=report)
            more = {"report": report} if isinstance(task, LeadingTask) else {}
            with within(key):
                found = baseline, task.score(first, course.reference, baseline, seed=spec.seed, **more)
        baseline, measured = found
        directions = {metric.name: metric.direction for metric in task.metrics}
        for name, score in measured.items():
            reference = baseline.scores.get(name)
            rows.append(
                {
                    "trial_key": spec.key,
                    "role": role,
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
        baseline = once("baselines", key, make, load_baseline)
        if len(_BASELINES) >= 16:
            _BASELINES.clear()
        _BASELINES[key] = baseline
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
