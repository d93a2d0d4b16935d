"""A method of ours on a table, of this version or of an earlier commit, and look-ups in its file on demand.

    python benchmarks/own.py fit X.npy METHOD BUDGET_BYTES SEED THREADS OUT     what distortion.py asks an earlier commit
    python benchmarks/own.py serve FILE.safetensors THREADS                     what lookups.py asks this one and an earlier

Both run with the package that PYTHONPATH names, so that this module uses only what ``quantizers`` has had since e336919.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import Found, look_up_milliseconds, timed

import quantizers
from quantizers import Budget, InputError, Skip, Table, TableStats

ROOT = Path(__file__).resolve().parents[1]


def fit(
    table: Table, method: str, budget: Budget, *, seed: int, stats: TableStats | None = None, keep: Path | None = None
) -> Found | None:
    """Fit the first of what ``method`` proposes; None where it proposes nothing, or is not there.

    Args:
        table: (N, D).
        method: its name.
        budget: of the payload.
        seed: of the fit.
        stats: of the table; found where they are not given.
        keep: where the compressed file is to be written.
    """
    try:
        cls = quantizers.get(method)
    except InputError:
        return None
    proposed = cls.configs_for(budget, stats or TableStats.of(table))
    if isinstance(proposed, Skip):
        return None
    seconds, fitted = timed(lambda: cls(proposed[0]).fit(table, budget=budget, seed=seed))
    if keep is not None:
        fitted.save(keep)
    module = fitted.module()
    batch, row = look_up_milliseconds(lambda ids: module(torch.from_numpy(ids)), table.num_embeddings)
    configuration = proposed[0].model_dump_json().replace('"', "")
    return Found(configuration, fitted.payload_bytes, fitted.to_dense().numpy(), seconds, batch, row)


@contextlib.contextmanager
def sources_at(commit: str) -> Iterator[Path]:
    """A folder with the packages ``quantizers`` and ``trainables`` as they were at ``commit``.

    Raises:
        InputError: the repository has no such commit.
    """
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "quantizers", "trainables"], capture_output=True, check=False
    )
    if packed.returncode:
        raise InputError(f"commit {commit}: the repository does not have it ({packed.stderr.decode().strip()}).")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def command(sources: Path, *arguments: str) -> dict[str, Any]:
    """This module as a program that uses the packages in ``sources``: what :func:`subprocess.run` needs."""
    environment = os.environ | {"PYTHONPATH": str(sources)}
    return {"args": [sys.executable, str(Path(__file__).resolve()), *arguments], "env": environment, "cwd": sources}


def fit_at(
    sources: Path, vectors: Path, method: str, budget: Budget, *, seed: int, threads: int, keep: Path | None = None
) -> Found | None:
    """:func:`fit` with the packages in ``sources``, in a process of its own.

    Args:
        sources: as :func:`sources_at` gives it.
        vectors: (N, D) float32 as ``.npy``.
        method: its name.
        budget: of the payload.
        seed: of the fit.
        threads: of torch.
        keep: where the compressed file is to be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rebuilt.npy"
        words = [str(vectors), method, str(budget.payload_bytes), str(seed), str(threads), str(out)]
        run = subprocess.run(
            **command(sources, "fit", *words, *([] if keep is None else [str(keep)])),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        told = json.loads(run.stdout.splitlines()[-1])
        return None if told is None else Found(rebuilt=np.load(out), **told)


def _fit(vectors: str, method: str, budget: str, seed: str, threads: str, out: str, keep: str | None = None) -> None:
    """One line of JSON: what was found, or null."""
    torch.set_num_threads(int(threads))
    table = Table(torch.from_numpy(np.load(vectors)))
    found = fit(table, method, Budget(int(budget)), seed=int(seed), keep=None if keep is None else Path(keep))
    told = None
    if found is not None:
        np.save(out, found.rebuilt)
        told = {name: value for name, value in vars(found).items() if name != "rebuilt"}
    print(json.dumps(told))


def _serve(file: str, threads: str) -> None:
    """A line in, ``COUNT SEED`` or ``dense``; a line out: seconds of the clock and of the processor."""
    torch.set_num_threads(int(threads))
    module = quantizers.load(file)
    print(json.dumps([module.num_embeddings, module.embedding_dim, module.payload_bytes, module.method]), flush=True)
    for line in sys.stdin:
        if line.strip() != "dense":
            count, seed = (int(word) for word in line.split())
            ids = torch.from_numpy(np.random.default_rng(seed).integers(module.num_embeddings, size=count))
        clock, processor = time.perf_counter(), time.process_time()
        if line.strip() == "dense":
            module.to_dense()
        else:
            module(ids)
        print(json.dumps([time.perf_counter() - clock, time.process_time() - processor]), flush=True)


if __name__ == "__main__":
    (_fit if sys.argv[1] == "fit" else _serve)(*sys.argv[2:])
