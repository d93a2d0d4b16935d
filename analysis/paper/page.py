"""The AdaComp paper's tables and figures from our own runs, its numbers beside ours, as HTML or Markdown.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), sections 4 and 5. What was not run is said to be
not run; nothing is left out for being worse than the paper's.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import functools
import json
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from analysis import store, text
from analysis.paper.figures import Drawn, figures, in_figures
from analysis.paper.labels import OURS, PAPER, extras, label, titles
from analysis.paper.numbers import COLUMNS, DIM, ROWS, Column
from analysis.paper.trials import Interval, Measured, Trial, labelled, measured, read_trials, unfinished
from quantizers.errors import InputError
from quantizers.files import write_bytes

NOT_RUN = "not run"
_SUFFIXES = (".html", ".htm", ".md")


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of the report: a heading, what is to say, a table, and a picture's file name."""

    title: str
    notes: Sequence[str]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    image: str = ""


def write_paper(run_dirs: Sequence[str | Path], out: str | Path) -> list[Path]:
    """Write the report, and ``figure2.png``, ``figure3a.png``, ``figure3b.png`` and ``figure4.png`` beside it.

    Args:
        run_dirs: directories of runs; what they have of the paper's protocol is taken from all of them.
        out: where the report goes: ``.html`` has everything in it, ``.md`` is Markdown.

    Returns:
        The files that were written, the report first. Each is written atomically.

    Raises:
        InputError: a file of a run is missing or damaged, no trial is of the paper's protocol, or a file cannot be written.
    """
    path = Path(out)
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path}: paper tables are written as .html or .md.")
    trials = read_trials(run_dirs)
    relevant = [trial for trial in trials if trial.row["task_scope"] in {column.task for column in COLUMNS}]
    relevant = [trial for trial in relevant if not trial.ok or trial.row["task_scope"] in {task for task, _ in trial.scores}]
    if not relevant:
        raise InputError(
            f"{', '.join(map(str, run_dirs))}: no trial on the words of a task of the paper (regimes finetuned and "
            "end_to_end). `frontier run adacomp-table2 --data DIR` makes them."
        )
    drawn = figures(relevant)
    pictures = {f"{figure.name}.png": figure.png for figure in drawn if figure.png is not None}
    blocks = [
        _table1(relevant),
        *_table2(relevant),
        *_more(relevant),
        *(_figure_block(figure) for figure in drawn),
        _what_was_run(run_dirs),
        _settings(relevant),
        _configurations(relevant),
    ]
    environment = jinja2.Environment(
        # the report's style sheet serves here too
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader("analysis.paper"), jinja2.PackageLoader("analysis.report")]),
        autoescape=path.suffix.lower() != ".md",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    template = environment.get_template("paper.md.j2" if path.suffix.lower() == ".md" else "paper.html.j2")
    page = template.render(
        blocks=blocks,
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
        written=datetime.datetime.now(datetime.UTC),
    )
    written = [path]
    for name, png in pictures.items():
        write_bytes(path.with_name(name), png)
        written.append(path.with_name(name))
    write_bytes(path, page.encode("utf-8", "surrogateescape"))
    return written


def _sections(trials: Iterable[Trial]) -> dict[tuple[str, int], list[Trial]]:
    """Trials by the table that they started from."""
    found: dict[tuple[str, int], list[Trial]] = collections.defaultdict(list)
    for trial in trials:
        found[trial.table].append(trial)
    return found


def _table1(trials: Sequence[Trial]) -> Block:
    header = ["task", "words, paper", "MB, paper", "table", "words, ours", "without a vector", "MB, ours"]
    rows = []
    for column in COLUMNS:
        paper = [column.name, f"{column.vocabulary:,}", f"{column.dense_bytes / 1e6:.1f}"]
        mine = [trial for trial in trials if trial.row["task_scope"] == column.task and trial.ok]
        for (name, dim), some in _sections(mine).items():
            row = some[0].row
            size = 4 * row["num_embeddings"] * dim / 1e6
            ours = [
                f"{name}, {text.counted(dim, 'column')}",
                f"{row['num_embeddings']:,}",
                f"{row['oov_words'] or 0:,}",
                f"{size:.1f}",
            ]
            rows.append([*paper, *ours])
        if not mine:
            rows.append([*paper, NOT_RUN, "", "", ""])
    notes = ["Words without a vector share one row, which is counted in ours."]
    return Block("Table 1: words and memory of the uncompressed vectors", notes, header, rows)


