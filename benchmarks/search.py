"""Hypervolume against trial-seconds: searches replayed on recorded grids (see ``benchmarks/record_grid.py``).

    python benchmarks/search.py [--seeds 10] [--grids benchmarks/grids/glove.parquet ...] [-o docs]

A simulator hands each search the recorded trials one at a time and charges the recorded seconds: all of a fit, or those up
to the report at which it was stopped; a stopped trial adds no point. The area is that below the frontier in the plane of
log10(payload bytes) and nmse, against the reference (bytes of the uncompressed table, nmse 1), fixed before any search was
written; a second one, for errors far below 1, takes log10(nmse), from 1 down to 1e-4. Nothing here knows the grid beforehand
but the simulator.

Needs syne-tune for one of the searches; without it that one is left out.
"""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import matplotlib
import numpy as np
import torch
import typer
from replay import HERE, LEVELS, TARGET, Grid, Replay, read, replay

import sweeps.driver  # noqa: F401  (sets Ray's environment before Ray is imported)
from quantizers import FitStep
from sweeps.search.base import Outcome
from sweeps.search.frontier import FrontierSearch
from sweeps.search.moasha import Rungs
from sweeps.search.optuna import OptunaSearch
from sweeps.spec.draws import drawn
from sweeps.spec.space import Planned

BUDGET = 0.25


# Searches: each yields what to run, is told what came of it, and judges reports ----------------------------------


class InOrder:
    """A fixed order."""

    def __init__(self, order: Any) -> None:
        self._order: Iterator[Planned] = iter(list(order))

    def ask(self) -> Planned | None:
        """What to run next."""
        return next(self._order, None)

    def tell(self, planned: Planned, outcome: Outcome) -> None:
        """Nothing is learned from it."""

    def judge(self, planned: Planned, step: FitStep, seconds: float) -> Any:
        """Whether the trial is stopped now."""
        return None


def shuffled(grid: Grid, seed: int) -> list[Planned]:
    planned = list(grid.planned.values())
    return [planned[number] for number in np.random.default_rng(seed).permutation(len(planned))]


class TuneAsha(InOrder):
    """Ray Tune's ASHA on the error alone, over the grid in random order."""

    def __init__(self, grid: Grid, seed: int) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler

        super().__init__(shuffled(grid, seed))
        self._asha = AsyncHyperBandScheduler("share", "error", "min", max_t=81, grace_period=9, reduction_factor=3)
        self._known: dict[Planned, Any] = {}

    def judge(self, planned: Planned, step: FitStep, seconds: float) -> Any:
        """Whether the trial is stopped now."""
        if step.value is None:
            return None
        if planned not in self._known:
            self._known[planned] = SimpleNamespace(trial_id=str(len(self._known)))
            self._asha.on_trial_add(None, self._known[planned])
        result = {"share": 81 * step.fraction, "error": step.value}
        return self._asha.on_trial_result(None, self._known[planned], result) == "STOP"


class SyneMoasha:
    """Syne Tune's MOASHA on payload and error; what it suggests again is passed over at no cost."""

    def __init__(self, grid: Grid, seed: int) -> None:
        from syne_tune.config_space import choice
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        self._planned = list(grid.planned.values())
        np.random.seed(seed)  # noqa: NPY002  (its spaces draw from there)
        space = {"number": choice(list(range(len(self._planned))))}
        self._moasha = MOASHA(
            space,
            metrics=["size", "error"],
            time_attr="share",
            max_t=81,
            grace_period=9,
            reduction_factor=3,
            random_seed=seed,
        )
        self._known: dict[Planned, Any] = {}

    def ask(self) -> Planned | None:
        """What to run next."""
        while len(self._known) < len(self._planned):
            planned = self._planned[self._moasha.suggest().config["number"]]
            if planned not in self._known:
                self._known[planned] = SimpleNamespace(trial_id=len(self._known))
                self._moasha.on_trial_add(self._known[planned])
                return planned
        return None

    def tell(self, planned: Planned, outcome: Outcome) -> None:
        """Nothing is learned from it."""

    def judge(self, planned: Planned, step: FitStep, seconds: float) -> Any:
        """Whether the trial is stopped now."""
        if step.value is None:
            return None
        result = {"share": 81 * step.fraction, "size": planned.predicted_bytes, "error": step.value}
        return self._moasha.on_trial_result(self._known[planned], result) == "STOP"


class OurMoasha(InOrder):
    """``scheduler: {kind: moasha}`` over the grid in random order."""

    def __init__(self, grid: Grid, seed: int) -> None:
        super().__init__(shuffled(grid, seed))
        self._known: dict[str, Planned] = {}
        self._rungs = Rungs(lambda key: self._known[key].predicted_bytes)

    def judge(self, planned: Planned, step: FitStep, seconds: float) -> Any:
        """Whether the trial is stopped now."""
        key = f"{planned.method} {planned.config!r}"
        self._known[key] = planned
        return self._rungs.step(key, step, seconds)


def ours(grid: Grid, seed: int) -> FrontierSearch:
    return FrontierSearch(grid.space.configurations(), ["min"], grid.dense_bytes, seed, curves=True)


