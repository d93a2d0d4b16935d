"""Figures 2, 3a, 3b and 4 of the AdaComp paper from our trials on SST-5, drawn with matplotlib.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), section 5. Its figure 2 is of SNLI.
Shapes: W words of the opinion lexicon that the table has, D columns.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import quantizers
from analysis.paper.numbers import COLUMNS
from analysis.paper.trials import Trial
from analysis.statistics import t_interval

Lengths = tuple[int, ...]
BOTH, NO_PRETRAINING, PRETRAINING = "pretraining, then the task", "the task only", "pretraining only"
FOUR: tuple[Lengths, ...] = tuple((n, n // 2, n // 4, n // 8) for n in (32, 64, 128))
SPLITS: tuple[Lengths, ...] = ((128,), (64, 64), (64, 32, 32), (64, 32, 16, 16), (64, 32, 16, 8, 8))
_TASK = COLUMNS[0]
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


_Groups = Mapping[tuple[str, Lengths], list[Trial]]


def _place(trial: Trial) -> tuple[str, Lengths] | None:
    """How a trial was trained and its code-books, if it is one of a figure."""
    if trial.row["quantizer"] != "adacomp" or trial.row["task_scope"] != _TASK.task or not (trial.ok and trial.plain):
        return None
    lengths = tuple(trial.config["code_lengths"])
    if trial.row["regime"] == "finetuned" or lengths not in (*FOUR, *SPLITS):
        return None
    if trial.row["regime"] == "pretrained":
        return PRETRAINING, lengths
    return (NO_PRETRAINING if trial.config.get("epochs") == 0 else BOTH), lengths


def in_figures(trial: Trial) -> bool:
    """Whether a trial is of one of the figures."""
    return _place(trial) is not None


def _groups(trials: Sequence[Trial]) -> _Groups:
    """AdaComp's trials by how they were trained and by code-books: one a seed, all of one configuration."""
    found: dict[tuple[str, Lengths], list[Trial]] = {}
    for trial in trials:
        place = _place(trial)
        if place is None:
            continue
        group = found.setdefault(place, [])
        new = trial.row["seed"] not in {other.row["seed"] for other in group}
        if new and (not group or (group[0].variant, group[0].table) == (trial.variant, trial.table)):
            group.append(trial)
    return found


def _books(trial: Trial) -> NDArray[np.int64] | None:
    """Which code-book every row has, longest first as in the configuration; None where the file was not kept."""
    if not trial.artifact.is_file():
        return None
    books = quantizers.read(trial.artifact).quantizer.books()
    assert books is not None  # AdaComp's files have them
    return np.asarray(books.numpy(), dtype=np.int64)


