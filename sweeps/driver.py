"""One sweep from its description to its report: the loop that everything else is called from.

Trials that are known come from the ledger, the others run on Ray (:mod:`sweeps.tune`), every outcome becomes a row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
from pathlib import Path

from rich.console import Console

from analysis.schema import RAY_LOST, UNFINISHED
from quantizers.errors import InputError
from quantizers.files import sealed_text, write_bytes
from sweeps.record.estimate import jobs, one_of_each_first
from sweeps.record.finish import finish
from sweeps.record.intake import Intake, Listed
from sweeps.record.ledger import Ledger
from sweeps.record.run_folder import VANISHED, FolderWatch, check_run_dir, check_table, delete_working_files, owned
from sweeps.record.snapshot import Snapshots
from sweeps.record.status import Progress
from sweeps.record.tracking.tracker import Tracker
from sweeps.search.adaptive import make_judge, make_search
from sweeps.search.plateau import Plateau
from sweeps.spec.config import SweepConfig
from sweeps.spec.prepare import prepare
from sweeps.storage import is_remote, join, mirror, open_storage
from sweeps.storage.layout import RAY, SHARED, SWEEP_FILE
from sweeps.storage.temporary import leave
from sweeps.storage.through_driver import Places
from sweeps.tune import engine
from sweeps.tune.interrupts import Interrupts

GRACE_SECONDS = 20.0  # what sends SIGTERM kills after some 30 s, and the report takes some of them


@dataclasses.dataclass(frozen=True)
class Run:
    """A sweep that has ended.

    Attributes:
        run_dir: where everything is.
        counts: trials by status.
        reused: how many came from the ledger.
        stop_reason: why it ended before all trials ran, or None.
        tracking_problem: why MLflow records are missing, or None.
        lost: trials that were measured, and whose compressed files vanished while the sweep was at work.
        terminated: whether SIGTERM came while it was at work.
    """

    run_dir: Path
    counts: dict[str, int]
    reused: int
    stop_reason: str | None = None
    tracking_problem: str | None = None
    lost: tuple[str, ...] = ()
    terminated: bool = False

    @property
    def interrupted(self) -> bool:
        """Whether a person or the machine stopped it before all trials ran, or Ray died."""
        return self.stop_reason in UNFINISHED

    @property
    def exit_code(self) -> int:
        """0 ok, 1 some trials failed, files vanished or Ray died; 130 after Ctrl-C, 143 after SIGTERM."""
        if self.terminated:
            return 143
        if self.interrupted and self.stop_reason != RAY_LOST:
            return 130
        return 1 if self.counts.get("failed") or self.lost or self.stop_reason in (VANISHED, RAY_LOST) else 0


def run(
    config: SweepConfig,
    *,
    data_dir: Path | None = None,
    address: str | None = None,
    console: Console | None = None,
    command: str | None = None,
    accept_changed_table: bool = False,
    grace_seconds: float = GRACE_SECONDS,
) -> Run:
    """Run a sweep, or what is left of it.

    Args:
        config: the sweep.
        data_dir: where relative table and task files are looked for.
        address: of a Ray cluster ("auto": the one of this machine); None starts one here for the length of the run.
        console: where progress is shown; None shows nothing.
        command: how a person would repeat this run, for the report.
        accept_changed_table: go on with a run whose table has changed since it began; all its trials then run again.
        grace_seconds: how long trials that run may go on after SIGTERM.

    Ctrl-C once starts no more trials, lets those that run end, and reports; twice stops at once, without a report. SIGTERM
    starts no more trials, ends those that run after their grace, keeps their checkpoints, and reports. Either way the same
    call goes on from there.

    Raises:
        InputError: something is wrong with the sweep, or another driver works on it; nothing was written.
        KeyboardInterrupt: Ctrl-C was given twice, or while no trials ran.
        TerminatedError: SIGTERM came before any trial ran.
    """
    if not is_remote(config.run_location):
        check_run_dir(config)
    say = console.print if console is not None else logging.getLogger(__name__).warning
    with contextlib.ExitStack() as ends:
        ends.callback(leave)
        interrupts = ends.enter_context(Interrupts(grace_seconds))
        ends.enter_context(owned(config, say=say))
        if is_remote(config.run_location):
            mirror.pull(config.run_location)
        check_run_dir(config)  # what is there now does not change any more
        return _run(config, data_dir, address, console, command, accept_changed_table, interrupts)


def _run(
    config: SweepConfig,
    data_dir: Path | None,
    address: str | None,
    console: Console | None,
    command: str | None,
    accept_changed_table: bool,
    interrupts: Interrupts,
) -> Run:
    """Run a sweep whose run is this driver's."""
    started = datetime.datetime.now(datetime.UTC)
    prepared = prepare(config, data_dir)
    run_dir = config.run_dir
    check_table(run_dir, prepared.table.digest, accept=accept_changed_table)
    _write_sweep(config)
    location = config.ledger_location or join(config.run_location, RAY, SHARED)
    ledger = Ledger(open_storage(location), remember_results=config.ledger_location is not None)
    tracker = None
    if config.tracking_uri is not None:
        methods = {spec.method for spec in prepared.plan.trials} | {row["quantizer"] for row in prepared.plan.skipped}
        tracker = Tracker(config.tracking_uri, config.name, prepared.objectives, methods)
        interrupts.on_termination(tracker.hurry)
    search = make_search(prepared, open_storage(config.run_location))
    total = len(prepared.plan.trials) if search is None else search.total
    snapshots = Snapshots(
        prepared,
        lambda: intake.results,
        lambda: prepared.plan if search is None else search.plan(),
        total,
        started=started,
        command=command,
    )
    order = one_of_each_first(prepared.plan.trials, prepared.plan.predicted_bytes)
    metric = next((name for name in prepared.objectives if name != "payload_bytes"), "reconstruction.nmse")
    with (
        Places(config.run_location, location, elsewhere=engine.elsewhere(address)) as places,
        Progress(
            console,
            run_dir,
            name=config.name,
            total=total,
            skipped=len(prepared.plan.skipped),
            objective=(metric, prepared.directions[metric]["direction"]),
            planned=jobs(order, prepared.plan.predicted_bytes) if search is None else None,
            data_dir=data_dir,
            sweep=config.model_dump(mode="json"),
            table_digest=prepared.table.digest,
            send=snapshots.send if is_remote(config.run_location) else None,
        ) as progress,
    ):
        mirror.push(config)
        stop = config.stop.hypervolume
        intake = Intake(
            config,
            (prepared.table.name, *prepared.table.shape),
            ledger=ledger,
            limits=prepared.constraints,
            judge=make_judge(prepared, search),
            rule=None if stop is None else Plateau(stop, prepared.objectives, prepared.directions),
            observers=[
                FolderWatch(run_dir, lambda why: intake.stop(why)),
                progress,
                snapshots,
                *([] if tracker is None else [tracker]),
            ],
        )
        if search is None:
            ledger.prefetch(spec.key for spec in order)
            intake.draw_from(Listed([spec for spec in order if not intake.adopt(spec)]))
        else:
            intake.draw_from(search)
        if intake.has_more():
            with snapshots:
                engine.run_trials(prepared, intake, ledger, places, progress, address, interrupts)
        if search is not None:
            search.close()
            prepared = dataclasses.replace(prepared, plan=search.plan())
            progress.state["total"] = len(prepared.plan.trials)
        interrupts.finish()
        progress.phase("reporting")
        reason = intake.stop_reason
        if not (run_dir / SWEEP_FILE).is_file():
            reason = VANISHED
            _write_sweep(config)
        unfinished = reason in UNFINISHED
        counts, lost = finish(
            prepared,
            intake.results,
            tracker,
            started=started,
            command=command,
            stop_reason=reason,
            planned=total if unfinished else len(prepared.plan.trials),
        )
        for key in lost:
            ledger.forget(key)  # so that a resumed run measures it again, and makes its file
        delete_working_files(config, keep_shared=unfinished)
        progress.phase("interrupted" if unfinished else "finished")
    mirror.push(config)
    problem = tracker.problem if tracker is not None else None
    return Run(run_dir, counts, intake.reused, reason, problem, lost, interrupts.terminated)


def _write_sweep(config: SweepConfig) -> None:
    """Make the run's folder where it is not there, and write the sweep into it."""
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{config.run_dir}: cannot be made: {error.strerror or error}.") from error
    write_bytes(config.run_dir / SWEEP_FILE, sealed_text(config.to_yaml()))
