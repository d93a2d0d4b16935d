"""The simulator of ``benchmarks/search.py``: recorded grids, and a clock that charges recorded seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pyarrow.parquet as pq

import quantizers
from quantizers import FitStep, TableStats
from sweeps.record.intake import Intake
from sweeps.search.adaptive import AdaptiveSearch
from sweeps.spec.config import SweepConfig, load
from sweeps.spec.plan import Plan, make_plan
from sweeps.spec.space import Planned, Space
from trainables.records import TrialResult, blank_row
from trainables.tables.formats import read_table

HERE = Path(__file__).parent
LEVELS = (0.9, 0.95, 0.98, 0.99)
TARGET = 0.98
LEAST_ERROR = 1e-4


@dataclasses.dataclass
class Grid:
    """Recorded trials and the space that they are all of."""

    name: str
    rows: list[dict[str, Any]]
    config: SweepConfig
    plan: Plan
    dense_bytes: int

    @property
    def space(self) -> Space:
        """What the rows are all of."""
        return self.plan.space

    def __post_init__(self) -> None:
        self.planned = {(one.method, one.config): one for one in self.space.configurations()}
        self.number = {}
        for number, row in enumerate(self.rows):
            config = quantizers.make_config(row["quantizer"], json.loads(row["config_json"]))
            self.number[row["quantizer"], config] = number
        assert self.number.keys() == self.planned.keys(), "the recorded grid is not that of the sweep file"
        size = np.log10([row["payload_bytes"] for row in self.rows])
        error = np.array([row["nmse"] for row in self.rows])
        self.planes = [
            (np.stack([size, error], axis=1), np.array([np.log10(self.dense_bytes), 1.0])),
            (
                np.stack([size, np.log10(np.maximum(error, LEAST_ERROR))], axis=1),
                np.array([np.log10(self.dense_bytes), 0.0]),
            ),
        ]
        self.seconds = sum(row["seconds"] for row in self.rows)
        self.whole = [self.area(range(len(self.rows)), plane) for plane in range(2)]

    def area(self, numbers: Any, plane: int) -> float:
        """Below the frontier of these trials."""
        points, reference = self.planes[plane]
        numbers = list(numbers)
        return float(moocore.hypervolume(points[numbers], ref=reference)) if numbers else 0.0


def read(path: Path, *, learned_only: bool = False) -> Grid:
    """A recorded grid; its space is made anew from the preset that was recorded, as a sweep would."""
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"recorded"])["table"]
    rows = [row for row in table.to_pylist() if row["quantizer"] != "identity"]
    config = load("search")
    if learned_only:
        rows = [row for row in rows if row["iterative"]]
        methods = {row["quantizer"] for row in rows}
        config = config.model_copy(
            update={
                "quantizers": tuple(one for one in config.quantizers if isinstance(one, dict) and one["method"] in methods)
            }
        )
    stats = TableStats.of(read_table(f"builtin:{about['name']}", rows=about["num_embeddings"]))
    plan = make_plan(config, stats, table_digest="", weights_digest="", task_keys=[])
    plan = dataclasses.replace(plan, trials=(), samples=len(rows))  # no baseline: it is not searched for
    name = f"{about['name']}, {about['num_embeddings']} rows" + (", learned methods only" if learned_only else "")
    return Grid(name, rows, config, plan, stats.dense_bytes)


@dataclasses.dataclass
class Replay:
    """Seconds after each trial, and the share of the whole grid's areas by then; how many were stopped."""

    seconds: list[float]
    shares: list[tuple[float, float]]
    stopped: int

    def reached(self, level: float, plane: int = 0) -> float:
        """Seconds until a share of the area was there; infinite where it never was."""
        return next((at for at, share in zip(self.seconds, self.shares, strict=True) if share[plane] >= level), np.inf)


class _Everything:
    """What a sweep asks of a strategy beyond choosing; peers do without."""

    def __init__(self, search: Any) -> None:
        self.refused: list[Any] = []
        self.ask, self.tell, self.judge = search.ask, search.tell, search.judge

    def take(self, planned: Planned) -> None:
        """Nothing was chosen before."""


def replay(grid: Grid, search: Any) -> Replay:
    """Run ``search`` until it has the highest level of both areas, or all; driven as Ray Tune drives a sweep."""
    source = AdaptiveSearch(grid.plan, (0,), ("reconstruction.nmse",), _Everything(search), dense_bytes=grid.dense_bytes)
    intake = Intake(grid.config, ("recorded", 0, 0), judge=source.judge)
    intake.draw_from(source)
    out, now, ended = Replay([], [], 0), 0.0, []
    while (spec := intake.next_trial()) is not None:
        number = grid.number[spec.method, quantizers.make_config(spec.method, spec.config)]
        row, stopped_at = grid.rows[number], None
        if row["iterative"]:
            curve = zip(*(row[f"curve_{name}"] for name in ("phase", "fraction", "value", "seconds")), strict=True)
            for phase, fraction, value, seconds in curve:
                if fraction < 1 and intake.report(spec, FitStep(phase, fraction, value), seconds):
                    stopped_at = seconds
                    break
        now += row["seconds"] if stopped_at is None else stopped_at
        if stopped_at is None:
            ended.append(number)
            result = TrialResult(blank_row(spec, ("recorded", 0, 0), status="ok"), seconds=row["seconds"])
            result.row["payload_bytes"] = row["payload_bytes"]
            result.scores.append({"task": "reconstruction", "metric": "nmse", "value": row["nmse"]})
            intake.take(spec, result)
        else:
            out.stopped += 1
        out.seconds.append(now)
        first, second = (grid.area(ended, plane) / grid.whole[plane] for plane in range(2))
        out.shares.append((first, second))
        if first >= LEVELS[-1] and second >= TARGET:
            break
    return out
