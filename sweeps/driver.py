"""Runs a sweep on Ray Tune: reused trials from the ledger, the rest on the cluster, every outcome a row."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000000")  # snapshots are for a restore, which is never made
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ours lets running trials end

import ray
from ray import tune
from rich.console import Console

from analysis.store import replace_bytes
from quantizers.errors import InputError
from sweeps.record.finish import INTERRUPTED, finish
from sweeps.record.intake import Results, Todo
from sweeps.record.ledger import Ledger
from sweeps.record.run_folder import check_run_dir
from sweeps.record.status import Progress, is_alive, read_status
from sweeps.record.tracking import Tracker
from sweeps.search.adaptive import AdaptiveSearch
from sweeps.search.base import Stopper
from sweeps.search.moasha import Rungs
from sweeps.search.plateau import Plateau
from sweeps.spec.config import SweepConfig
from sweeps.spec.prepare import Prepared, prepare
from sweeps.storage import is_remote, join, mirror, open_storage
from sweeps.storage.through_driver import Places
from sweeps.tune import task_files as carried
from sweeps.tune.callbacks import Collector, Silence
from sweeps.tune.interrupts import on_interrupt
from sweeps.tune.queue import Feed, request
from sweeps.tune.resources import Policy, check_fits, gpu_bytes
from sweeps.tune.scheduler import EarlyStopping, InOrder
from sweeps.tune.worker import Settings, tune_trial
from trainables.tables.formats import to_shared
from trainables.trial import TrialSpec

_REPORTS_A_SECOND = 50  # of all trials together: each is a round trip to the driver, which takes some ms of it


@dataclasses.dataclass(frozen=True)
class Run:
    """A sweep that has ended.

    Attributes:
        run_dir: where everything is.
        counts: trials by status.
        reused: how many came from the ledger.
        stop_reason: why it ended before all trials ran, or None.
        tracking_problem: why MLflow records are missing, or None.
    """

    run_dir: Path
    counts: dict[str, int]
    reused: int
    stop_reason: str | None = None
    tracking_problem: str | None = None

    @property
    def interrupted(self) -> bool:
        """Whether a person stopped it before all trials ran."""
        return self.stop_reason == INTERRUPTED

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

    Ctrl-C once starts no more trials, lets those that run end, and reports; twice stops at once, without a report. Either
    way the same call goes on from there.

    Raises:
        InputError: something is wrong with the sweep; nothing was written.
        KeyboardInterrupt: Ctrl-C was given twice.
    """
    started = datetime.datetime.now(datetime.UTC)
    if is_remote(config.run_location):
        mirror.pull(config.run_location)
    check_run_dir(config)
    prepared = prepare(config, data_dir)
    run_dir = config.run_dir
    state = read_status(run_dir)
    if state is not None and is_alive(state) and int(state["pid"]) != os.getpid():
        raise InputError(f"{run_dir}: the sweep is still at work (process {state['pid']}); see: frontier status {run_dir}")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run_dir}: cannot be made: {error.strerror or error}.") from error
    replace_bytes(run_dir / "sweep.yaml", config.to_yaml().encode())
    location = config.ledger_location or join(config.run_location, "ray", "shared")
    ledger = Ledger(open_storage(location), remember_results=config.ledger_location is not None)
    tracker = None if config.tracking_uri is None else Tracker(config.tracking_uri, config.name, prepared.objectives)
    metric = next((name for name in prepared.objectives if name != "payload_bytes"), "reconstruction.nmse")
    elsewhere = address is not None or "RAY_ADDRESS" in os.environ or ray.is_initialized()
    with (
        Places(config.run_location, location, elsewhere=elsewhere) as places,
        Progress(
            console,
            run_dir,
            name=config.name,
            total=len(prepared.plan.trials),
            skipped=len(prepared.plan.skipped),
            objective=(metric, prepared.directions[metric]["direction"]),
            data_dir=data_dir,
            sweep=config.model_dump(mode="json"),
        ) as progress,
    ):
        mirror.push(config)
        plateau = None
        if config.stop.hypervolume is not None:
            plateau = Plateau(config.stop.hypervolume, prepared.objectives, prepared.directions)
        results = Results(prepared, ledger, progress, tracker, plateau)
        search = None
        left: Iterable[TrialSpec]
        if prepared.plan.samples is None:
            left = [spec for spec in prepared.plan.trials if not results.adopt(spec)]
        else:
            search = results.search = AdaptiveSearch(prepared, open_storage(config.run_location), results.adopt)
            progress.state["total"] = search.total
            left = iter(search.next_trial, None)
        todo = Todo(left, config.stop.trials)
        reason = None
        if not todo.empty:
            reason = _run_on_ray(prepared, ledger, places, todo, results, progress, address) or todo.stop_reason
        if search is not None:
            prepared = dataclasses.replace(prepared, plan=search.plan())
            progress.state["total"] = len(prepared.plan.trials)
        progress.phase("reporting")
        if tracker is not None:
            tracker.close()
        outcome = finish(prepared, results.by_key, tracker, started=started, command=command, stop_reason=reason)
        progress.phase(INTERRUPTED if reason == INTERRUPTED else "finished")
        mirror.push(config)
    return Run(run_dir, outcome, results.reused, reason, tracker.problem if tracker is not None else None)


