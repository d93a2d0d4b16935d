"""One run directory, or several merged: what plots and reports are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from analysis import store
from analysis.layout import FRONTIER_FILE, TRIALS_FILE
from analysis.pareto import build_frontier, read_frontier
from analysis.recommend import chosen_metrics
from quantizers.errors import InputError


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
    """

    dirs: tuple[Path, ...]
    infos: tuple[dict[str, Any], ...]
    sweeps: tuple[str, ...]
    trials: pa.Table
    scores: pa.Table
    frontier: pa.Table

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


def load(run_dirs: Sequence[str | Path]) -> Runs:
    """Read run directories.

    With one, the frontier is the stored one; with several, it is taken over all of them.

    Raises:
        InputError: none was given, or a file is missing or damaged.
    """
    dirs = tuple(Path(run_dir) for run_dir in run_dirs)
    if not dirs:
        raise InputError("No run was given. Give the folder of a run, such as runs/quick.")
    infos = tuple(store.read_run(run_dir) for run_dir in dirs)
    trials = [store.read_trials(run_dir) for run_dir in dirs]
    scores = [store.read_scores(run_dir) for run_dir in dirs]
    if len(dirs) == 1:
        frontier = read_frontier(dirs[0])
        _check_fit(dirs[0], trials[0], frontier)
        return Runs(dirs, infos, (store.read_sweep(dirs[0]),), trials[0], scores[0], frontier)
    merged = pa.concat_tables([_prefixed(table, number) for number, table in enumerate(trials, 1)])
    all_scores = pa.concat_tables([_prefixed(table, number) for number, table in enumerate(scores, 1)])
    run = {"metrics": {name: about for info in infos for name, about in info.get("metrics", {}).items()}}
    frontier = build_frontier(merged, all_scores, run)
    return Runs(dirs, infos, tuple(map(store.read_sweep, dirs)), merged, all_scores, frontier)


def _check_fit(run_dir: Path, trials: pa.Table, frontier: pa.Table) -> None:
    """Refuse files of two runs: each is whole, but one has configurations that the other lacks."""
    names = ["quantizer", "config_json"]
    known = {tuple(row.values()) for row in trials.group_by(names).aggregate([]).select(names).to_pylist()}
    if any(tuple(row.values()) not in known for row in frontier.group_by(names).aggregate([]).select(names).to_pylist()):
        raise InputError(
            f"{run_dir}: {FRONTIER_FILE} has configurations that {TRIALS_FILE} lacks; write both anew with: "
            f"frontier resume {run_dir}"
        )


def _prefixed(table: pa.Table, number: int) -> pa.Table:
    keys = pc.binary_join_element_wise(str(number), table["trial_key"], ":")
    table = table.replace_schema_metadata(None)
    return table.set_column(table.schema.get_field_index("trial_key"), table.schema.field("trial_key"), keys)