def _table2(trials: Sequence[Trial]) -> list[Block]:
    blocks = []
    for column in COLUMNS:
        mine = _sections(trial for trial in trials if trial.row["task_scope"] == column.task and _row(trial) is not None)
        for (name, dim), some in mine.items():
            blocks.append(_column(column, f"{column.name}, {name} ({text.counted(dim, 'column')})", some))
        if not mine:
            blocks.append(_column(column, f"{column.name} ({NOT_RUN})", []))
    return blocks


def _row(trial: Trial) -> int | None:
    """Place in ROWS of what the trial is, if it is any of them."""
    return next((place for place, row in enumerate(ROWS) if row.fits(trial.row)), None)


_TABLE2_NOTES = (
    "As in the paper: recipes, number formats and training of the paper and of the compared methods' authors, on our table;"
    " how long each was trained stands under Configurations. Ours: what we do otherwise, each difference named.",
    "Mean over seeds, in brackets the 95 % t interval; the difference is to the uncompressed baseline of the same"
    " seed, paired.",
    f"Bytes of the paper: words of Table 1 x {DIM} x 4 / its ratio. Ours: the payload of the file that was read back, which"
    " is codes, code-books, and all else that rebuilds the vectors. Pruning: the payload counts where the kept values are;"
    " the ratio without indices, as the paper counts it, stands beside it.",
)


def _column(column: Column, title: str, trials: Sequence[Trial]) -> Block:
    unit = column.unit
    header = ["method", f"paper: {unit}", "to its baseline", "ratio", "bytes"]
    header += [f"ours: {unit}", "to our baseline", "ratio", "bytes", "seeds"]
    rows = []
    place = COLUMNS.index(column)
    for number, row in enumerate(ROWS):
        value, ratio = row.reported[place]
        paper = [f"{value:.1f}", _signed(value - column.baseline), f"x{ratio:g}", f"{column.dense_bytes / ratio:,.0f}"]
        if row.method == "identity":
            paper[1] = ""
        baseline = row.method == "identity"
        mine = measured((trial for trial in trials if _row(trial) == number), column, functools.partial(titles, row))
        for kind in (PAPER,) if baseline else (PAPER, OURS):
            some = [found for found in mine if label(found.trial, row) == kind]
            if not any(baseline or kind == OURS or found.trial.row["regime"] == row.regime for found in some):
                name = row.name if baseline else f"{row.name}, {kind}"
                rows.append([name, *paper, NOT_RUN, "", "", "", "0"])
            some.sort(key=lambda found: found.trial.row["regime"] != row.regime)
            rows += [[found.label, *paper, *_ours(found, baseline=baseline)] for found in some]
    return Block(f"Table 2: {title}", _TABLE2_NOTES if trials else (), header, rows)


def _ours(found: Measured, *, baseline: bool = False) -> list[str]:
    seeds = f"{found.num_seeds}" + (f" ({found.problem})" if found.problem else "")
    if not found.num_seeds:
        return ["no result", "", "", "", seeds]
    ratio = text.ratio(found.ratio).replace("×", "x")
    if found.without_indices is not None:
        ratio += f" (x{found.without_indices:.3g} without indices)"
    difference = "" if baseline else _with_interval(found.difference, signed=True)
    return [_with_interval(found.value), difference, ratio, f"{found.payload_bytes:,.0f}", seeds]


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if round(value, 1) else "0.0"


def _with_interval(value: Interval, *, signed: bool = False) -> str:
    mean, low, high = ((_signed(one) if signed else f"{one:.1f}") if np.isfinite(one) else "" for one in value)
    return f"{mean} ({low} to {high})" if low else mean


