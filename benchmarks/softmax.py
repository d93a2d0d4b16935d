"""Milliseconds of a language model's softmax: the whole output table against compressed ones that are never expanded.

    python benchmarks/softmax.py [--words 10000] [--columns 200] [--positions 700] [--threads 2] [--repeat 15]
                                 [--methods pq rq ...] [--markdown docs/results/softmax.md]

The whole table is what a careful person writes: ``linear`` and ``cross_entropy`` in float32, gradients to table, bias and
hidden states. The compressed layers train their codebooks, bias and hidden states. All are measured in turn, a step of each
after the other, forwards and backwards apart; medians. "largest difference" is that of the losses and of the hidden states'
gradients to those of the expanded table. The processor's milliseconds are of all threads together; on a busy machine they
say more than the clock's.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantizers import CompressedEmbedding, CompressedOutput, Table, create

METHODS = {
    "pq": {"num_codebooks": 8, "codebook_size": 400},
    "opq": {"num_codebooks": 8, "codebook_size": 256, "rounds": 2},
    "rq": {"num_codebooks": 8, "codebook_size": 64},
    "lsq": {"num_codebooks": 16, "codebook_size": 16, "rounds": 2},
    "dccl": {"num_codebooks": 32, "codebook_size": 16, "epochs": 1},
    "lowrank": {"rank": 20},
}
Losses = Callable[[Tensor], Tensor]
HEADER = ["softmax", "payload", "forward, ms", "backward, ms", "forward, CPU ms", "backward, CPU ms", "largest difference"]


def layers(options: argparse.Namespace, targets: Tensor) -> dict[str, tuple[int, Losses, list[Tensor], Tensor]]:
    """Bytes, losses of hidden states, what is trained, and the table expanded, by name."""
    random = torch.Generator().manual_seed(0)
    table = torch.randn(options.words, options.columns, generator=random) * torch.linspace(1, 0.05, options.columns)
    whole, bias = nn.Parameter(0.3 * table), nn.Parameter(0.1 * torch.randn(options.words, generator=random))

    def dense(hidden: Tensor) -> Tensor:
        return functional.cross_entropy(functional.linear(hidden, whole, bias), targets, reduction="none")

    made: dict[str, tuple[int, Losses, list[Tensor], Tensor]] = {}
    made["whole table"] = 4 * whole.numel(), dense, [whole, bias], whole.detach()
    for method in options.methods:
        config: dict[str, Any] = METHODS[method]
        quantizer = create(method, **config).fit(Table(whole.detach()))
        # The codes of dccl stay too: its own training module would learn them.
        module = CompressedEmbedding(quantizer, trainable=True)
        layer = CompressedOutput(module, nn.Parameter(bias.detach().clone()))
        trained: list[Tensor] = list(layer.parameters())
        size = f"{config['num_codebooks']} x {config['codebook_size']}" if "rank" not in config else f"rank {config['rank']}"
        losses = functools.partial(layer.losses, targets=targets)
        made[f"{method}, {size}"] = quantizer.payload_bytes, losses, trained, quantizer.to_dense()
    return made


def step(losses: Losses, hidden: Tensor, trained: list[Tensor]) -> tuple[list[float], Tensor]:
    """Milliseconds of one forward and one backward pass, by the clock and of the processor; the losses."""
    for tensor in (hidden, *trained):
        tensor.grad = None
    times = [(time.perf_counter(), time.process_time())]
    found = losses(hidden)
    times.append((time.perf_counter(), time.process_time()))
    torch.autograd.backward(found.mean())
    times.append((time.perf_counter(), time.process_time()))
    (clock0, cpu0), (clock1, cpu1), (clock2, cpu2) = times
    return [1000 * span for span in (clock1 - clock0, clock2 - clock1, cpu1 - cpu0, cpu2 - cpu1)], found.detach()


def difference(losses: Losses, expanded: Tensor, bias: Tensor, hidden: Tensor, targets: Tensor) -> float:
    """The largest to what the expanded table gives, of losses and gradients of their sum."""
    found = losses(hidden)
    (own,) = torch.autograd.grad(found.sum(), hidden)
    expected = functional.cross_entropy(functional.linear(hidden, expanded, bias), targets, reduction="none")
    (other,) = torch.autograd.grad(expected.sum(), hidden)
    return max(float((found - expected).detach().abs().max()), float((own - other).abs().max()))


def measure(options: argparse.Namespace) -> list[list[str]]:
    """A line for every softmax."""
    random = torch.Generator().manual_seed(1)
    hidden = torch.randn(options.positions, options.columns, generator=random, requires_grad=True)
    targets = torch.randint(options.words, (options.positions,), generator=random)
    made = layers(options, targets)
    measured: dict[str, list[list[float]]] = {name: [] for name in made}
    for _ in range(options.repeat + 2):
        for name, (_, losses, trained, _) in made.items():
            measured[name].append(step(losses, hidden, trained)[0])
    lines = []
    for name, (size, losses, trained, expanded) in made.items():
        times = [statistics.median(column) for column in zip(*measured[name][2:], strict=True)]
        bias = next(tensor.detach() for tensor in trained if tensor.shape == (options.words,))
        apart = difference(losses, expanded, bias, hidden, targets)
        lines.append([name, f"{size:,}", *(f"{value:.1f}" for value in times), f"{apart:.0e}" if apart else "0"])
    return lines


def main() -> None:
    """Measure, print the table, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=200)
    parser.add_argument("--positions", type=int, default=700)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=15, help="steps of each, of which medians are taken")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--markdown", type=Path, help="write a page with the same numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = measure(options)
    rows = [
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]
    print("\n".join(rows))
    if options.markdown:
        text = [
            "# The softmax of compressed output tables",
            "",
            f"`python benchmarks/softmax.py --threads {options.threads}`: {options.words:,} words, {options.columns} "
            f"columns, {options.positions} positions,",
            f"on {os.cpu_count()} CPU cores (torch {torch.__version__}, Python "
            f"{platform.python_version()}); medians of {options.repeat} steps,",
            "all softmaxes taking turns, with gradients for the table or the codebooks, the bias and the hidden states.",
            "",
            *rows,
            "",
        ]
        options.markdown.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
