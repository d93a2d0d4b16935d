"""Runs an intake's trials on Ray Tune."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import time
from collections.abc import Iterator

from sweeps.storage.layout import RAY, TUNE

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

from analysis.schema import RAY_LOST, TERMINATED
from analysis.text import counted
from quantizers.errors import InputError
from sweeps.record.intake import Intake
from sweeps.record.ledger import Ledger
from sweeps.record.status import Progress
from sweeps.spec.config import SweepConfig
from sweeps.spec.prepare import Prepared
from sweeps.storage.through_driver import Places
from sweeps.tune import task_files
from sweeps.tune.callbacks import Callbacks, Silence
from sweeps.tune.interrupts import GraceOverError, Interrupts
from sweeps.tune.local import own_ray
from sweeps.tune.queue import PATIENT, Queue, request
from sweeps.tune.ray_internals import RayLostError, count_no_callbacks, no_signal_handlers
from sweeps.tune.resources import Policy, check_fits, gpu_bytes
from sweeps.tune.scheduler import Scheduler
from sweeps.tune.worker import Settings, tune_trial
from trainables.tables.formats import to_shared

_REPORTS_A_SECOND = 50  # of all trials together: each is a round trip to the driver, which takes some ms of it


def elsewhere(address: str | None) -> bool:
    """Whether trials may run on machines that do not see this one's disk."""
    return address is not None or "RAY_ADDRESS" in os.environ or bool(ray.is_initialized())


def run_trials(
    prepared: Prepared,
    intake: Intake,
    ledger: Ledger,
    places: Places,
    progress: Progress,
    address: str | None,
    interrupts: Interrupts,
) -> None:
    """Run the trials of ``intake`` until it has no more, or ends the sweep.

    Raises:
        InputError: no cluster answers at ``address``, or no machine has what a trial asks for.
        KeyboardInterrupt: the sweep is to stop at once.
        TerminatedError: SIGTERM came before any trial ran.
    """
    config = prepared.config
    progress.say(f"{config.name}: {'connecting to' if elsewhere(address) else 'starting'} Ray ...")
    with _breaking_off(intake), _ray(address):
        cluster = _Cluster(config)
        progress.set_slots(cluster.slots())
        progress.say(f"{config.name}: starting workers, for at most {counted(cluster.slots(), 'trial')} at a time ...")
        adaptive = prepared.plan.samples is not None
        # What a search proposes it wants to know next, also where another sweep measures it.
        queue = Queue(intake, cluster.policy, 2, PATIENT) if adaptive else Queue(intake, cluster.policy)

        def most_pending() -> int:
            # So many trials wait for a worker at the most: each knows what those before it took, or what came of them; and
            # on a cluster that grows, what waits is what it grows for. One more, for a worker that becomes free while others
            # are on their way.
            slots = cluster.slots()
            progress.set_slots(slots)
            return max(1, slots // 8) if adaptive else slots + 1

        settings = Settings(
            run=places.place(config.run_location),
            ledger=places.place(ledger.storage.location),
            remember_results=ledger.remember_results,
            claims_trials=config.shares_ledger,
            tasks=prepared.task_entries,
            data_dir=None if prepared.data_dir is None else str(prepared.data_dir.absolute()),
            keeps_files=config.keep_artifacts != "none",
            report_seconds=max(1.0 if config.scheduler.kind == "none" else 0.1, cluster.slots() / _REPORTS_A_SECOND),
        )
        trainable = tune.with_parameters(
            tune_trial,
            shared=to_shared(prepared.table),
            data=task_files.pack(prepared.tasks, prepared.data_dir) if places.elsewhere else None,
            weights=prepared.weights,
            settings=settings,
        )
        callbacks = Callbacks(config, intake, queue)
        storage = config.run_dir / RAY
        shutil.rmtree(storage / TUNE, ignore_errors=True)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(most_pending())
        tuner = tune.Tuner(
            tune.with_resources(trainable, request),
            tune_config=tune.TuneConfig(
                search_alg=queue,
                scheduler=Scheduler(intake, queue, cluster.policy, most_pending),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name=TUNE,
                storage_path=str(storage.absolute()),
                callbacks=[callbacks, Silence()],
                verbose=0,
                log_to_file=False,
            ),
        )
        count_no_callbacks()
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost trial is a row, and said there

        def stop(reason: str) -> None:
            intake.stop(reason)
            progress.ending(interrupts.grace_seconds if reason == TERMINATED else None)

        try:
            with interrupts.trials(stop):
                tuner.fit()
        except GraceOverError:
            intake.break_off(TERMINATED)
            callbacks.kill_running()
        except RayLostError:
            # Said now: a thread of Ray's may end this process at its next use of what is dead.
            progress.say(
                f"{config.name}: Ray died: its processes ended, or were too busy to answer. Finished trials are kept; "
                f"frontier resume {config.run_dir} continues."
            )
            raise
    gc.collect()  # Tune's trials hold each other, and the report needs the room


class _Cluster:
    """The machines that trials run on, as they are now.

    Attributes:
        policy: who gets what of them.
    """

    def __init__(self, config: SweepConfig) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        check_fits(config.trial_resources, nodes)
        gpus, memory = sum(node.get("GPU", 0.0) for node in nodes), None
        if gpus and config.trial_resources.gpu_memory is None:
            memory = ray.get(ray.remote(num_gpus=1)(gpu_bytes).remote())
        trains = config.regime != "pretrained"  # then the task's network is trained where the fit was made
        self.policy = Policy(config.trial_resources, gpus=gpus, gpu_bytes=memory, tasks_use_gpu=trains)
        self._cpus, self._looked = sum(node.get("CPU", 0.0) for node in nodes), time.monotonic()

    def slots(self) -> int:
        """About how many trials run at the same time."""
        if time.monotonic() - self._looked > 1.0:
            self._looked = time.monotonic()
            now = ray.cluster_resources()
            self._cpus = now.get("CPU", 0.0)
            self.policy.set_gpus(now.get("GPU", 0.0))
        return self.policy.slots(self._cpus)


@contextlib.contextmanager
def _breaking_off(intake: Intake) -> Iterator[None]:
    """Within this, the end of Ray is the end of the sweep."""
    try:
        yield
    except RayLostError:
        intake.break_off(RAY_LOST)


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Within this, this process is connected to Ray: to one that it has already, to a cluster, or to one of its own."""
    address = address or os.environ.get("RAY_ADDRESS")  # set where a job was submitted to a cluster
    if ray.is_initialized():
        yield
        return
    if address is None:
        with own_ray():
            yield
        return
    try:
        with no_signal_handlers():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({' '.join(str(error).split())[:200]})."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()
