"""The AdaComp paper's tables and figures from runs whose numbers are known."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image
from scipy import stats
from typer.testing import CliRunner

import quantizers
from analysis import store
from analysis.paper.figures import FOUR, SPLITS
from analysis.paper.numbers import COLUMNS, ROWS
from analysis.paper.page import write_paper
from analysis.paper.significance import combined, exact
from quantizers import Table
from quantizers.errors import InputError
from sweeps.commands import application
from trainables.lexicon import lexicon

N, D = 600, 12
BASELINES = {0: 0.44, 1: 0.45, 2: 0.46}


class Folder:
    """A run directory, filled row by row."""

    def __init__(self, folder: Path, *, task: str = "sentiment", metric: str = "accuracy") -> None:
        self.folder, self.task, self.metric = folder, task, metric
        self.trials: list[dict[str, Any]] = []
        self.scores: list[dict[str, Any]] = []

    def add(self, method: str, drop: float | None, seed: int = 0, size: int = 1000, **more: Any) -> str:
        """A trial that scores ``drop`` below its seed's baseline; None for one that failed."""
        config = more.pop("config", {})
        row = {"quantizer": method, "config_json": json.dumps(config), "seed": seed, "status": "ok", "regime": "finetuned"}
        row |= {"table": f"glove ({self.task})", "task_scope": self.task, "num_embeddings": N, "embedding_dim": D}
        row |= {"payload_bytes": size, "code_bytes": size // 2, "weights": "none", "fit_metric": "none", "oov_words": 7}
        row |= {"sweep": self.folder.name, "tasks_json": '{"sentiment": {"epochs": 3, "train_texts": 8}}', **more}
        row["trial_key"] = key = f"{method}{abs(hash(json.dumps([self.task, config, seed, more], default=str)))}"
        if drop is None:
            row |= {"status": "failed", "reason": "the loss is not | finite"}
        else:
            base = BASELINES[seed]
            score = {"trial_key": key, "role": "input", "task": self.task, "task_version": 1, "metric": self.metric}
            self.scores.append(score | {"direction": "max", "value": base - drop, "baseline": base, "num_examples": 100})
        self.trials.append(row)
        return key

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "sweep.yaml").write_text("regime: finetuned\nseeds: [0, 1]\ntasks: [{task: sentiment, epochs: 3}]\n")
        run = {"name": self.folder.name, "command": "frontier run x", "finished_at": "2026-01-02T03:04:05+00:00"}
        store.write_run(
            self.folder, run | {"machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 8 * 10**9, "platform": "Linux"}}
        )
        store.write(self.folder, "trials", self.trials)
        store.write(self.folder, "scores", self.scores)
        return self.folder


def cells(markdown: str, title: str) -> dict[str, list[str]]:
    """Rows of the table under a heading, by their first cell."""
    part = re.split(r"^## ", markdown, flags=re.MULTILINE)
    (found,) = [one for one in part if one.startswith(title)]
    lines = [line for line in found.splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_published_numbers_are_whole() -> None:
    assert all(len(row.reported) == len(COLUMNS) for row in ROWS) and len(ROWS) == 12
    assert [f"{column.dense_bytes / 1e6:.1f}" for column in COLUMNS] == ["20.5", "22.9", "40.9", "11.8"]  # Table 1
    assert ROWS[-2].reported[0] == (43.2, 84) and ROWS[5].reported[3] == (119.2, 30)


def test_table2_beside_the_paper(tmp_path: Path) -> None:
    compared, own = Folder(tmp_path / "compared"), Folder(tmp_path / "own")
    for seed in BASELINES:
        compared.add("identity", 0.0, seed, size=4 * N * D)
        own.add("identity", 0.0, seed, size=4 * N * D, regime="end_to_end")
    for seed, drop in {0: 0.01, 1: 0.03, 2: 0.02}.items():
        compared.add("scalar", drop, seed, config={"bits": 4, "scales": "column"})
    compared.add("scalar", None, 0, config={"bits": 8})
    compared.add("scalar", 0.0, 1, config={"bits": 8})
    compared.add("pruned", 0.1, 0, size=5760, config={"sparsity": 0.9})
    compared.add("pruned", 0.1, 0, config={"sparsity": 0.7})  # no row of the paper
    as_paper = {"num_bits": 64, "recipe": "paper", "codebook_dtype": "float32", "learning_rate": None}
    compared.add("bin", 0.02, 0, config=as_paper)
    compared.add("bin", 0.0, 0, config=as_paper, retrain='{"epochs": 1, "parts": ["network"]}')
    own.add("bin", 0.01, 0, config=as_paper, regime="end_to_end")
    nc = {"num_codebooks": 32, "codebook_size": 16, "codebook_dtype": "float32", "epochs": None}
    for epochs, drop in ((60, 0.03), (200, 0.02)):
        authors = nc | {"recipe": "authors", "epochs": epochs if epochs == 60 else None}
        compared.add("dccl", drop, 0, config=authors, resolved_json=json.dumps(authors | {"epochs": epochs}))
    fast = nc | {"recipe": "fast", "codebook_dtype": "float16"}
    compared.add("dccl", 0.01, 0, config=fast, weights="fisher", fit_metric="fisher")
    lengths = [64, 32, 16, 8]
    adacomp = {"code_lengths": lengths, "max_payload_bytes": None, "batch_size": 64}
    own.add("adacomp", 0.05, 0, size=2000, config=adacomp, regime="end_to_end")
    own.add("adacomp", 0.04, 0, size=1500, config=adacomp | {"max_payload_bytes": 1500}, regime="end_to_end")
    compared.add("adacomp", 0.08, 0, config=adacomp | {"batch_size": 512})
    compared.add("lsq", 0.0, 0, config={"num_codebooks": 9}, retrain='{"epochs": 2}')  # no method of the paper
    later = Folder(tmp_path / "later").write()
    for name in ("trials", "scores"):
        (later / f"{name}.parquet").unlink()  # a run that is still at work
    (path,) = write_paper([compared.write(), own.write(), later], tmp_path / "t.md")[:1]
    page = path.read_text()
    table = cells(page, "Table 2: SST-5, glove (12 columns)")
    # The paper's side: metric, to its baseline, ratio, bytes.
    for label in ("as in the paper", "ours"):
        paper = ["37.2", "−4.9", "x46", f"{17_080 * 300 * 4 / 46:,.0f}"]
        assert table[f"NC (16x16), {label}"] == [*paper, "not run", "", "", "", "0"]
    # Ours: means and t intervals over three seeds; the difference is paired with each seed's own baseline.
    half = stats.t.ppf(0.975, 2) * np.std([43, 42, 44], ddof=1) / np.sqrt(3)
    drop = stats.t.ppf(0.975, 2) * np.std([1, 3, 2], ddof=1) / np.sqrt(3)
    qwe = table["QWE (4 bit), as in the paper"]
    assert qwe[4] == f"43.0 ({43 - half:.1f} to {43 + half:.1f})"
    assert qwe[5] == f"−2.0 (−{2 + drop:.1f} to +{drop - 2:.1f})"
    assert qwe[6:] == [f"x{4 * N * D / 1000:.1f}", "1,000", "3"]
    assert table["GloVe, uncompressed"][4:] == [f"45.0 ({45 - half:.1f} to {45 + half:.1f})", "", "x1.00", "28,800", "3"]
    assert table["QWE (8 bit), as in the paper"][4:6] == ["45.0", "0.0"]
    assert table["QWE (8 bit), as in the paper"][-1] == r"1 (1 of 2 failed: the loss is not \| finite)"
    assert table["Pruning 90 %, as in the paper"][6] == "x5.00 (x10 without indices)"
    # Both labels, each with what is not the paper's.
    assert [(name, row[4]) for name, row in table.items() if name.startswith("Bin (64)")] == [
        ("Bin (64), as in the paper", "42.0"),
        ("Bin (64), as in the paper: end to end", "43.0"),
        ("Bin (64), ours: retrained for 1 epoch (network alone)", "44.0"),
    ]
    assert [(name, row[4]) for name, row in table.items() if name.startswith("NC (32x16)")] == [
        ("NC (32x16), as in the paper: epochs=60", "41.0"),
        ("NC (32x16), as in the paper: epochs=200", "42.0"),
        ("NC (32x16), ours: recipe=fast, codebook_dtype=float16, weights: fisher, metric: fisher", "43.0"),
    ]
    assert table["AdaComp (64), as in the paper"][4:] == ["39.0", "−5.0", "x14.4", "2,000", "1"]
    assert table["AdaComp (64), ours: at most 1,500 bytes"][7:] == ["1,500", "1"]
    assert table["AdaComp (64), ours: on the fine-tuned table, batch_size=512"][4] == "36.0"
    assert table["AdaComp (128), as in the paper"][4] == table["AdaComp (128), ours"][4] == "not run"
    assert {row[4] for name, row in cells(page, "Table 2: PTB (not run)").items()} == {"not run"}
    beside = cells(page, "Beside the paper's methods: SST-5")
    assert beside["lsq"][1:3] == ["finetuned, retrained for 2 epochs", "44.0"] and beside["pruned"][1] == "finetuned"
    configurations = [line for line in page.splitlines() if line.startswith("| dccl") and "recipe=authors" in line]
    assert [line.split("|")[4].strip() for line in configurations] == ["", "epochs=200"]
    assert cells(page, "Settings of the tasks") == {"sentiment": ["epochs=3, train_texts=8"]}
    assert cells(page, "Table 1")["SST-5"] == ["17,080", "20.5", "glove, 12 columns", str(N), "7", "0.0"]
    assert cells(page, "What was run")["compared"][:4] == ["finetuned", "sentiment (epochs=3)", "0, 1", "1 failed, 16 ok"]
    assert cells(page, "What was run")["later"][3].startswith("none yet")


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A run with AdaComp files: half of the words are of the lexicon, and those come first."""
    words = [*list(lexicon())[: N // 2], *(f"w{number}" for number in range(N // 2))]
    table = Table(torch.randn(N, D, generator=torch.Generator().manual_seed(0)), words)
    folder = Folder(tmp_path / "drawn")
    small = Table(table.vectors[:40], words[:40])
    settings: list[tuple[str, int | None, tuple[int, ...]]]
    settings = [("end_to_end", None, lengths) for lengths in dict.fromkeys((*FOUR, *SPLITS))]
    settings += [("end_to_end", 0, lengths) for lengths in FOUR] + [("pretrained", None, FOUR[-1])]
    for regime, epochs, lengths in settings:
        fitted = table if lengths == FOUR[1] and epochs is None else small
        limit = 600 * 30 if fitted is table else None  # so that all code-books are used
        fit = quantizers.create("adacomp", code_lengths=lengths, epochs=0, max_payload_bytes=limit).fit(fitted)
        for seed in (0, 1):
            config = {"code_lengths": list(lengths), "epochs": epochs}
            key = folder.add("adacomp", 0.01, seed, config=config, regime=regime)
            (folder.folder / "artifacts").mkdir(parents=True, exist_ok=True)
            fit.save(folder.folder / "artifacts" / f"{key}.safetensors")
    return folder.write()


@pytest.mark.slow
def test_figures_of_a_run(drawn: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(application(), ["report", str(drawn), "--paper-tables", "-o", str(tmp_path / "paper.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "paper.html").read_text()
    assert page.count('src="data:image/png;base64,') == 4 and "<script" not in page
    for name in ("figure2", "figure3a", "figure3b", "figure4"):
        picture = image.imread(tmp_path / f"{name}.png")
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.02, name
    write_paper([drawn], tmp_path / "paper.md")
    markdown = (tmp_path / "paper.md").read_text()
    assert "![Figure 4" in markdown and "(figure4.png)" in markdown
    shares = cells(markdown, "Figure 2")
    for kind in ("pretraining only", "the task only", "pretraining, then the task"):
        row = shares[f"SST-5, {kind}"]
        assert sum(float(share.split(" %")[0]) for share in row[:4]) == pytest.approx(100, abs=0.3)
        assert row[5:] == ["43.5", "2"] and shares[f"SNLI, {kind}"][-1] == "not run"
    books = cells(markdown, "Figure 4")
    assert list(books) == ["64 bits", "32 bits", "16 bits", "8 bits"]
    group = next(path for path in (drawn / "artifacts").iterdir() if len(quantizers.read(path).quantizer.words or ()) == N)
    chosen = quantizers.read(group).quantizer.books()  # type: ignore[attr-defined]
    for book, row in enumerate(books.values()):
        of_lexicon = 100 * float((chosen[: N // 2] == book).float().mean())
        assert row == [f"{100 * float((chosen == book).float().mean()):.1f} %", f"{of_lexicon:.1f} %"]
    assert "Beside the paper's methods" not in markdown  # all of it is in the figures
    inside = int((chosen[: N // 2] == 0).sum())
    assert f"Seed 1: of {N // 2} words of the lexicon {inside} are in the longest code-book" in markdown


def test_what_was_not_kept_or_run_is_said(drawn: Path, tmp_path: Path) -> None:
    for path in (drawn / "artifacts").iterdir():
        path.unlink()
    written = write_paper([drawn], tmp_path / "paper.md")
    assert [path.name for path in written] == ["paper.md", "figure3a.png", "figure3b.png"]
    markdown = written[0].read_text()
    assert cells(markdown, "Figure 2")["SST-5, pretraining only"][-1] == "its compressed files were not kept"
    assert cells(markdown, "Figure 4")["all"] == ["its compressed files were not kept"] * 2


def test_perplexity_and_tables_beside_the_input(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "ptb", task="language_model", metric="perplexity")
    folder.add("identity", 0.0)
    folder.add("scalar", -1.5, config={"bits": 4})
    folder.add("scalar", -3.5, seed=1, config={"bits": 4})
    folder.add("scalar", -9.0, seed=2, config={"bits": 4}, roles='{"input": {}, "output": {}}')
    folder.scores[-1]["role"] = "input+output"
    (path,) = write_paper([folder.write()], tmp_path / "t.md")[:1]
    row = cells(path.read_text(), "Table 2: PTB, glove (12 columns)")["QWE (4 bit), as in the paper"]
    assert row[:2] == ["113.8", "+13.5"] and row[4:6] == ["2.9", "+2.5"] and row[-1] == "2"


def test_figures_need_no_files_where_rows_have_the_counts(tmp_path: Path) -> None:
    folders = [Folder(tmp_path / "sst5"), Folder(tmp_path / "snli", task="entailment")]
    for folder in folders:
        for seed in (0, 1, 2):
            for regime, longest in (("pretrained", 80), ("end_to_end", 60 + 10 * seed)):
                counts = json.dumps({"rows": [longest, 100 - longest], "opinion_rows": [5, 5]})
                config = {"code_lengths": list(FOUR[-1]), "epochs": None}
                folder.add("adacomp", 0.01, seed, config=config, regime=regime, book_counts=counts)
            counts = json.dumps({"rows": [30, 20, 50], "opinion_rows": [9, 1]})
            config = {"code_lengths": list(FOUR[1]), "epochs": None}
            folder.add("adacomp", 0.01, seed, config=config, regime="end_to_end", book_counts=counts)
    written = write_paper([folder.write() for folder in folders], tmp_path / "paper.md")
    assert tmp_path / "figure2.png" in written and tmp_path / "figure4.png" not in written
    markdown = written[0].read_text()
    for name in ("SST-5", "SNLI"):
        shares = cells(markdown, "Figure 2")
        assert shares[f"{name}, pretraining only"] == [
            "80.0 %",
            "20.0 %",
            "0.0 %",
            "0.0 %",
            "115.2",
            "44.0",
            "3",
        ]
        assert shares[f"{name}, pretraining, then the task"][0].startswith("70.0 % (41.7 to")
    assert list(cells(markdown, "Figure 4").values()) == [
        ["30.0 %", "90.0 %"],
        ["20.0 %", "10.0 %"],
        ["50.0 %", "0.0 %"],
        ["0.0 %", "0.0 %"],
    ]
    expected = exact(((9, 1), (21, 69)))
    assert f"of 90 other words 21: odds ratio {expected.odds_ratio:.3g}" in markdown
    assert "no compressed file was kept" in markdown


def test_over_representation() -> None:
    tea = exact(((3, 1), (1, 3)))  # Fisher 1935; odds ratio and interval as R's fisher.test gives them
    assert tea.p == pytest.approx(17 / 70)
    assert (tea.odds_ratio, tea.low, tea.high) == pytest.approx((6.408309, 0.2117329, 621.9337505), rel=0.01)
    tables = [((30, 10), (200, 200)), ((20, 20), (200, 200)), ((25, 15), (200, 200))]
    both = combined(tables)
    logs = [np.log(30.5 / 10.5), 0.0, np.log(25.5 / 15.5)]
    assert both.odds_ratio == pytest.approx(np.exp(np.mean(logs)))
    assert np.log(both.high / both.low) == pytest.approx(2 * stats.t.ppf(0.975, 2) * np.std(logs, ddof=1) / np.sqrt(3))
    assert both.p == exact(tables[1]).p > exact(tables[0]).p
    assert np.isnan(combined(tables[:1]).low)


def test_mistakes(tmp_path: Path) -> None:
    other = Folder(tmp_path / "other", task="polarity")
    other.add("identity", 0.0)
    with pytest.raises(InputError, match="no trial on the words of a task of the paper.*adacomp-table2"):
        write_paper([other.write()], tmp_path / "t.md")
    with pytest.raises(InputError, match=r"\.html or \.md"):
        write_paper([other.folder], tmp_path / "t.pdf")
    assert not list(tmp_path.glob("t.*"))
