"""One trial: fit, write the file, read it back, measure what was read.

Nothing is measured on the quantizer that was fitted: every number comes from the file on disk.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

import quantizers
from quantizers import Artifact, Budget, FitStep, Quantizer, Table
from trainables import reconstruction
from trainables.baselines import load_baseline, save_baseline
from trainables.memory import PeakMemory
from trainables.provenance import code_digest, versions
from trainables.tasks.base import Baseline, DownstreamTask


class Once(Protocol):
    """Makes a file once for all who ask for it, at the same time or later (``sweeps.ledger``)."""

    def __call__(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """The path of ``kind``/``key``, made by ``make`` if nobody has."""


def content_key(*parts: Any) -> str:
    """Digest (20 hexadecimal digits) of JSON-able ``parts``."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=10).hexdigest()


@dataclasses.dataclass(frozen=True)
class TrialSpec:
    """What one trial does; JSON-able, and enough to run it anywhere the table is.

    Attributes:
        method: name of the quantizer.
        config: its parameters, complete.
        budget_bytes: what the payload may take; None for baselines and explicit configurations.
        seed: of the fit and of the tasks.
        regime: how table and task are trained.
        weights: name of the row weights ("none": all rows count the same).
        table_digest: content digest of the table.
        weights_digest: content digest of the row weights.
        task_keys: content keys of the tasks.
        code_digest: digest of the code, as it was when the trial was planned.
        fit_with: parameters of the larger configuration that this one is cut from, where the method is nested.
    """

    method: str
    config: Mapping[str, Any]
    budget_bytes: int | None
    seed: int
    regime: str
    weights: str
    table_digest: str
    weights_digest: str
    task_keys: tuple[str, ...]
    code_digest: str
    fit_with: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        """Content key: the same key means the same result."""
        cls = quantizers.get(self.method)
        # A budget changes what is fitted only where the length varies; elsewhere the configuration says it all.
        budget = None if _exact(cls, self.config) else self.budget_bytes
        return content_key("trial", self._base(self.config), self.regime, list(self.task_keys), budget)

    def _base(self, config: Mapping[str, Any]) -> list[Any]:
        return [self.table_digest, self.method, dict(config), self.seed, self.weights_digest, self.code_digest]

    @property
    def fit_key(self) -> str:
        """Content key of the fit; trials with the same one share it."""
        return content_key("fit", self._base(self.fit_with or self.config))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrialSpec:
        """Undo :meth:`to_json`."""
        return cls(**{**data, "task_keys": tuple(data["task_keys"])})


def _exact(cls: type[Quantizer], config: Mapping[str, Any]) -> bool:
    return cls.storage(quantizers.make_config(cls.name, config), (1, 1)).exact


def trial_code_digest(method: str) -> str:
    """Digest of the code that a trial of ``method`` runs, the tasks' apart."""
    return code_digest((quantizers.get(method).__module__, "trainables.trial"))


@dataclasses.dataclass
class TrialResult:
    """What a trial found out; JSON-able.

    Attributes:
        row: columns of ``trials.parquet``.
        scores: rows of ``scores.parquet``.
        curves: the fit's reports, in order: phase, fraction, value, seconds since the fit began, and the method's own.
        artifact: where the compressed file was written.
        seconds: from the start of the trial to its end.
    """

    row: dict[str, Any]
    scores: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    curves: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    artifact: str | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrialResult:
        """Undo :meth:`to_json`."""
        return cls(**data)


def blank_row(spec: TrialSpec, table: tuple[str, int, int], *, status: str, reason: str | None = None) -> dict[str, Any]:
    """The columns of a trial that are known before it runs."""
    name, num_embeddings, embedding_dim = table
    return {
        "trial_key": spec.key,
        "table": name,
        "table_digest": spec.table_digest,
        "task_scope": "whole table",
        "quantizer": spec.method,
        "config_json": json.dumps(dict(spec.config), sort_keys=True),
        "regime": spec.regime,
        "weights": spec.weights,
        "budget_bytes": spec.budget_bytes,
        "seed": spec.seed,
        "status": status,
        "reason": reason,
        "reused": False,
        "num_embeddings": num_embeddings,
        "embedding_dim": embedding_dim,
        "fit_key": spec.fit_key,
        "shared_fit": False,
        "code_digest": spec.code_digest,
        "versions": json.dumps(versions(), sort_keys=True),
    }


