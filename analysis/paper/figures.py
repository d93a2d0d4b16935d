"""Figures 2, 3a, 3b and 4 of the AdaComp paper from our trials, drawn with matplotlib.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), section 5. Figure 2 is of SST-5 and SNLI (the
paper's is of SNLI), the others of SST-5.
Shapes: W words of the opinion lexicon that the table has, D columns.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import quantizers
from analysis import text
from analysis.paper.numbers import COLUMNS, Column
from analysis.paper.significance import OverRepresentation, combined, exact
from analysis.paper.trials import Books, Trial
from analysis.statistics import t_interval
from quantizers import Quantizer

Lengths = tuple[int, ...]
BOTH, NO_PRETRAINING, PRETRAINING = "pretraining, then the task", "the task only", "pretraining only"
FOUR: tuple[Lengths, ...] = tuple((n, n // 2, n // 4, n // 8) for n in (32, 64, 128))
SPLITS: tuple[Lengths, ...] = ((128,), (64, 64), (64, 32, 32), (64, 32, 16, 16), (64, 32, 16, 8, 8))
_SST5, _SNLI = COLUMNS[0], COLUMNS[2]
_LEXICON_WORDS = 3000  # in figure 4, the table's first: those of one line a word that t-SNE lays out in seconds
_LINES = {BOTH: ("-", "#0b5fa5"), NO_PRETRAINING: ("--", "#b45309")}
_START = (
    "Ours without pretraining starts from orthonormal directions with lengths by least squares, not from random weights."
)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure: its picture (None where nothing of it was run), the numbers in it, and what is to say."""

    name: str
    title: str
    png: bytes | None
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def figures(trials: Sequence[Trial]) -> list[Drawn]:
    """All four, whatever was run of them."""
    groups = _groups(trials)
    return [_figure2(groups), *_figures3(groups), _figure4(groups)]


_Place = tuple[str, str, Lengths]  # task, how it was trained, code-books
_Groups = Mapping[_Place, list[Trial]]


def _place(trial: Trial) -> _Place | None:
    """Where a trial belongs, if it is one of a figure."""
    task = trial.row["task_scope"]
    if trial.row["quantizer"] != "adacomp" or task not in (_SST5.task, _SNLI.task) or not (trial.ok and trial.plain):
        return None
    lengths = tuple(trial.config["code_lengths"])
    if trial.row["regime"] == "finetuned" or lengths not in (*FOUR, *SPLITS):
        return None
    if trial.row["regime"] == "pretrained":
        return task, PRETRAINING, lengths
    return task, NO_PRETRAINING if trial.config.get("epochs") == 0 else BOTH, lengths


def in_figures(trial: Trial) -> bool:
    """Whether a trial is of one of the figures."""
    return _place(trial) is not None


def _groups(trials: Sequence[Trial]) -> _Groups:
    """AdaComp's trials by place: one a seed, all of one configuration, the one with the most seeds."""
    found: dict[_Place, dict[tuple[Any, ...], dict[int, Trial]]] = {}
    for trial in trials:
        place = _place(trial)
        if place is not None:
            variants = found.setdefault(place, {})
            variants.setdefault((trial.variant, trial.table), {}).setdefault(trial.row["seed"], trial)
    return {place: list(max(variants.values(), key=len).values()) for place, variants in found.items()}


def _colours(count: int) -> list[tuple[float, float, float, float]]:
    """Dark for the longest code-book."""
    return [colormaps["viridis"](0.9 * book / max(1, count - 1)) for book in range(count)]


