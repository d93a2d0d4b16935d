"""The page of what benchmarks/distortion.py and benchmarks/lookups.py measured, and the picture of a table.

    python benchmarks/distortion_page.py [DIR] [PAGE]

Writes tables of the CSV files in DIR (docs/results/distortion) into PAGE (docs/results/distortion.md), between its lines
``<!-- tables -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import csv
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from distortion_rows import CSV, LOOKUPS, OURS, Row, read_rows
from matplotlib.ticker import NullLocator
from peers import PEERS

from analysis.text import counted
from quantizers import InputError
from quantizers.files import replacing, write_bytes

BEGIN, END = "<!-- tables -->", "<!-- end -->"
COSTS_AT = 16.0
PROGRAMS = sorted({peer.whose for peer in PEERS.values()})


def is_fixed(row: Row) -> bool:
    """Whether the row is of a peer that has one size."""
    peer = PEERS.get(f"{row.whose}.{row.method}")
    return peer is not None and peer.fixed


def by_method(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by program and method, ours first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.whose != OURS, row.whose, row.method)):
        found.setdefault((row.whose, row.method), []).append(row)
    return found


def mean(rows: Iterable[Row], ratio: float, field: str = "nmse") -> float:
    """Mean over the seeds at a ratio; NaN where there is none."""
    found = [float(getattr(row, field)) for row in rows if row.ratio == ratio]
    return float(np.mean(found)) if found else float("nan")


def earlier(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of our methods at earlier commits, by commit."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.whose not in (OURS, *PROGRAMS):
            found.setdefault(row.whose, []).append(row)
    return found


def best(rows: Iterable[Row], ratio: float) -> tuple[float, str] | None:
    """The least mean error of a method at a ratio, and the method."""
    errors = [(mean(mine, ratio), method) for (_, method), mine in by_method(rows).items()]
    return min((one for one in errors if one[0] == one[0]), default=None)


def picture(row: Row) -> str:
    """Name of the picture of a row's table."""
    return f"{row.table}-{row.rows}x{row.columns}.png".replace("/", "-").replace("#", "-")


def draw(rows: list[Row], path: Path) -> None:
    """Error by ratio of one table: a line for each method, a mark for what has one size, the curve; means over seeds."""
    figure, (axes, relative) = plt.subplots(1, 2, figsize=(14, 6), constrained_layout=True)
    ratios = sorted({row.ratio for row in rows if row.ratio == round(row.ratio)})
    curve = {row.ratio: row.curve for row in sorted(rows, key=lambda row: row.ratio)}
    colours = plt.get_cmap("tab20")
    shown = [row for row in rows if row.whose in (OURS, *PROGRAMS)]
    for number, ((whose, method), mine) in enumerate(by_method(shown).items()):
        style = "*" if is_fixed(mine[0]) else "-o" if whose == OURS else "--s"
        at = sorted({row.ratio for row in mine})
        errors = [mean(mine, ratio) for ratio in at]
        over = [error / curve[ratio] for ratio, error in zip(at, errors, strict=True)]
        look = {
            "color": colours(number % 20),
            "markersize": 10 if is_fixed(mine[0]) else 4,
            "linewidth": 2 if whose == OURS else 1,
        }
        axes.plot(at, errors, style, label=f"{whose}: {method}", **look)
        relative.plot(at, over, style, **look)
    for whose, mine in earlier(rows).items():
        found = {ratio: one[0] for ratio in ratios if (one := best(mine, ratio)) is not None}
        axes.plot(list(found), list(found.values()), "k-.", label=f"best of ours at {whose}", linewidth=1)
        relative.plot(list(found), [error / curve[ratio] for ratio, error in found.items()], "k-.", linewidth=1)
    axes.plot(list(curve), list(curve.values()), "k:", label="Gaussian curve")
    relative.axhline(1, color="k", linestyle=":")
    axes.set(ylabel="squared error over the variance")
    relative.set(ylabel="times the Gaussian curve")
    for one in (axes, relative):
        one.set(xscale="log", yscale="log", xlabel="times smaller")
        one.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
        one.xaxis.set_minor_locator(NullLocator())
        one.grid(alpha=0.3)
    high = max(row.nmse / row.curve for row in rows)
    marks = [mark for mark in (1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000) if mark <= max(high, 1.5)]
    relative.set_yticks(marks, [f"{mark:g}" for mark in marks])
    relative.yaxis.set_minor_locator(NullLocator())
    figure.suptitle(f"{rows[0].table}, {rows[0].rows:,} x {rows[0].columns}")
    figure.legend(loc="outside right center", fontsize=8)
    with replacing(path) as part:
        figure.savefig(part, dpi=110, format="png")
    plt.close(figure)


