"""What ``frontier`` prints about a sweep: the plan, and the frontier at the end."""

from __future__ import annotations

import collections
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis import store
from analysis.answer import answers, lines
from analysis.recommend import recommend
from analysis.text import counted
from sweeps.driver import Run
from sweeps.record.display import duration
from sweeps.record.estimate import estimate
from sweeps.record.ledger import Ledger
from sweeps.record.run_folder import check_run_dir, check_table
from sweeps.record.snapshot import cores
from sweeps.spec.config import SweepConfig, default_tracking_uri
from sweeps.spec.prepare import Prepared, prepare
from sweeps.storage import open_storage
from sweeps.storage.layout import REPORT_FILE
from trainables.records import TrialSpec

_SEEDS_SHOWN = 9  # characters


def show_plan(config: SweepConfig, data_dir: Path | None, console: Console, *, accept_changed_table: bool = False) -> None:
    """Print the trials of a sweep with their predicted sizes, and what would be skipped."""
    check_run_dir(config)
    prepared = prepare(config, data_dir)
    check_table(config.run_dir, prepared.table.digest, accept=accept_changed_table)
    dense = prepared.plan.space.dense_bytes
    title = f"{config.name}: {_count(prepared)}; sizes in bytes"
    table = Table(title=title, box=None, header_style="dim", title_justify="left")
    for column in ("quantizer", "budget", "predicted", "ratio", "seeds", "parameters"):
        left = column in ("quantizer", "parameters")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    alike: dict[tuple[Any, ...], list[TrialSpec]] = {}
    for spec in prepared.plan.trials:
        alike.setdefault((spec.method, spec.budget_bytes, json.dumps(spec.config, sort_keys=True)), []).append(spec)
    for spec, *others in alike.values():
        size = prepared.plan.predicted_bytes[spec.key]
        budget = "" if spec.budget_bytes is None else f"{spec.budget_bytes:,}"
        shown = ", ".join(f"{name}={value}" for name, value in spec.config.items() if value is not None)
        table.add_row(spec.method, budget, f"{size:,}", f"x{dense / size:.1f}", _seeds([spec, *others]), escape(shown))
    console.print(table)
    for row in prepared.plan.skipped:
        where = "" if row["budget_bytes"] is None else f" at {row['budget_bytes']:,} bytes"
        console.print(f"{row['status']}: {row['quantizer']}{where}: {escape(str(row['reason']))}")
    _show_estimate(config, prepared, console)


def _seeds(specs: Sequence[TrialSpec]) -> str:
    """The seeds of trials of one configuration: ``0, 1, 2``, or how many."""
    listed = ", ".join(str(spec.seed) for spec in specs)
    return listed if len(listed) <= _SEEDS_SHOWN else counted(len(specs), "seed")


def _count(prepared: Prepared) -> str:
    plan, seeds = prepared.plan, len(prepared.config.seeds)
    if plan.samples is None:
        return counted(len(plan.trials), "trial")
    chosen = f"{counted(plan.samples * seeds, 'trial')} and the baseline, chosen by search: {prepared.config.search.kind}"
    ranged = [entry.label for entry in plan.space.entries if entry.ranged]
    return f"{chosen}, from these{' and the ranges of ' if ranged else ''}{', '.join(ranged)}"


def _show_estimate(config: SweepConfig, prepared: Prepared, console: Console) -> None:
    ledger = None if config.ledger_location is None else Ledger(open_storage(config.ledger_location))
    left = estimate(ledger, prepared.plan.trials, prepared.table.shape)
    at_once = max(1, int(cores() / config.trial_resources.cpu))
    verb = "is" if left.known == 1 else "are"
    told = f"{left.known:,} of {counted(len(prepared.plan.trials), 'trial')} {verb} in the ledger. "
    if left.seconds:
        told += f"The others: about {duration(left.seconds / at_once)} with {at_once} at a time, by what trials took before"
        told += f", and {', '.join(left.unknown)}, which never ran." if left.unknown else "."
    elif left.unknown:
        told += f"How long the others take is not known: {', '.join(left.unknown)} never ran."
    console.print(told, soft_wrap=True)