def _canvas(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _named(lengths: Lengths) -> str:
    return f"({', '.join(map(str, lengths))})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _why_not(trials: Sequence[Trial]) -> str:
    return "its compressed files were not kept" if trials else "not run"


def _figure2(groups: _Groups) -> Drawn:
    lengths = FOUR[-1]
    title = f"Share of words in each code-book, {_named(lengths)}"
    header = ["task, trained with", *(f"{bits} bits" for bits in lengths), "bits a word", "accuracy, %", "seeds"]
    shown: dict[str, dict[str, NDArray[np.float64]]] = {}
    rows = []
    notes = [
        "The paper's, of SNLI: about 80 % of the words in the longest code-book with pretraining only, and far fewer after"
        " training with the task. In brackets the 95 % t interval over seeds.",
        _START,
    ]
    for column in (_SST5, _SNLI):
        for kind in (PRETRAINING, BOTH, NO_PRETRAINING):
            trials = groups.get((column.task, kind, lengths), [])
            kept = [(trial, trial.books.shares) for trial in trials if trial.books is not None]
            if not kept:
                rows.append([f"{column.name}, {kind}", *[""] * (len(lengths) + 2), _why_not(trials)])
                continue
            shares = np.mean([share for _, share in kept], axis=0)
            shown.setdefault(column.name, {})[kind] = shares
            longest = t_interval([100 * float(share[0]) for _, share in kept], (0.0, 100.0))
            accuracy = np.mean([_value(trial, column) for trial, _ in kept])
            first, *others = map(_percent, shares)
            first += f" ({longest[1]:.1f} to {longest[2]:.1f})" if np.isfinite(longest[1]) else ""
            bits = float(shares @ np.array(lengths))
            rows.append([f"{column.name}, {kind}", first, *others, f"{bits:.1f}", f"{accuracy:.1f}", str(len(kept))])
    return Drawn("figure2", title, _draw_shares(shown, lengths) if shown else None, header, rows, notes)


def _draw_shares(shown: Mapping[str, Mapping[str, NDArray[np.float64]]], lengths: Lengths) -> bytes:
    """Bars of the shares (C,) by task and training, the tasks side by side."""
    figure = _canvas(1.6 + 6 * len(shown), 1.4 + 0.6 * max(map(len, shown.values())))
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (name, by_kind) in zip(axes, shown.items(), strict=True):
        left = np.zeros(len(by_kind))
        for book, (bits, colour) in enumerate(zip(lengths, _colours(len(lengths)), strict=True)):
            widths = np.array([share[book] for share in by_kind.values()])
            bars = axis.barh(list(by_kind), widths, left=left, color=colour, label=f"{bits} bits", height=0.62)
            texts = [f"{100 * width:.0f} %" if width >= 0.04 else "" for width in widths]
            dark = "#111111" if book == len(lengths) - 1 else "white"
            axis.bar_label(bars, texts, label_type="center", color=dark, fontsize=9)
            left += widths
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.set_xticks(np.linspace(0, 1, 6), [f"{share} %" for share in range(0, 101, 20)])
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.set_xlabel(f"words of {name}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(lengths), frameon=False, fontsize=9)
    return _png(figure)


def _value(trial: Trial, column: Column) -> float:
    return column.scale * trial.scores[column.task, column.metric][0]


def _figures3(groups: _Groups) -> list[Drawn]:
    named = [f"{lengths[0]}" for lengths in FOUR]
    split = [_named(lengths) for lengths in SPLITS]
    return [
        _figure3(groups, "figure3a", "Length of the code-books (the longest of four)", FOUR, named, (BOTH, NO_PRETRAINING)),
        _figure3(groups, "figure3b", "Number of code-books, 128 code vectors in all", SPLITS, split, (BOTH,)),
    ]


def _figure3(
    groups: _Groups, name: str, title: str, settings: Sequence[Lengths], ticks: Sequence[str], kinds: Sequence[str]
) -> Drawn:
    header = ["code-books", "trained with", "accuracy, %", "95 % interval", "payload, bytes", "seeds"]
    rows: list[list[str]] = []
    baselines = []
    figure = _canvas(7, 4.2)
    axis = figure.subplots()
    for kind in kinds:
        means, places = [], []
        for place, lengths in enumerate(settings):
            trials = groups.get((_SST5.task, kind, lengths), [])
            if not trials:
                rows.append([_named(lengths), kind, "", "", "", "not run"])
                continue
            values = [_value(trial, _SST5) for trial in trials]
            scores = [trial.scores[_SST5.task, _SST5.metric] for trial in trials]
            baselines += [base for _, base in scores if base is not None]
            mean, low, high = t_interval(values, (0.0, 100.0))
            payload = np.mean([trial.row["payload_bytes"] for trial in trials])
            interval = f"{low:.1f} to {high:.1f}" if np.isfinite(low) else ""
            rows.append([_named(lengths), kind, f"{mean:.1f}", interval, f"{payload:,.0f}", str(len(values))])
            means.append(mean)
            places.append(place)
            axis.plot([place] * len(values), values, ".", color=_LINES[kind][1], alpha=0.5, markersize=5)
        style, colour = _LINES[kind]
        axis.plot(places, means, style, marker="o", color=colour, label=kind if means else None)
    if not baselines:
        return Drawn(name, title, None, header, rows, [])
    axis.axhline(_SST5.scale * float(np.mean(baselines)), color="#111111", linestyle=":", linewidth=1, label="uncompressed")
    axis.set_xticks(range(len(settings)), ticks, fontsize=8 if len(ticks[0]) > 3 else 10)
    axis.set_xlabel(title)
    axis.set_ylabel(_SST5.unit)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return Drawn(
        name,
        title,
        _png(figure),
        header,
        rows,
        ["Dots are seeds, marks their means.", *([_START] if len(kinds) > 1 else [])],
    )


def _figure4(groups: _Groups) -> Drawn:
    lengths = FOUR[1]
    title = f"Reconstructed vectors of the opinion lexicon's words by code-book, {_named(lengths)}"
    header = ["code-book", "all words", "words of the lexicon"]
    trials = groups.get((_SST5.task, BOTH, lengths), [])
    known = [(trial, trial.books) for trial in trials if trial.books is not None]
    if not known:
        return Drawn("figure4", title, None, header, [["all", _why_not(trials), _why_not(trials)]], [])
    everywhere = np.mean([books.shares for _, books in known], axis=0)
    inside = np.mean([books.opinion_shares for _, books in known], axis=0)
    rows = [[f"{bits} bits", _percent(everywhere[book]), _percent(inside[book])] for book, bits in enumerate(lengths)]
    notes = [f"Shares are means of {len(known)} seed{'s' if len(known) > 1 else ''}.", *_tested(known)]
    drawn = next((trial for trial, _ in known if trial.artifact.is_file()), None)
    if drawn is None:
        return Drawn("figure4", title, None, header, rows, [*notes, "No picture: no compressed file was kept."])
    artifact = quantizers.read(drawn.artifact).quantizer
    png, said = _draw_words(artifact, lengths)
    notes.append(
        f"{said}, seed {drawn.row['seed']}. The paper finds them in the longest code-book more often than other words."
    )
    return Drawn("figure4", title, png, header, rows, notes)


def _tested(known: Sequence[tuple[Trial, Books]]) -> list[str]:
    """Whether words of the lexicon are in the longest code-book more often than others: every seed, and all together."""
    tables = [books.in_book(0) for _, books in known]
    found = []
    for (trial, _), table in zip(known, tables, strict=True):
        (mine, rest), (others, elsewhere) = table
        found.append(
            f"Seed {trial.row['seed']}: of {mine + rest:,} words of the lexicon {mine:,} are in the longest code-book, of"
            f" {others + elsewhere:,} other words {others:,}: {_odds(exact(table))}, by Fisher's exact test (one-sided)."
        )
    if len(tables) > 1:
        found.append(
            f"All seeds: {_odds(combined(tables))}: the geometric mean, its t interval over seeds, and the largest p of them"
            " (seeds share their words, so that their p are not multiplied)."
        )
    return found


def _odds(found: OverRepresentation) -> str:
    interval = f" ({found.low:.3g} to {found.high:.3g})" if np.isfinite(found.low) else ""
    return f"odds ratio {found.odds_ratio:.3g}{interval}, p = {found.p:.2g}"


def _draw_words(artifact: Quantizer, lengths: Lengths) -> tuple[bytes | None, str]:
    """The picture, None where there are too few words for one, and what it shows."""
    from trainables.lexicon import lexicon

    known = lexicon()
    found = np.array([row for row, word in enumerate(artifact.words or ()) if word in known], dtype=np.int64)
    vectors = artifact.to_dense().numpy()[found[:_LEXICON_WORDS]]
    if len(np.unique(vectors, axis=0)) < 4:
        return None, f"The table has {text.counted(len(found), 'word')} of the lexicon: too few to draw"
    books = artifact.books(torch.from_numpy(found[:_LEXICON_WORDS]))
    assert books is not None  # AdaComp has several
    places = _tsne(vectors)
    figure = _canvas(8, 6.4)
    axis = figure.subplots()
    for book, colour in reversed(list(enumerate(_colours(len(lengths))))):
        mine = books.numpy() == book
        axis.scatter(places[mine, 0], places[mine, 1], s=9, color=colour, linewidths=0, label=f"{lengths[book]} bits")
    axis.set_axis_off()
    handles = axis.get_legend_handles_labels()[0][::-1]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9, markerscale=2)
    return _png(figure), f"t-SNE of {len(vectors):,} words of the opinion lexicon in the table"


def _tsne(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(W, D) -> (W, 2)."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    places: NDArray[np.float32] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
    return places