def _number(value: float, digits: int = 4) -> str:
    """With more digits where fewer would show hardly one."""
    return "" if value != value else f"{value:.{digits if not 0 < value < 0.01 else max(digits, 6)}f}"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    rule = "|" + "---|" * len(header)
    return ["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines), ""]


def _summary(rows: list[Row], ratios: list[float]) -> list[str]:
    """Ours beside the curve, an earlier commit's and faiss's best."""
    ours = [row for row in rows if row.whose == OURS]
    theirs = {"faiss": [row for row in rows if row.whose == "faiss" and not is_fixed(row)], **earlier(rows)}
    lines = []
    for ratio in ratios:
        found = best(ours, ratio)
        if found is None:
            continue
        curve = next(row.curve for row in rows if row.ratio == ratio)
        line = [f"{ratio:g}", _number(curve), f"{_number(found[0])} ({found[1]})", _number(found[0] / curve, 2)]
        for whose in theirs.values():
            other = best(whose, ratio)
            line += ["", ""] if other is None else [f"{_number(other[0])} ({other[1]})", _number(found[0] / other[0], 2)]
        lines.append(line)
    heads = [text for whose in theirs for text in (f"{whose}'s best", "ours / it")]
    return _table(["times smaller", "curve", "ours, best", "/ curve", *heads], lines)


def _by_ratio(rows: list[Row], ratios: list[float], field: str) -> list[str]:
    lines = [
        [f"{whose}: {method}", *(_number(mean(mine, ratio, field)) for ratio in ratios)]
        for (whose, method), mine in by_method(row for row in rows if not is_fixed(row)).items()
    ]
    return _table(["", *(f"{ratio:g}" for ratio in ratios)], lines)


def _costs(rows: list[Row]) -> list[str]:
    lines = []
    for (whose, method), mine in by_method(row for row in rows if row.ratio == COSTS_AT).items():
        told = [f"{mean(mine, COSTS_AT, 'payload_bytes'):,.0f}", f"{100 * mean(mine, COSTS_AT, 'share'):.1f} %"]
        times = [_number(mean(mine, COSTS_AT, field), 3) for field in ("fit_seconds", "batch_ms", "row_ms")]
        lines.append([f"{whose}: {method}", mine[0].configuration, *told, *times])
    return _table(["", "configuration", "bytes", "of the budget", "fit, s", "4,096 rows, ms", "one row, ms"], lines)


def _fixed(rows: list[Row]) -> list[str]:
    """Peers of one size, each beside the best of ours that is no larger."""
    lines = []
    for (whose, method), mine in by_method(row for row in rows if is_fixed(row)).items():
        size = mine[0].payload_bytes
        smaller = [row for row in rows if row.whose == OURS and row.payload_bytes <= size]
        error, recall = (mean(mine, mine[0].ratio, field) for field in ("nmse", "recall"))
        line = [f"{whose}: {method}", f"{mine[0].ratio:.2f}", f"{size:,}", _number(error, 5), _number(recall)]
        if smaller:
            other = min(smaller, key=lambda row: row.nmse)
            line += [f"{other.method}, {other.ratio:.4g}", _number(other.nmse, 5), _number(other.recall)]
        lines.append([*line, *[""] * (8 - len(line))])
    return _table(["", "times smaller", "bytes", "error", "recall@10", "ours, no larger", "error", "recall@10"], lines)


def _spread(rows: list[Row]) -> str:
    """Which seeds there are, and how far they are apart."""
    seeds = sorted({row.seed for row in rows if row.whose == OURS})
    if len(seeds) < 2:
        return "One seed."
    place: Callable[[Row], tuple[str, str, float]] = lambda row: (row.whose, row.method, row.ratio)  # noqa: E731
    groups = [[row.nmse for row in group] for _, group in itertools.groupby(sorted(rows, key=place), key=place)]
    widest = max((max(group) - min(group)) / min(group) for group in groups)
    return f"Means over the seeds {', '.join(map(str, seeds))}, whose errors differ by {100 * widest:.1f} % at most."


def tables(folder: Path, page: Path) -> str:
    """What stands between the page's two lines."""
    rows = read_rows(folder / CSV)
    lines: list[str] = []
    key: Callable[[Row], tuple[str, int, str, int]] = lambda row: (row.table, -row.rows, row.digest, row.threads)  # noqa: E731
    for _, group in itertools.groupby(sorted(rows, key=key), key=key):
        mine = list(group)
        one, ratios = mine[0], sorted({row.ratio for row in mine if not is_fixed(row) and row.ratio == round(row.ratio)})
        lines += [f"## {one.table}, {one.rows:,} x {one.columns}", ""]
        lines += [f"{counted(one.threads, 'thread')}. {_spread(mine)}", ""]
        lines += [f"![Error and size]({os.path.relpath(folder / picture(one), page.parent)})", ""]
        lines += [*_summary(mine, ratios), "Error by times smaller:", "", *_by_ratio(mine, ratios, "nmse")]
        lines += ["Recall@10 by times smaller:", "", *_by_ratio(mine, ratios, "recall")]
        if COSTS_AT in ratios:
            lines += [f"At {COSTS_AT:g} times smaller:", "", *_costs(mine)]
        if any(is_fixed(row) for row in mine):
            lines += ["Programs whose tables have one size:", "", *_fixed(mine)]
        versions = sorted({f"{row.whose} {row.version}" for row in mine if f"{row.whose}.{row.method}" in PEERS})
        lines += [f"Versions: {'; '.join(versions)}.", ""] if versions else []
    if (folder / LOOKUPS).is_file():
        with (folder / LOOKUPS).open(newline="", encoding="utf-8") as file:
            header, *told = csv.reader(file)
        lines += ["## Look-ups", "", *_table(header, told)]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """The program; 2 where the input is wrong."""
    folder = Path(arguments[0] if arguments else "docs/results/distortion")
    page = Path(arguments[1] if len(arguments) > 1 else "docs/results/distortion.md")
    try:
        text = page.read_text(encoding="utf-8")
        if BEGIN not in text or END not in text:
            raise InputError(f"{page}: expected the lines {BEGIN} and {END}, between which the tables are written.")
        if not (folder / CSV).is_file():
            raise InputError(f"{folder}: no {CSV} in it; benchmarks/distortion.py -o {folder} writes one.")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        write_bytes(page, f"{before}{BEGIN}\n\n{tables(folder, page)}\n{END}{after}".encode())
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