def run(
    spec: TrialSpec,
    table: Table,
    tasks: Sequence[DownstreamTask],
    *,
    weights: Tensor | None,
    artifact_path: Path,
    once: Once,
    device: torch.device,
    report: Callable[[FitStep], None],
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
    started = datetime.datetime.now(datetime.UTC)
    row = blank_row(spec, (table.name, *table.shape), status="ok")
    cls = quantizers.get(spec.method)
    config = quantizers.make_config(spec.method, spec.config)
    curves: list[dict[str, Any]] = []

    def collect(step: FitStep) -> None:
        seconds = time.perf_counter() - begin
        curves.append(
            {"phase": step.phase, "fraction": step.fraction, "value": step.value, "seconds": seconds, **step.metrics}
        )
        report(step)

    with PeakMemory(device) as peak:
        begin = time.perf_counter()
        quantizer, shared = _fit(spec, table.to(device), weights, once, collect)
        row["fit_seconds"] = time.perf_counter() - begin
    row["shared_fit"], row["encode_seconds"], row["peak_memory_bytes"] = shared, quantizer.encode_seconds, peak.bytes
    artifact_path.parent.mkdir(parents=True, exist_ok=True)
    quantizer.save(artifact_path)
    del quantizer

    artifact = quantizers.read(artifact_path)
    predicted = cls.storage(config, table.shape)
    row.update(_sizes(artifact), predicted_payload_bytes=predicted.payload_bytes)
    begin = time.perf_counter()
    dense = artifact.quantizer.to_dense()
    row["decode_rows_per_second"] = table.num_embeddings / max(time.perf_counter() - begin, 1e-9)
    row.update(reconstruction.measure(table, dense, weights))
    scores = _scores(spec, table, tasks, dense, artifact, once)
    row.update(device=str(device), node=platform.node(), started_at=started.isoformat())
    problem = _problem(row, scores, spec)
    if problem:
        row.update(status="failed", reason=problem)
    seconds = (datetime.datetime.now(datetime.UTC) - started).total_seconds()
    return TrialResult(row, scores, curves, str(artifact_path), seconds)


def _fit(
    spec: TrialSpec, table: Table, weights: Tensor | None, once: Once, report: Callable[[FitStep], None]
) -> tuple[Quantizer, bool]:
    """The fitted quantizer, and whether the fit was another trial's."""
    config = quantizers.make_config(spec.method, spec.config)
    budget = None if spec.budget_bytes is None else Budget(spec.budget_bytes)
    if spec.fit_with is None:
        quantizer = quantizers.get(spec.method)(config)
        for step in quantizer.fit_steps(table, seed=spec.seed, weights=weights, budget=budget):
            report(step)
        return quantizer, False
    made_here = False

    def make(path: Path) -> None:
        nonlocal made_here
        made_here = True
        largest = quantizers.create(spec.method, **spec.fit_with or {})
        for step in largest.fit_steps(table, seed=spec.seed, weights=weights, budget=budget):
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
        "oov_words": 0,
    }


def _scores(
    spec: TrialSpec,
    table: Table,
    tasks: Sequence[DownstreamTask],
    dense: Tensor,
    artifact: Artifact,
    once: Once,
) -> list[dict[str, Any]]:
    rows = []
    for task, key in zip(tasks, spec.task_keys, strict=True):
        baseline = shared_baseline(task, key, table, spec.seed, once)
        directions = {metric.name: metric.direction for metric in task.metrics}
        for name, score in task.score(dense, table, baseline, seed=spec.seed).items():
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


def shared_baseline(task: DownstreamTask, task_key: str, table: Table, seed: int, once: Once) -> Baseline:
    """The task's uncompressed baseline: made once for all trials, kept in memory by each process that used it."""
    key = content_key("baseline", table.digest, task_key, seed)
    if key not in _BASELINES:
        path = once("baselines", key, lambda part: save_baseline(task.baseline(table, seed=seed), part))
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