SEARCHES: dict[str, Callable[[Grid, int], Any]] = {
    "grid, in the order of the file": lambda grid, seed: InOrder(grid.planned.values()),
    "grid, shuffled": lambda grid, seed: InOrder(shuffled(grid, seed)),
    "random (search: random)": lambda grid, seed: InOrder(drawn(grid.space, len(grid.rows), seed)[0]),
    "Optuna TPE (search: optuna)": lambda grid, seed: OptunaSearch(grid.space, ["min", "min"], "tpe", seed),
    "Optuna NSGA-II (search: optuna)": lambda grid, seed: OptunaSearch(grid.space, ["min", "min"], "nsga2", seed),
    "Tune's ASHA on the error": TuneAsha,
    "Syne Tune's MOASHA": SyneMoasha,
    "our MOASHA (scheduler: moasha)": OurMoasha,
    "ours (search: frontier)": ours,
}
OURS = "ours (search: frontier)"


@functools.cache
def grid_of(path: Path, learned_only: bool) -> Grid:
    return read(path, learned_only=learned_only)


def one(path: Path, learned_only: bool, name: str, seed: int) -> tuple[Replay, float]:
    """A replay, and what it took of the processor."""
    torch.set_num_threads(1)
    grid, begin = grid_of(path, learned_only), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return replay(grid, SEARCHES[name](grid, seed)), time.process_time() - begin


def run(path: Path, learned_only: bool, seeds: int, pool: ProcessPoolExecutor) -> dict[str, list[Replay]]:
    grid, found = grid_of(path, learned_only), {}
    for name in SEARCHES:
        try:
            replays, took = zip(*pool.map(functools.partial(one, path, learned_only, name), range(seeds)), strict=True)
        except ImportError as error:
            print(f"  {name}: left out ({error})")
            continue
        found[name] = list(replays)
        at = np.median([replay.reached(TARGET) for replay in replays]) / grid.seconds
        print(f"  {name}: {TARGET:.0%} after {at:.1%} of the seconds ({np.mean(took):.1f} s a replay)", flush=True)
    return found


# What is written -------------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    return f"{share:.1%}" if np.isfinite(share) else "never"


def table(grid: Grid, found: dict[str, list[Replay]]) -> list[str]:
    """Medians over seeds, as shares of the grid's seconds; the best first."""
    lines = [
        "| search | " + " | ".join(f"{level:.0%}" for level in LEVELS) + " | 98 %, worst seed | 98 % (log error) | stopped |"
    ]
    lines.append("|---" * (len(LEVELS) + 4) + "|")

    def middle(replays: list[Replay], level: float, plane: int = 0) -> float:
        return float(np.median([one.reached(level, plane) for one in replays])) / grid.seconds

    for name, replays in sorted(found.items(), key=lambda item: middle(item[1], TARGET)):
        cells = [percent(middle(replays, level)) for level in LEVELS]
        cells.append(percent(max(one.reached(TARGET) for one in replays) / grid.seconds))
        cells += [percent(middle(replays, TARGET, 1)), f"{np.mean([one.stopped for one in replays]):.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def draw(results: list[tuple[Grid, dict[str, list[Replay]]]], path: Path) -> None:
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(6.5 * len(results), 5), sharey=True, squeeze=False)
    at = np.geomspace(0.002, 1, 300)
    for axis, (grid, found) in zip(axes[0], results, strict=True):
        for name, replays in found.items():
            curves = []
            for one in replays:
                places = np.searchsorted(np.array(one.seconds) / grid.seconds, at, side="right")
                curves.append(np.array([0.0, *(share for share, _ in one.shares)])[places])
            line = {"linewidth": 2.5, "color": "black", "zorder": 3} if name == OURS else {"linewidth": 1.3}
            axis.plot(at, np.median(curves, axis=0), label=name, **line)
        axis.axhline(TARGET, color="grey", linewidth=0.6, linestyle=":")
        axis.axvline(BUDGET, color="grey", linewidth=0.6, linestyle=":")
        axis.set(xscale="log", title=grid.name, xlabel="share of the grid's trial-seconds", ylim=(0.4, 1.01))
        axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes[0, 0].set_ylabel("share of the grid's hypervolume (median over seeds)")
    axes[0, -1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(
    grids: Annotated[list[Path] | None, typer.Option(help="Recorded grids.")] = None,
    seeds: Annotated[int, typer.Option(help="Replays of each search.")] = 10,
    output: Annotated[Path | None, typer.Option("-o", help="Folder for results/search.md and search.png.")] = None,
) -> None:
    """Replay every search on every grid."""
    page = None if output is None else output / "results" / "search.md"
    if page is not None and not page.is_file():
        raise typer.BadParameter(f"{page} is not there: the page's own text stands above its tables.", param_hint="-o")
    results = []
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("forkserver")) as pool:
        for path in grids or [HERE / "grids" / "glove.parquet", HERE / "grids" / "synthetic.parquet"]:
            for learned_only in (False, True):
                grid = grid_of(path, learned_only)
                learned = sum(row["iterative"] for row in grid.rows)
                print(f"{grid.name}: {len(grid.rows)} configurations, {learned} iterative, {grid.seconds:.0f} s")
                results.append((grid, run(path, learned_only, seeds, pool)))
    text = []
    for grid, found in results:
        learned = sum(row["iterative"] for row in grid.rows)
        text += [
            f"## {grid.name}",
            "",
            f"{len(grid.rows)} configurations, {learned} of them iterative, {grid.seconds:.0f} trial-seconds.",
        ]
        text += ["", *table(grid, found), ""]
    print("\n".join(text))
    if page is not None:
        head = page.read_text(encoding="utf-8").split("<!-- tables -->")[0]
        page.write_text(f"{head}<!-- tables -->\n\n" + "\n".join(text), encoding="utf-8")
        draw([one for one in results if "learned" not in one[0].name], page.parents[1] / "search.png")


if __name__ == "__main__":
    typer.run(main)