def _run_on_ray(
    prepared: Prepared,
    ledger: Ledger,
    places: Places,
    todo: Todo,
    results: Results,
    progress: Progress,
    address: str | None,
) -> str | None:
    """Run ``todo`` with Tune; returns why not all of it ran, or None."""
    config = prepared.config
    mine = not ray.is_initialized()
    if mine:
        _start_ray(address)
    try:
        policy, slots = _policy(config)
        progress.set_slots(slots)
        feed = Feed(todo.next_trial, policy) if results.search is None else Feed(todo.next_trial, policy, look_ahead=2)
        scheduler, stopped = _scheduler(prepared, results.search, feed)
        collector = Collector(
            config,
            (prepared.table.name, *prepared.table.shape),
            feed=feed,
            policy=policy,
            progress=progress,
            add=results.add,
            known=results.known,
            plateau=results.plateau,
            stopped=stopped,
        )
        settings = Settings(
            run=places.place(config.run_location),
            ledger=places.place(ledger.storage.location),
            remember_results=ledger.remember_results,
            tasks=prepared.task_entries,
            data_dir=None if prepared.data_dir is None else str(prepared.data_dir.absolute()),
            report_seconds=max(1.0 if config.scheduler.kind == "none" else 0.1, slots / _REPORTS_A_SECOND),
        )
        trainable = tune.with_parameters(
            tune_trial,
            shared=to_shared(prepared.table),
            data=carried.pack(prepared.tasks, prepared.data_dir) if places.elsewhere else None,
            weights=prepared.weights,
            settings=settings,
        )
        storage = config.run_dir / "ray"
        shutil.rmtree(storage / "tune", ignore_errors=True)
        # So many trials wait for a worker at the most: each knows what those before it took, or even what came of them.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots if results.search is None else max(1, slots // 8))
        tuner = tune.Tuner(
            tune.with_resources(trainable, request),
            tune_config=tune.TuneConfig(
                search_alg=feed,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(storage.absolute()),
                callbacks=[collector, Silence()],
                verbose=0,
                log_to_file=False,
            ),
        )
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost trial is a row, and said there

        def stop() -> None:
            feed.stop(INTERRUPTED)
            progress.ending()

        with on_interrupt(stop):
            tuner.fit()
    finally:
        if mine:
            ray.shutdown()
    return feed.stop_reason


def _scheduler(prepared: Prepared, search: AdaptiveSearch | None, feed: Feed) -> tuple[InOrder, Mapping[str, str]]:
    """The scheduler that the sweep names, and where it says which trials it stopped and why."""
    options = prepared.config.scheduler
    stopper: Stopper
    if options.kind == "none":
        return InOrder(feed), {}
    if search is not None and options.kind == "frontier":
        stopper = search
    else:
        sizes = prepared.plan.predicted_bytes.__getitem__ if search is None else search.predicted_bytes
        stopper = Rungs(sizes, options.reduction_factor, options.grace, options.curves)
    scheduler = EarlyStopping(feed, stopper)
    return scheduler, scheduler.reasons


def _policy(config: SweepConfig) -> tuple[Policy, int]:
    """Who gets what of the cluster, and about how many trials that makes at a time."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    check_fits(config.trial_resources, nodes)
    gpus, memory = sum(node.get("GPU", 0.0) for node in nodes), None
    if gpus and config.trial_resources.gpu_memory is None:
        memory = ray.get(ray.remote(num_gpus=1)(gpu_bytes).remote())
    trains = config.regime != "pretrained"  # then the task's network is trained where the fit was made
    policy = Policy(config.trial_resources, gpus=gpus, gpu_bytes=memory, tasks_use_gpu=trains)
    return policy, policy.slots(sum(node.get("CPU", 0.0) for node in nodes))


def _start_ray(address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS")  # set where a job was submitted to a cluster
    # Workers must find our packages by the same path as this process, wherever it was started from.
    paths = [path for path in sys.path if path and Path(path).is_dir() and "site-packages" not in path]
    environment = {"PYTHONPATH": os.pathsep.join(paths)} if address is None else {}
    try:
        ray.init(
            address=address or "local",  # not whatever cluster somebody left on this machine
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment} if environment else None,
        )
    except ConnectionError as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({' '.join(str(error).split())[:200]})."
        ) from None
