"""Errors at equal payload: our methods, other programs', and the curve of a Gaussian with the table's covariance.

    python benchmarks/distortion.py TABLE [--rows N] [--ratios 4 8 ..] [--seeds 0 1 ..] [--methods trellis pq ..]
        [--peers faiss.pq ..] [--before e336919] [--match] [--files DIR] [--threads 1] [--again [WHOSE ..]] [-o DIR]

The payload counts everything that rebuilds a row: codes, codebooks, rotations, means. A peer has, of its usual
configurations within the budget, the one with the least error (benchmarks/peers.py); a peer of one size has a row at that
size, and with --match ours are measured at the same sizes. Ours have what they propose first, and so have our methods at an
earlier commit (--before). The curve is reverse water-filling of the covariance at 8 * budget / N bits a row, with nothing
taken off.

DIR gets ``distortion.csv``, in which every result is put as it comes, and a picture of each table. What is there already, of
the same table, seed, number of threads and version (of a peer its own; of our methods a digest of their code), is not
measured again unless --again says so. benchmarks/distortion_page.py makes the page of it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from distortion_page import draw, picture
from distortion_rows import CSV, OURS, Row, Store
from own import fit, fit_at, sources_at
from peers import PEERS, Peer
from threadpoolctl import threadpool_limits
from timing import Found, look_up_milliseconds, timed

import quantizers
from quantizers import Budget, InputError, Table, TableStats
from quantizers.fitting.gaussian import gaussian_distortion
from trainables.provenance import code_digest
from trainables.registry import make_task
from trainables.tables.formats import read_table

RATIOS = [4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]
METHODS = ["trellis", "transform_entropy", "pq", "opq", "rq", "lsq"]
QUERIES = 500
_ALL = sorted(quantizers.list_methods())
_METHODS, _PEERS = f"default: {', '.join(METHODS)}", f"default: {', '.join(PEERS)}"
Size = tuple[float, Budget]  # times smaller, and what that is in bytes


class Bench:
    """A table, and what every result is compared with."""

    def __init__(self, table: Table, store: Store, *, threads: int, again: list[str] | None) -> None:
        self.table, self.store, self.threads, self.again = table, store, threads, again
        self.x = np.ascontiguousarray(table.vectors.numpy())
        self.stats = TableStats.of(table)
        self.variance = float(self.stats.eigenvalues.sum())
        self.task = make_task({"task": "neighbours", "queries": QUERIES}, None)
        self.nearest = None if self.task.check(table) else self.task.baseline(table, seed=0)

    def result(
        self,
        whose: str,
        method: str,
        version: str,
        size: Size,
        seed: int,
        make: Callable[[], Found | None],
        keep: Path | None = None,
    ) -> Row | None:
        """What is in the store (and the file ``keep``), or what ``make`` finds; None where nothing fits the budget."""
        (rows, columns), (ratio, budget) = self.table.shape, size
        here = f"{ratio:.4g}x {whose}.{method}, seed {seed}"
        place = self.table.digest, budget.payload_bytes, whose, method, seed, self.threads
        known = self.store.rows.get(place)
        if (
            known is not None
            and known.version == version
            and (self.again is None or (self.again and whose not in self.again))
        ):
            print(f"{here}: {known.nmse:.4f}, as measured before", flush=True)
            return known
        found = make()
        if found is None:
            print(f"{here}: nothing within the budget, or no such method", flush=True)
            return None
        rebuilt = torch.from_numpy(found.rebuilt)
        parts = zip(torch.split(self.table.vectors, 1 << 14), torch.split(rebuilt, 1 << 14), strict=True)
        error = sum(float((one.double() - other).square().sum()) for one, other in parts) / rows
        recall = float("nan")
        if self.nearest is not None:
            recall = self.task.score(rebuilt, self.table, self.nearest, seed=0)["recall_at_10"].value
        row = Row(
            table=self.table.name,
            digest=self.table.digest,
            rows=rows,
            columns=columns,
            ratio=ratio,
            budget_bytes=budget.payload_bytes,
            whose=whose,
            method=method,
            version=version,
            seed=seed,
            threads=self.threads,
            configuration=found.configuration,
            payload_bytes=found.payload_bytes,
            share=found.payload_bytes / budget.payload_bytes,
            nmse=error / self.variance,
            curve=gaussian_distortion(self.stats.eigenvalues, 8 * budget.payload_bytes / rows) / self.variance,
            recall=recall,
            fit_seconds=found.fit_seconds,
            batch_ms=found.batch_ms,
            row_ms=found.row_ms,
        )
        self.store.put(row)
        print(f"{here}: {row.nmse:.4f}, {row.nmse / row.curve:.2f} of the curve, {found.configuration}", flush=True)
        return row

    def peer(self, peer: Peer, size: Size | None, seed: int) -> Row | None:
        """A peer within a budget, or at its own size (None)."""
        tries = list(peer.tries(*self.table.shape, None if size is None else size[1].payload_bytes))

        def best() -> Found | None:
            found: tuple[float, Found] | None = None
            for one in tries:
                coder = one.make()
                seconds, _ = timed(functools.partial(coder.fit, self.x, seed))
                rebuilt = np.asarray(coder.rows(np.arange(len(self.x))), dtype=np.float32)
                error = float(np.square(self.x - rebuilt).sum(dtype=np.float64))
                if found is None or error < found[0]:
                    times = look_up_milliseconds(coder.rows, len(self.x))
                    found = (error, Found(one.configuration, one.payload_bytes, rebuilt, seconds, *times))
            return None if found is None else found[1]

        if size is None:
            if not tries:
                print(f"{peer.name}: has no configuration for {self.table.shape[1]} columns", flush=True)
                return None
            budget = Budget(tries[0].payload_bytes)
            size = budget.ratio(self.table.shape), budget
        return self.result(peer.whose, peer.method, peer.version, size, seed, best)

    def own(self, method: str, size: Size, seed: int, files: Path | None) -> Row | None:
        """A method of ours as it is now."""
        version = code_digest((quantizers.get(method).__module__,))
        keep = None
        if files is not None:
            about = f"{self.table.name}-{len(self.x)}-{method}-x{size[0]:.4g}-{seed}.safetensors"
            keep = files / about.replace("/", "-")
        return self.result(
            *(OURS, method, version, size, seed),
            lambda: fit(self.table, method, size[1], seed=seed, stats=self.stats, keep=keep),
            keep,
        )


def measure(options: argparse.Namespace, table: Table) -> None:
    """Everything that the options ask for, into the store; then the picture."""
    store = Store(options.output / CSV)
    bench = Bench(table, store, threads=options.threads, again=options.again)
    sizes = [(ratio, Budget.from_ratio(ratio, table.shape)) for ratio in options.ratios]
    with contextlib.ExitStack() as stack:
        if options.before is not None:
            vectors = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "x.npy"
            np.save(vectors, bench.x)
            sources = stack.enter_context(sources_at(options.before))

        def at_commit(method: str, budget: Budget, seed: int) -> Found | None:
            return fit_at(sources, vectors, method, budget, seed=seed, threads=options.threads)

        for seed in options.seeds:
            chosen = [PEERS[name] for name in options.peers if PEERS[name].seeded or seed == options.seeds[0]]
            fixed = [bench.peer(peer, None, seed) for peer in chosen if peer.fixed]
            for size in sizes:
                for peer in chosen:
                    if not peer.fixed:
                        bench.peer(peer, size, seed)
            matched = {(row.ratio, Budget(row.budget_bytes)) for row in fixed if row is not None} if options.match else ()
            for size in [*sizes, *sorted(matched, key=lambda one: one[0])]:
                for method in options.methods:
                    bench.own(method, size, seed, options.files)
            for size in sizes if options.before is not None else []:
                for method in options.methods:
                    make = functools.partial(at_commit, method, size[1], seed)
                    bench.result(options.before, method, options.before, size, seed, make)
    mine = [row for row in store.rows.values() if row.digest == table.digest and row.threads == options.threads]
    if mine:
        draw(mine, options.output / picture(mine[0]))


def main(arguments: list[str] | None = None) -> int:
    """The program; 2 where the input is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a table, as frontier compress takes it")
    parser.add_argument("--rows", type=int, help="the first rows only")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS, help="times smaller (default: 4 to 256)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of ours, and of peers that take one (default: 0)")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=_ALL, metavar="METHOD", help=_METHODS)
    parser.add_argument(
        "--peers", nargs="*", default=list(PEERS), choices=list(PEERS), metavar="PEER", help=", ".join(PEERS)
    )
    parser.add_argument("--before", metavar="COMMIT", help="our methods as they were at a commit, too")
    parser.add_argument("--match", action="store_true", help="ours at the sizes of the peers that have one size only, too")
    parser.add_argument("--files", type=Path, help="folder for the compressed files of ours")
    parser.add_argument("--threads", type=int, default=1, help="of all programs (default: %(default)s)")
    parser.add_argument("--again", nargs="*", metavar="WHOSE", help="measure again: all, or 'ours', 'faiss', ...")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/distortion"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    try:
        for folder in (options.output, options.files):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        table: Any = read_table(options.table, rows=options.rows)
        with threadpool_limits(limits=options.threads):
            measure(options, table)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
