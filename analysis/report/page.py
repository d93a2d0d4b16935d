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
from analysis.report.panel import NOT_OK, Report, all_panels
from analysis.runs import Runs, load
from quantizers.files import write_bytes


def write_report(run_dirs: Sequence[str | Path], out: str | Path, how: Mapping[Path, str | None] | None = None) -> Path:
    """Write the report.

    Args:
        run_dirs: directories of runs; several are merged into one report with one frontier.
        out: where the HTML file goes; it is written atomically.
        how: how runs go that have not ended ("running", "stopped", "killed"), for the page to say.

    Returns:
        ``out``.

    Raises:
        InputError: a file of a run is missing or damaged, or the report cannot be written.
    """
    report = Report.of(load(run_dirs, how))
    runs = report.runs
    names = [str(info.get("name", run_dir.name)) for info, run_dir in zip(runs.infos, runs.dirs, strict=True)]
    sections = [(panel, panel.html(report)) for panel in all_panels()]
    page = report.render(
        "report.html.j2",
        title=" + ".join(names),
        incomplete=[(name, one) for name, one in zip(names, runs.incomplete, strict=True) if one is not None],
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