def _more(trials: Sequence[Trial]) -> list[Block]:
    """What was measured on the paper's tasks beside its methods and sizes."""
    blocks = []
    for column in COLUMNS:
        rest = [trial for trial in trials if trial.row["task_scope"] == column.task and _row(trial) is None and trial.ok]
        rest = [trial for trial in rest if trial.row["quantizer"] != "identity" and not in_figures(trial)]
        for (name, dim), some in _sections(rest).items():
            variants: dict[tuple[Any, ...], list[Trial]] = collections.defaultdict(list)
            for trial in some:
                variants[trial.variant].append(trial)
            header = ["method", "parameters", "regime", f"{column.unit}", "to our baseline", "ratio", "bytes", "seeds"]
            rows = []
            labels = labelled([group[0] for group in variants.values()])
            for group, varying in zip(variants.values(), labels, strict=True):
                (found,) = measured(group, column)
                rows.append([group[0].row["quantizer"], varying, _regime(group[0]), *_ours(found)])
            title = f"Beside the paper's methods: {column.name}, {name} ({text.counted(dim, 'column')})"
            blocks.append(Block(title, ["The same tasks and baselines; what the paper has no number for."], header, rows))
    return blocks


def _regime(trial: Trial) -> str:
    return ", ".join([trial.row["regime"], *extras(trial)])


def _figure_block(figure: Drawn) -> Block:
    number = figure.name.removeprefix("figure")
    notes = list(figure.notes)
    if figure.png is None:
        notes.append("There is nothing to draw: `frontier run adacomp-figures --data DIR` makes what is missing.")
    image = "" if figure.png is None else f"{figure.name}.png"
    return Block(f"Figure {number}: {figure.title}", notes, figure.header, figure.rows, image)


def _listed(value: Any) -> list[Any]:
    """The items of a key of ``sweep.yaml``, which people may have edited since."""
    return value if isinstance(value, list) else []


def _what_was_run(run_dirs: Sequence[str | Path]) -> Block:
    header = ["run", "regime", "tasks", "seeds", "trials", "ended", "machine", "command"]
    rows = []
    for run_dir in map(Path, run_dirs):
        run, trials = {}, "none yet: the run has not ended"
        if not unfinished(run_dir):
            run = store.read_run(run_dir)
            counts = collections.Counter(store.read_trials(run_dir)["status"].to_pylist())
            trials = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        sweep = store.sweep_keys(run_dir)
        tasks = "; ".join(text.inline(task) for task in _listed(sweep.get("tasks")))
        machine = run.get("machine") or {}
        where = f"{machine['cpu']}, {text.counted(machine['cores'], 'core')}" if machine else ""
        seeds = ", ".join(map(str, _listed(sweep.get("seeds"))))
        ended = str(run.get("finished_at", ""))[:16].replace("T", " ")
        name = str(run.get("name", run_dir.name))
        rows.append([name, str(sweep.get("regime", "")), tasks, seeds, trials, ended, where, str(run.get("command", ""))])
    return Block("What was run", [], header, rows)


def _configurations(trials: Sequence[Trial]) -> Block:
    """Every configuration with all its parameters, and what fits made of those that it leaves open."""
    found: dict[tuple[str, str, str], dict[str, str]] = collections.defaultdict(dict)
    for trial in trials:
        if trial.row["config_json"]:
            left_open = {name: value for name, value in trial.resolved.items() if value != trial.config.get(name)}
            made = text.config_label(json.dumps(left_open))
            key = trial.row["quantizer"], trial.row["config_json"], _regime(trial)
            found[key].setdefault(made, trial.row["task_scope"])
    rows = [
        [
            method,
            regime,
            text.config_label(config, given=True),
            "; ".join(_on(task, made, by_fit) for made, task in by_fit.items()),
        ]
        for (method, config, regime), by_fit in found.items()
    ]
    notes = [
        "Left open: what the configuration leaves to the method, with the value of the fit; where tasks differ, by task."
    ]
    return Block("Configurations", notes, ["method", "regime", "parameters", "left open"], rows)


def _on(task: str, made: str, others: Sized) -> str:
    return f"{task}: {made}" if len(others) > 1 else made


def _settings(trials: Sequence[Trial]) -> Block:
    """The settings of the paper's tasks, as they were."""
    tasks = {column.task for column in COLUMNS}
    found: dict[tuple[str, str], None] = {}
    for trial in trials:
        for name, settings in json.loads(trial.row["tasks_json"] or "{}").items():
            if name in tasks:
                found[name, text.config_label(json.dumps(settings))] = None
    return Block("Settings of the tasks", [], ["task", "settings"], [list(one) for one in found])
