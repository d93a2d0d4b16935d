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
from sweeps.search.base import Outcome
from sweeps.spec.config import load
from sweeps.spec.plan import make_plan
from sweeps.spec.space import Space
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
    space: Space
    dense_bytes: int

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
    space = make_plan(config, stats, table_digest="", weights_digest="", task_keys=[]).space
    name = f"{about['name']}, {about['num_embeddings']} rows" + (", learned methods only" if learned_only else "")
    return Grid(name, rows, space, stats.dense_bytes)


@dataclasses.dataclass
class Replay:
    """Seconds after each trial, and the share of the whole grid's areas by then; how many were stopped."""

    seconds: list[float]
    shares: list[tuple[float, float]]
    stopped: int

    def reached(self, level: float, plane: int = 0) -> float:
        """Seconds until a share of the area was there; infinite where it never was."""
        return next((at for at, share in zip(self.seconds, self.shares, strict=True) if share[plane] >= level), np.inf)


def replay(grid: Grid, search: Any) -> Replay:
    """Run ``search`` until it has the highest level of both areas, or all."""
    out, now, ended = Replay([], [], 0), 0.0, []
    while (planned := search.ask()) is not None:
        number = grid.number[planned.method, planned.config]
        row, stopped_at = grid.rows[number], None
        if row["iterative"]:
            curve = zip(*(row[f"curve_{name}"] for name in ("phase", "fraction", "value", "seconds")), strict=True)
            for phase, fraction, value, seconds in curve:
                if fraction < 1 and search.judge(planned, FitStep(phase, fraction, value), seconds):
                    stopped_at = seconds
                    break
        now += row["seconds"] if stopped_at is None else stopped_at
        if stopped_at is None:
            ended.append(number)
            outcome = Outcome((row["nmse"],), row["payload_bytes"], row["seconds"])
        else:
            outcome = Outcome((np.nan,), planned.predicted_bytes, stopped_at, stopped=True)
            out.stopped += 1
        search.tell(planned, outcome)
        out.seconds.append(now)
        first, second = (grid.area(ended, plane) / grid.whole[plane] for plane in range(2))
        out.shares.append((first, second))
        if first >= LEVELS[-1] and second >= TARGET:
            break
    return out