def show_run(run: Run, config: SweepConfig, console: Console) -> None:
    """Print what failed, where everything is, and which point to take."""
    trials = store.read_trials(run.run_dir).select(["status", "quantizer", "budget_bytes", "reason"]).to_pylist()
    for row in trials:
        if row["status"] == "failed":
            console.print(f"[red]failed[/]: {row['quantizer']}: {escape(str(row['reason']))}", soft_wrap=True)
    nothing = not any(row["status"] == "ok" and row["quantizer"] != "identity" for row in trials)
    if not nothing:
        skipped = collections.Counter((r["quantizer"], r["reason"]) for r in trials if r["status"] == "skipped")
        for (quantizer, reason), count in skipped.items():
            where = f" ({counted(count, 'budget')})" if count > 1 else ""
            console.print(f"[dim]skipped: {quantizer}{where}: {escape(str(reason))}[/]")
    summary = ", ".join(f"{count} {status}" for status, count in sorted(run.counts.items()))
    reused = f" ({run.reused} reused)" if run.reused else ""
    console.print(f"Trials: {summary}{reused}")
    console.print(f"Report: {run.run_dir / REPORT_FILE}", soft_wrap=True)
    if run.tracking_problem is not None:
        console.print(f"[yellow]MLflow: {escape(run.tracking_problem)}[/]", soft_wrap=True)
        console.print(f"Send the records later with: frontier sync {run.run_dir}", soft_wrap=True)
    elif config.tracking_uri is not None:
        same = config.tracking_uri == default_tracking_uri()
        command = "frontier ui" if same else f"frontier ui {shlex.quote(str(run.run_dir))}"
        console.print(f"MLflow UI: {command}", soft_wrap=True)
    if run.lost:
        measured = counted(run.counts.get("ok", 0) + run.counts.get("infeasible", 0), "measured trial")
        console.print(
            f"[red]vanished[/]: the compressed files of {len(run.lost)} of {measured}, while the sweep was "
            f"running. Their records are kept. Measure them again with: frontier resume {run.run_dir}",
            soft_wrap=True,
        )
    if run.stop_reason is not None and not run.interrupted:
        console.print(f"Ended before all trials ran: {escape(run.stop_reason)}", soft_wrap=True)
    if run.interrupted:
        console.print(f"Continue with: frontier resume {run.run_dir}", soft_wrap=True)
    if nothing and not run.interrupted:
        for line in why_nothing(trials):
            console.print(escape(line), soft_wrap=True)
    elif store.read_frontier(run.run_dir).num_rows:
        advice = recommend(run.run_dir)
        for line in lines(answers(advice, ""), advice.unmet, run.run_dir):
            console.print(escape(line), soft_wrap=True)


_NUMBER = re.compile(r"\d[\d.,]*(e[+-]?\d+)?")
_WHAT_TO_CHANGE = {
    "infeasible": "Loosen 'constraints' in the sweep file, or give budgets and configurations that keep to them.",
    "skipped": "Give larger 'budgets' in the sweep file, other parameters, or methods that fit in them (frontier methods).",
    "failed": "Failed trials run again with frontier resume, once what is said above is mended.",
    "stopped": "Give 'stop' or 'scheduler' in the sweep file more room.",
}


def why_nothing(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why no compressed table came out of a sweep, in lines: its trials by reason, and what to change.

    Args:
        trials: rows with ``status``, ``quantizer`` and ``reason``.
    """
    rows = [row for row in trials if row["quantizer"] != "identity"]
    if not rows:
        return ["Nothing to choose from: the sweep has the uncompressed table alone. Give 'quantizers' in the sweep file."]
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        alike.setdefault((row["status"], _NUMBER.sub("#", str(row["reason"]))), []).append(row)
    lines = ["Nothing to choose from: the sweep gave no compressed table that may be used. By reason:"]
    for (status, _), some in sorted(alike.items(), key=lambda item: -len(item[1])):
        methods = ", ".join(dict.fromkeys(row["quantizer"] for row in some))
        example = "such as " if len({row["reason"] for row in some}) > 1 else ""
        lines.append(f"  {len(some):,} {status} ({methods}): {example}{some[0]['reason']}")
    lines += [advice for status, advice in _WHAT_TO_CHANGE.items() if any(kind[0] == status for kind in alike)]
    return lines
