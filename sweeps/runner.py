"""Runs a sweep on Ray Tune: reused trials from the ledger, the rest on the cluster, every outcome a row."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

import ray
from ray import tune
from ray.tune import Callback
from rich.console import Console

from analysis.store import replace_bytes
from quantizers.errors import InputError
from sweeps.config import SweepConfig
from sweeps.finish import finish
from sweeps.ledger import Ledger
from sweeps.prepare import Prepared, prepare
from sweeps.progress import Progress
from sweeps.tracking import Tracker
from sweeps.worker import Settings, tune_trial
from trainables.tables import to_shared
from trainables.trial import TrialResult, TrialSpec, blank_row


@dataclasses.dataclass(frozen=True)
class Run:
    """A sweep that has ended.

    Attributes:
        run_dir: where everything is.
        counts: trials by status.
        reused: how many came from the ledger.
        interrupted: whether it was stopped before all trials ran.
        tracking_problem: why MLflow records are missing, or None.
    """

    run_dir: Path
    counts: dict[str, int]
    reused: int
    interrupted: bool
    tracking_problem: str | None = None

    @property
    def exit_code(self) -> int:
        """0 ok, 1 some trials failed."""
        return 1 if self.counts.get("failed") else 0


def run(
    config: SweepConfig,
    *,
    data_dir: Path | None = None,
    address: str | None = None,
    console: Console | None = None,
    command: str | None = None,
) -> Run:
    """Run a sweep, or what is left of it.

    Args:
        config: the sweep.
        data_dir: where relative table and task files are looked for.
        address: of a Ray cluster ("auto": the one of this machine); None starts one here for the length of the run.
        console: where progress is shown; None shows nothing.
        command: how a person would repeat this run, for the report.

    Raises:
        InputError: something is wrong with the sweep; nothing was written.
    """
    started = datetime.datetime.now(datetime.UTC)
    prepared = prepare(config, data_dir)
    run_dir = config.run_dir
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run_dir}: cannot be made: {error.strerror or error}.") from error
    replace_bytes(run_dir / "sweep.yaml", config.to_yaml().encode())
    remember = config.ledger_dir is not None
    ledger = Ledger(config.ledger_dir or run_dir / "ray" / "shared", remember_results=remember)
    tracker = None if config.tracking_uri is None else Tracker(config.tracking_uri, config.name, prepared.objectives)
    metric = next((name for name in prepared.objectives if name != "payload_bytes"), "reconstruction.nmse")
    with Progress(
        console,
        run_dir,
        name=config.name,
        total=len(prepared.plan.trials),
        skipped=len(prepared.plan.skipped),
        objective=(metric, prepared.directions[metric]["direction"]),
        data_dir=data_dir,
    ) as progress:
        results = _Results(progress, tracker)
        todo = []
        for spec in prepared.plan.trials:
            known = ledger.get(spec.key)
            if known is not None and _adopt(known, spec, config):
                results.add(known)
            else:
                todo.append(spec)
        stopped = None
        if config.stop.trials is not None and len(todo) > config.stop.trials:
            todo, stopped = todo[: config.stop.trials], f"stop.trials: {config.stop.trials} were run"
        interrupted = False
        if todo:
            interrupted = _run_on_ray(prepared, ledger, todo, results, progress, address)
        progress.phase("reporting")
        if tracker is not None:
            tracker.close()
        reason = stopped or ("interrupted" if interrupted else None)
        outcome = finish(
            prepared, results.by_key, tracker, started=started, command=command, stop_reason=reason, interrupted=interrupted
        )
        progress.phase("interrupted" if interrupted else "finished")
    return Run(run_dir, outcome, results.reused, interrupted, tracker.problem if tracker is not None else None)


class _Results:
    """Where finished trials arrive, whatever way they come."""

    def __init__(self, progress: Progress, tracker: Tracker | None) -> None:
        self.by_key: dict[str, TrialResult] = {}
        self.reused = 0
        self._progress = progress
        self._tracker = tracker

    def add(self, result: TrialResult) -> None:
        """Keep a result, show it, and send it on."""
        self.by_key[result.row["trial_key"]] = result
        self.reused += bool(result.row["reused"])
        self._progress.finished(result)
        if self._tracker is not None:
            self._tracker.log(result)


def _adopt(known: TrialResult, spec: TrialSpec, config: SweepConfig) -> bool:
    """Make a result of the ledger this sweep's own; False where its compressed file is wanted and gone."""
    path = config.run_dir / "artifacts" / f"{spec.key}.safetensors"
    if config.keep_artifacts == "all" and not path.is_file():
        source = Path(known.artifact or "")
        if not source.is_file():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    known.row.update(reused=True, budget_bytes=spec.budget_bytes)
    return True


