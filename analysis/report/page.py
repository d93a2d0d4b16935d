"""The report of a run or several: one HTML file with everything in it, which needs no network."""

from __future__ import annotations

import collections
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis import text
from analysis.recommend import chosen_metrics
from analysis.report.panel import NOT_OK, Report, all_panels, configuration_key
from analysis.runs import Runs, load
from quantizers.files import write_bytes


def write_report(run_dirs: Sequence[str | Path], out: str | Path) -> Path:
    """Write the report.

    Args:
        run_dirs: directories of runs; several are merged into one report with one frontier.
        out: where the HTML file goes; it is written atomically.

    Returns:
        ``out``.

    Raises:
        InputError: a file of a run is missing or damaged, or the report cannot be written.
    """
    report = Report.of(load(run_dirs))
    runs = report.runs
    sections = [(panel, panel.html(report)) for panel in all_panels()]
    page = report.render(
        "report.html.j2",
        title=" + ".join(str(info.get("name", run_dir.name)) for info, run_dir in zip(runs.infos, runs.dirs, strict=True)),
        sections=[
            {"anchor": panel.name, "title": panel.title, "html": html} for panel, html in sections if html is not None
        ],
        tables=_tables(runs),
        counts=_counts(runs.trials),
        plotly=Markup(get_plotlyjs()),
        written=datetime.datetime.now(datetime.UTC),
        duration=_duration,
    )
    path = Path(out)
    write_bytes(path, page.encode("utf-8", "surrogateescape"))
    return path


def summary_rows(frontier: pa.Table, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The configurations that are on the frontier of any objective, by size; the uncompressed table is always there.

    Args:
        frontier: the content of ``frontier.parquet``.
        run: ``run.json``.

    Returns:
        Dicts with quantizer, config (short text), payload_bytes, ratio, num_seeds, and metrics: for every objective
        (``task.metric``, with the role where there are several) the mean value (or None) and whether it is on that frontier.
    """
    rows = frontier.to_pylist()
    wanted = chosen_metrics(run, list(dict.fromkeys(f"{row['task']}.{row['metric']}" for row in rows)))
    labels = text.short_configs((row["quantizer"], row["config_json"]) for row in rows)
    roles: dict[str, set[str | None]] = collections.defaultdict(set)
    for row in rows:
        roles[f"{row['task']}.{row['metric']}"].add(row["role"])
    names = [
        f"{name} [{role}]" if len(roles[name]) > 1 else name for name in wanted for role in sorted(roles[name], key=str)
    ]
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    chosen: set[tuple[Any, ...]] = set()
    for row in rows:
        name = f"{row['task']}.{row['metric']}"
        if name not in wanted:
            continue
        key = configuration_key(row)
        entry = found.setdefault(
            key,
            {
                "quantizer": row["quantizer"],
                "config": labels[(row["quantizer"], row["config_json"])],
                "payload_bytes": row["payload_bytes_mean"],
                "ratio": row["compression_ratio"],
                "num_seeds": row["num_seeds"],
                "metrics": dict.fromkeys(names, (None, False)),
            },
        )
        label = f"{name} [{row['role']}]" if len(roles[name]) > 1 else name
        entry["metrics"][label] = (row["value_mean"], row["on_frontier"])
        if row["on_frontier"] or row["quantizer"] == "identity":
            chosen.add(key)
    return sorted((found[key] for key in chosen), key=lambda entry: (entry["payload_bytes"], entry["quantizer"]))


def _tables(runs: Runs) -> list[dict[str, Any]]:
    """The tables that were compressed, each once: name, shape, bytes, digest."""
    out: dict[tuple[Any, ...], dict[str, Any]] = {}
    names = ["table", "table_digest", "task_scope", "num_embeddings", "embedding_dim", "dense_bytes"]
    rows = runs.trials.filter(pc.is_valid(runs.trials["num_embeddings"])).group_by(names).aggregate([]).to_pylist()
    for row in sorted(rows, key=lambda row: str(row["table"])):
        out[tuple(row[name] for name in names)] = row
    return list(out.values())


def _counts(trials: pa.Table) -> dict[str, int]:
    counted = collections.Counter({row["status"]: row["n"] for row in _counted(trials, ["status"])})
    return {status: counted[status] for status in ("ok", *NOT_OK) if counted[status]}


def _counted(trials: pa.Table, names: list[str]) -> list[dict[str, Any]]:
    rows = trials.group_by(names).aggregate([([], "count_all")]).to_pylist()
    return [{**row, "n": row["count_all"]} for row in rows]


def _duration(info: Mapping[str, Any]) -> str:
    """What the trials took together. From start to end would say seconds for a run that was resumed or reused."""
    return text.duration(info.get("trial_seconds"))
