"""The DCCL authors' training loop against ours, side by side in one process with the same number of threads.

    python benchmarks/dccl.py --data DIR [--rows 50000] [--epochs 200] [--threads 1] [-o docs/results]
    python benchmarks/dccl.py                    (a generated table, 20 epochs)

The authors' loop is written out below as their program has it (https://github.com/zomux/neuralcompressor: batches of 64,
Adam 1e-4, U(+-0.01), global-norm clipping at 0.001), apart from validation rows that are held out and scored on hard codes
without noise. The two take turns in short stretches, each with its own clock, so that both meet the same load of the
machine. Writes dccl.md and dccl.parquet (all curves) with -o.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor, nn

import quantizers
from quantizers import FitStep, Table
from quantizers.base import generator
from quantizers.fitting.local_search import half_mse, refine
from trainables.tables.formats import read_table

VALIDATION_ROWS = 640
STRETCH = 100  # steps of the authors' loop between two looks at the clock


class Authors(nn.Module):
    """The authors' network, in their words: h, logits, codebook."""

    def __init__(self, dim: int, books: int, words: int) -> None:
        super().__init__()
        self.books, self.words = books, words
        self.h = nn.Linear(dim, books * words // 2)
        self.logits = nn.Linear(books * words // 2, books * words)
        self.codebook = nn.Parameter(torch.empty(books * words, dim))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.01, 0.01)

    def scores(self, x: Tensor) -> Tensor:
        """Logits (B, M, K)."""
        logits = torch.log(nn.functional.softplus(self.logits(torch.tanh(self.h(x)))) + 1e-8)
        return logits.view(-1, self.books, self.words)

    def loss(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and maxp of a batch, with noise."""
        logits = self.scores(x)
        noise = -torch.log(-torch.log(torch.rand_like(logits) + 1e-20) + 1e-20)
        choice = torch.softmax(logits + noise, dim=2)
        rebuilt = choice.view(len(x), -1) @ self.codebook
        return 0.5 * (rebuilt - x).square().sum(dim=1).mean(), choice.amax(dim=2).mean()

    @torch.no_grad()
    def hard(self, x: Tensor) -> tuple[float, Tensor]:
        """Half squared error on hard codes, and the codes."""
        codes = torch.cat([self.scores(part).argmax(dim=2) for part in x.split(4096)])
        return half_mse(x, codes, self.codebook.view(self.books, self.words, -1)), codes


def authors_steps(x: Tensor, books: int, words: int, epochs: int, result: dict[str, Any]) -> Iterator[FitStep]:
    """The authors' loop; leaves the loss and the codes of the best weights in ``result``."""
    torch.manual_seed(3)
    network = Authors(x.shape[1], books, words)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    order = torch.randperm(len(x))
    held_out, rows = x[order[:VALIDATION_ROWS]], order[VALIDATION_ROWS:]
    best, kept = float("inf"), {}
    for epoch in range(epochs):
        train_loss, train_maxp, steps = torch.zeros(()), torch.zeros(()), 0
        batches = rows[torch.randperm(len(rows))].split(64)
        for number, batch in enumerate(batches):
            loss, maxp = network.loss(x[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.001)
            optimizer.step()
            train_loss, train_maxp, steps = train_loss + loss.detach(), train_maxp + maxp.detach(), steps + 1
            if number % STRETCH == STRETCH - 1:
                yield FitStep("pause", (epoch + number / len(batches)) / epochs)
        value, _ = network.hard(held_out)
        if value < best:
            best, kept = value, {name: tensor.clone() for name, tensor in network.state_dict().items()}
        metrics = {"train_loss": float(train_loss / steps), "train_maxp": float(train_maxp / steps)}
        yield FitStep("train", (epoch + 1) / epochs, value, metrics)
    network.load_state_dict(kept)
    result["loss"], result["codes"] = network.hard(x)


def race(runs: dict[str, Iterator[FitStep]]) -> dict[str, list[dict[str, Any]]]:
    """Advance whichever run has done the smaller share; each run's seconds are those of its own steps."""
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    fractions, seconds, processor = (dict.fromkeys(runs, 0.0) for _ in range(3))
    waiting = dict(runs)
    while waiting:
        name = min(waiting, key=lambda one: fractions[one])
        begin, begin_processor = time.perf_counter(), time.process_time()
        step = next(waiting[name], None)
        seconds[name] += time.perf_counter() - begin
        processor[name] += time.process_time() - begin_processor
        if step is None:
            del waiting[name]
            continue
        fractions[name] = step.fraction
        if step.phase != "pause":
            times = {"seconds": seconds[name], "cpu_seconds": processor[name]}
            curves[name].append({"run": name, "phase": step.phase, **times, "half_mse": step.value, **step.metrics})
    for name, curve in curves.items():
        print(
            f"{name}: {seconds[name]:.1f} s, {processor[name]:.1f} s of processor, {curve[-1]['half_mse']:.3f}", flush=True
        )
    return curves


def finished(x: Tensor, codes: Tensor, words: int, rounds: int) -> float:
    """The half squared error that our finishing ends with from given codes."""
    *_, last = refine(x, codes.to(torch.int32), words, rounds=rounds, generator=generator(0, 3))
    return last.half_mse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--table", help="default: glove.6B.100d.txt where --data is given, else a generated table")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--books", type=int, default=32)
    parser.add_argument("--words", type=int, default=16)
    parser.add_argument("--epochs", type=int, help="of the authors' loop; default: 200, of a generated table 20")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.table = options.table or ("glove.6B.100d.txt" if options.data else "builtin:synthetic-10000x50")
    options.epochs = options.epochs or (20 if options.table.startswith("builtin:") else 200)
    table = read_table(options.table, data_dir=options.data, rows=options.rows)
    sizes = {"num_codebooks": options.books, "codebook_size": options.words}
    quantizers.create("dccl", **sizes).fit(Table(table.vectors[:512]))  # what the first use loads is nobody's
    ours = quantizers.create("dccl", **sizes)
    authors: dict[str, Any] = {}
    curves = race(
        {
            "authors": authors_steps(table.vectors, options.books, options.words, options.epochs, authors),
            "ours": ours.fit_steps(table, seed=0),
        }
    )
    final = 0.5 * float((ours.to_dense() - table.vectors).square().sum(dim=1).mean())
    reached = next((step for step in curves["ours"] if step["half_mse"] <= authors["loss"]), None)
    trained = [step for step in curves["ours"] if step["phase"] == "train"][-1]
    centred = table.vectors - table.vectors.mean(dim=0)
    rounds = len([step for step in curves["ours"] if step["phase"] == "refine"]) - 1
    random = torch.randint(options.words, (len(centred), options.books), generator=generator(0))
    from_random = finished(centred, random, options.words, rounds)
    from_authors = finished(centred, authors["codes"], options.words, rounds)

    def row(name: str, loss: float, seconds: float | None = None, processor: float | None = None) -> str:
        times = ["", ""] if seconds is None or processor is None else [f"{seconds:.1f}", f"{processor:.1f}"]
        return f"| {name} | {loss:.3f} | {loss / authors['loss'] - 1:+.0%} | {times[0]} | {times[1]} |"

    lines = [
        f"# DCCL: the authors' loop and ours, {options.books} x {options.words}",
        "",
        f"{len(centred):,} rows of {options.table} ({table.embedding_dim} columns); half the squared error of a row on hard"
        f" codes, mean over all rows. {options.epochs} epochs of the authors' loop (their program runs 200)."
        f" Both use {options.threads} thread(s) of one process and take turns, each with its own clock;"
        f" {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}.",
        "",
        "| what | half squared error | against the authors' | wall-clock seconds | processor seconds |",
        "|---|---|---|---|---|",
        row("authors' loop", authors["loss"], curves["authors"][-1]["seconds"], curves["authors"][-1]["cpu_seconds"]),
        row("ours, whole fit", final, curves["ours"][-1]["seconds"], curves["ours"][-1]["cpu_seconds"]),
    ]
    if reached is not None:
        name = f"ours, when it first is as good (phase `{reached['phase']}`)"
        lines.append(row(name, reached["half_mse"], reached["seconds"], reached["cpu_seconds"]))
    lines += [
        row("ours, training only (rows held out)", trained["half_mse"], trained["seconds"], trained["cpu_seconds"]),
        row(f"finishing only: random codes, {rounds} rounds", from_random),
        row(f"authors' loop, then our finishing, {rounds} rounds", from_authors),
        "",
    ]
    if reached is not None:
        last = curves["authors"][-1]
        share, processor_share = (last[clock] / reached[clock] for clock in ("seconds", "cpu_seconds"))
        lines.append(
            f"Ours reaches the authors' final loss in 1/{share:.0f} of their time (processor time: 1/{processor_share:.0f}),"
            f" and ends {1 - final / authors['loss']:.0%} lower."
        )
    lines.append(
        f"Training alone ends at {trained['half_mse']:.2f}, and finishing lowers that to {final:.2f}; from random codes it"
        f" ends at {from_random:.2f}, from the authors' codes at {from_authors:.2f}."
    )
    print("\n".join(lines))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "dccl.md").write_text("\n".join(lines) + "\n")
        curve = pyarrow.Table.from_pylist([step for steps in curves.values() for step in steps])
        pyarrow.parquet.write_table(curve, options.output / "dccl.parquet")


if __name__ == "__main__":
    main()