class _Collector(Callback):  # type: ignore[misc]
    """Takes the results of trials as Tune hands them in."""

    def __init__(self, prepared: Prepared, results: _Results, progress: Progress) -> None:
        self._table = (prepared.table.name, *prepared.table.shape)
        self._results = results
        self._progress = progress

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore, which is never made: the ledger is what resumes

    @staticmethod
    def _spec(trial: Any) -> TrialSpec:
        return TrialSpec.from_json(trial.config["spec"])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        spec = self._spec(trial)
        self._progress.started(spec.key, f"{spec.method} seed {spec.seed}")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if result.get("result"):
            self._results.add(TrialResult.from_json(json.loads(result["result"])))
        else:
            self._progress.step(self._spec(trial).key, float(result.get("fraction") or 0.0))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        spec = self._spec(trial)
        if spec.key not in self._results.by_key:
            text = getattr(trial, "error_msg", None) or "the worker process died"
            reason = " ".join(str(text).strip().splitlines()[-1].split())[:500]
            self._results.add(TrialResult(blank_row(spec, self._table, status="failed", reason=reason)))


def _run_on_ray(
    prepared: Prepared, ledger: Ledger, todo: list[TrialSpec], results: _Results, progress: Progress, address: str | None
) -> bool:
    """Run ``todo`` with Tune; returns whether the person interrupted it."""
    config = prepared.config
    mine = not ray.is_initialized()
    if mine:
        _start_ray(address)
    try:
        cpu, gpu = _trial_resources(config)
        progress.set_slots(_slots(cpu, gpu))
        settings = Settings(
            artifacts_dir=str(config.run_dir / "artifacts"),
            ledger_dir=str(ledger.folder),
            remember_results=ledger.remember_results,
            tasks=prepared.task_entries,
            data_dir=None if prepared.data_dir is None else str(prepared.data_dir.absolute()),
            threads=max(1, int(cpu)),
            gpu=gpu > 0,
        )
        trainable = tune.with_parameters(
            tune_trial, shared=to_shared(prepared.table), weights=prepared.weights, settings=settings
        )
        storage = config.run_dir / "ray"
        shutil.rmtree(storage / "tune", ignore_errors=True)
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": cpu, "gpu": gpu}),
            param_space={"spec": tune.grid_search([spec.to_json() for spec in todo])},
            tune_config=tune.TuneConfig(reuse_actors=True, time_budget_s=config.stop.time),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(storage.absolute()),
                callbacks=[_Collector(prepared, results, progress)],
                verbose=0,
                log_to_file=False,
            ),
        )
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        tuner.fit()
    finally:
        if mine:
            ray.shutdown()
    return any(spec.key not in results.by_key for spec in todo)


def _start_ray(address: str | None) -> None:
    # Workers must find our packages by the same path as this process, wherever it was started from.
    paths = [path for path in sys.path if path and Path(path).is_dir() and "site-packages" not in path]
    environment = {"PYTHONPATH": os.pathsep.join(paths)} if address is None else {}
    try:
        ray.init(
            address=address,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment} if environment else None,
        )
    except ConnectionError as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({' '.join(str(error).split())[:200]})."
        ) from None


def _trial_resources(config: SweepConfig) -> tuple[float, float]:
    """CPUs and GPUs of one trial: as the sweep says, or one CPU and, where there are GPUs, a quarter of one."""
    if config.resources != "auto":
        return config.resources.cpu, config.resources.gpu
    return 1.0, 0.25 if ray.cluster_resources().get("GPU") else 0.0


def _slots(cpu: float, gpu: float) -> int:
    have = ray.cluster_resources()
    slots = have.get("CPU", 1) / cpu
    return max(1, int(min(slots, have.get("GPU", 0) / gpu) if gpu else slots))