def _shares(books: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    return np.bincount(books, minlength=count) / max(1, len(books))


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


def _figure2(groups: _Groups) -> Drawn:
    lengths = FOUR[-1]
    title = f"Share of words in each code-book, {_named(lengths)}"
    header = ["trained with", *(f"{bits} bits" for bits in lengths), "bits a word", "accuracy, %", "seeds"]
    shown: dict[str, NDArray[np.float64]] = {}
    rows = []
    notes = [
        "The paper's, of SNLI: about 80 % of the words in the longest code-book with pretraining only, and far fewer after"
        " training with the task.",
        _START,
    ]
    for kind in (PRETRAINING, NO_PRETRAINING, BOTH):
        trials = groups.get((kind, lengths), [])
        kept = [books for trial in trials if (books := _books(trial)) is not None]
        if not kept:
            why = "its compressed files were not kept" if trials else "not run"
            rows.append([kind, *[""] * (len(lengths) + 2), why])
            continue
        shown[kind] = np.mean([_shares(books, len(lengths)) for books in kept], axis=0)
        accuracy = np.mean([_value(trial) for trial in trials])
        bits = float(shown[kind] @ np.array(lengths))
        rows.append([kind, *map(_percent, shown[kind]), f"{bits:.1f}", f"{accuracy:.1f}", str(len(kept))])
    if not shown:
        return Drawn("figure2", title, None, header, rows, notes)
    figure = _canvas(8, 1.4 + 0.6 * len(shown))
    axis = figure.subplots()
    left = np.zeros(len(shown))
    for book, (bits_of_book, colour) in enumerate(zip(lengths, _colours(len(lengths)), strict=True)):
        widths = np.array([share[book] for share in shown.values()])
        bars = axis.barh(list(shown), widths, left=left, color=colour, label=f"{bits_of_book} bits", height=0.62)
        texts = [f"{100 * width:.0f} %" if width >= 0.04 else "" for width in widths]
        axis.bar_label(
            bars, texts, label_type="center", color="#111111" if book == len(lengths) - 1 else "white", fontsize=9
        )
        left += widths
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xticks(np.linspace(0, 1, 6), [f"{share} %" for share in range(0, 101, 20)])
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_xlabel("words")
    figure.legend(loc="outside upper center", ncols=len(lengths), frameon=False, fontsize=9)
    return Drawn("figure2", title, _png(figure), header, rows, notes)


def _value(trial: Trial) -> float:
    return _TASK.scale * trial.scores[_TASK.task, _TASK.metric][0]


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
            trials = groups.get((kind, lengths), [])
            if not trials:
                rows.append([_named(lengths), kind, "", "", "", "not run"])
                continue
            values = [_value(trial) for trial in trials]
            baselines += [base for trial in trials if (base := trial.scores[_TASK.task, _TASK.metric][1]) is not None]
            mean, low, high = t_interval(values)
            payload = np.mean([trial.row["payload_bytes"] for trial in trials])
            interval = f"{low:.1f} to {high:.1f}" if len(values) > 1 else ""
            rows.append([_named(lengths), kind, f"{mean:.1f}", interval, f"{payload:,.0f}", str(len(values))])
            means.append(mean)
            places.append(place)
            axis.plot([place] * len(values), values, ".", color=_LINES[kind][1], alpha=0.5, markersize=5)
        style, colour = _LINES[kind]
        axis.plot(places, means, style, marker="o", color=colour, label=kind if means else None)
    if not baselines:
        return Drawn(name, title, None, header, rows, [])
    axis.axhline(_TASK.scale * float(np.mean(baselines)), color="#111111", linestyle=":", linewidth=1, label="uncompressed")
    axis.set_xticks(range(len(settings)), ticks, fontsize=8 if len(ticks[0]) > 3 else 10)
    axis.set_xlabel(title)
    axis.set_ylabel(_TASK.unit)
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
    from trainables.lexicon import lexicon

    lengths = FOUR[1]
    title = f"Reconstructed vectors of the opinion lexicon's words by code-book, {_named(lengths)}"
    header = ["code-book", "all words", "words of the lexicon"]
    trial = next((one for one in groups.get((BOTH, lengths), []) if one.artifact.is_file()), None)
    if trial is None:
        why = "its compressed files were not kept" if (BOTH, lengths) in groups else "not run"
        return Drawn("figure4", title, None, header, [["all", why, why]], [])
    artifact = quantizers.read(trial.artifact).quantizer
    words = artifact.words or []
    chosen = artifact.books()
    assert chosen is not None  # AdaComp's files have them
    books = chosen.numpy()
    known = lexicon()
    found = np.array([row for row, word in enumerate(words) if word in known], dtype=np.int64)
    everywhere, inside = _shares(books, len(lengths)), _shares(books[found], len(lengths))
    rows = [[f"{bits} bits", _percent(everywhere[book]), _percent(inside[book])] for book, bits in enumerate(lengths)]
    vectors = artifact.to_dense().numpy()[found[:_LEXICON_WORDS]]
    if len(np.unique(vectors, axis=0)) < 4:
        return Drawn(
            "figure4", title, None, header, rows, [f"The table has {len(found)} words of the lexicon: too few to draw."]
        )
    places = _tsne(vectors)
    figure = _canvas(8, 6.4)
    axis = figure.subplots()
    for book, colour in reversed(list(enumerate(_colours(len(lengths))))):
        mine = books[found[:_LEXICON_WORDS]] == book
        label = f"{lengths[book]} bits: {_percent(everywhere[book])} of all words, {_percent(inside[book])} of these"
        axis.scatter(places[mine, 0], places[mine, 1], s=9, color=colour, linewidths=0, label=label)
    axis.set_axis_off()
    handles = axis.get_legend_handles_labels()[0][::-1]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9, markerscale=2)
    notes = [
        f"t-SNE of {len(vectors):,} words of the opinion lexicon in the table, seed {trial.row['seed']}. The paper finds"
        " them in the longest code-book more often than other words."
    ]
    return Drawn("figure4", title, _png(figure), header, rows, notes)


def _tsne(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(W, D) -> (W, 2)."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    places: NDArray[np.float32] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
    return places
