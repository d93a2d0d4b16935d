"""One run directory, or several merged: what plots and reports are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from analysis import store
from analysis.layout import FRONTIER_FILE, TRIALS_FILE
from analysis.pareto import build_frontier, read_frontier
from analysis.recommend import chosen_metrics
from analysis.schema import UNFINISHED
from analysis.text import counted
from quantizers.errors import InputError


@dataclasses.dataclass(frozen=True)
class Incomplete:
    """A run whose files do not hold all of its trials.

    Attributes:
        how: "running", "stopped" (by a person or by SIGTERM), "killed", or "not ended" where nobody knows more.
        ended: trials that the files hold.
        planned: trials of the sweep; None where that is not known.
    """

    how: str
    ended: int
    planned: int | None

    @property
    def said(self) -> str:
        """The same in words: ``the sweep is running, 12 of 24 trials are here``."""
        known = self.planned is not None
        done = f"{self.ended:,} of {counted(self.planned or 0, 'trial')}" if known else counted(self.ended, "trial")
        verb = {"running": "is running", "not ended": "has not ended"}.get(self.how, f"was {self.how}")
        return f"the sweep {verb}, {done} {'is' if self.ended == 1 else 'are'} here"

    def __str__(self) -> str:
        return f"Incomplete: {self.said}{'.' if self.how == 'running' else '; frontier resume continues it.'}"


def incomplete(run_dir: Path, how: str | None = None) -> Incomplete | None:
    """What is missing of a run; None where nothing is.

    Args:
        run_dir: its folder.
        how: "running", "stopped" or "killed", by whoever knows; the run's files cannot tell the first from the last.

    Raises:
        InputError: a file is missing or damaged.
    """
    return _incomplete(store.read_run(run_dir), store.read_trials(run_dir), how)


def _incomplete(info: Mapping[str, Any], trials: pa.Table, how: str | None) -> Incomplete | None:
    if how is None and not info.get("interrupted") and not store.is_snapshot(info):
        return None
    rows = trials.select(["status", "reason", "seed"]).to_pylist()
    rows = [row for row in rows if row["seed"] is not None]  # what is never run has none
    left = sum(row["status"] == "stopped" and row["reason"] in UNFINISHED for row in rows)
    planned = info.get("planned")
    if planned is None and not store.is_snapshot(info):
        planned = len(rows)
    return Incomplete(how or ("stopped" if info.get("interrupted") else "not ended"), len(rows) - left, planned)


@dataclasses.dataclass(frozen=True)
class Runs:
    """The files of one run or more.

    Attributes:
        dirs: the run directories.
        infos: ``run.json`` of each.
        sweeps: the text of ``sweep.yaml`` of each (empty where there is none).
        trials: rows of all; with several runs, trial keys are prefixed with the run's number so that they stay apart.
        scores: rows of all.
        frontier: of all together.
        incomplete: what is missing of each; None where nothing is.
    """

    dirs: tuple[Path, ...]
    infos: tuple[dict[str, Any], ...]
    sweeps: tuple[str, ...]
    trials: pa.Table
    scores: pa.Table
    frontier: pa.Table
    incomplete: tuple[Incomplete | None, ...] = ()

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Direction, unit and description of every metric of any run."""
        return {name: about for info in self.infos for name, about in info.get("metrics", {}).items()}

    @property
    def objectives(self) -> list[str]:
        """The metrics (``task.metric``) to show: the objectives of any run that were measured."""
        pairs = self.frontier.group_by(["task", "metric"]).aggregate([]).to_pylist()
        measured = [f"{pair['task']}.{pair['metric']}" for pair in pairs]
        return list(dict.fromkeys(name for info in self.infos for name in chosen_metrics(info, measured)))


def load(run_dirs: Sequence[str | Path], how: Mapping[Path, str | None] | None = None) -> Runs:
    """Read run directories.

    With one, the frontier is the stored one; with several, it is taken over all of them.

    Args:
        run_dirs: of one run or more; they may be under way.
        how: how runs go that have not ended, for :func:`incomplete`.

    Raises:
        InputError: none was given, or a file is missing or damaged.
    """
    dirs = tuple(Path(run_dir) for run_dir in run_dirs)
    if not dirs:
        raise InputError("No run was given. Give the folder of a run, such as runs/quick.")
    # A sweep under way writes these the other way round: what is read first is of no later moment than what follows.
    stored = read_frontier(dirs[0]) if len(dirs) == 1 else None
    trials = [store.read_trials(run_dir) for run_dir in dirs]
    scores = [store.read_scores(run_dir) for run_dir in dirs]
    infos = tuple(store.read_run(run_dir) for run_dir in dirs)
    sweeps = tuple(map(store.read_sweep, dirs))
    courses = [(how or {}).get(run_dir) for run_dir in dirs]
    missing = tuple(_incomplete(*about) for about in zip(infos, trials, courses, strict=True))
    if stored is not None:
        _check_fit(dirs[0], trials[0], stored)
        return Runs(dirs, infos, sweeps, trials[0], scores[0], stored, missing)
    merged = pa.concat_tables([_prefixed(table, number) for number, table in enumerate(trials, 1)])
    all_scores = pa.concat_tables([_prefixed(table, number) for number, table in enumerate(scores, 1)])
    run = {"metrics": {name: about for info in infos for name, about in info.get("metrics", {}).items()}}
    return Runs(dirs, infos, sweeps, merged, all_scores, build_frontier(merged, all_scores, run), missing)


def _check_fit(run_dir: Path, trials: pa.Table, frontier: pa.Table) -> None:
    """Refuse files of two runs: each is whole, but one has configurations that the other lacks."""
    names = ["quantizer", "config_json"]
    known = {tuple(row.values()) for row in trials.group_by(names).aggregate([]).select(names).to_pylist()}
    if any(tuple(row.values()) not in known for row in frontier.group_by(names).aggregate([]).select(names).to_pylist()):
        raise InputError(
            f"{run_dir}: {FRONTIER_FILE} has configurations that {TRIALS_FILE} lacks; rewrite both with: "
            f"frontier resume {run_dir}"
        )


def _prefixed(table: pa.Table, number: int) -> pa.Table:
    keys = pc.binary_join_element_wise(str(number), table["trial_key"], ":")
    table = table.replace_schema_metadata(None)
    return table.set_column(table.schema.get_field_index("trial_key"), table.schema.field("trial_key"), keys)
