"""Other programs' ways to make a table small, as their users get them.

faiss runs itself. What the others do is done here with SciPy and scikit-learn, which is what they call, so that neither they
nor what they need must be installed; each class names the version and the file that it follows. The payload is what their
files hold to rebuild rows: codes without unused bits, codebooks, rotations, means and norms.

Shapes: N rows, D columns, B rows looked up.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import faiss
import numpy as np
from scipy.cluster.vq import kmeans2, vq
from sklearn.cluster import KMeans

BITS = {"pq": range(4, 11), "opq": (4, 8, 10), "rq": (4, 8, 10), "lsq": (4, 8, 10), "prq": (4, 8, 10)}
MOST_BOOKS = {"rq": 256, "prq": 256, "lsq": 64}
# LSQ's fit grows with codebooks^2 x codewords x rows; this much takes one core half an hour, and more is left out.
MOST_LSQ_WORK = 4e9
MOST_CLUSTERS = 4096
SCALARS = {4: faiss.ScalarQuantizer.QT_4bit, 6: faiss.ScalarQuantizer.QT_6bit, 8: faiss.ScalarQuantizer.QT_8bit}
_FLOAT = 4


class Coder(Protocol):
    """A table in somebody else's form."""

    def fit(self, x: np.ndarray, seed: int) -> None:
        """Learn from the rows of ``x`` (N, D) float32 and encode them."""

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rebuild the rows ``ids`` (B,): (B, D)."""


@dataclasses.dataclass(frozen=True)
class Try:
    """A configuration within a budget, and its coder."""

    configuration: str
    payload_bytes: int
    make: Callable[[], Coder]


@dataclasses.dataclass(frozen=True)
class Peer:
    """A method of another program.

    Attributes:
        whose: the program.
        method: its method.
        version: of the program, and of what does its work here.
        tries: configurations for a table (N, D) within a budget of bytes; all of one size where ``fixed``.
        fixed: it has one size, whatever the budget (which is None).
        seeded: whether a seed changes what it gives.
    """

    whose: str
    method: str
    version: str
    tries: Callable[[int, int, Any], Iterator[Try]]
    fixed: bool = False
    seeded: bool = True

    @property
    def name(self) -> str:
        """``whose.method``."""
        return f"{self.whose}.{self.method}"


# faiss ---------------------------------------------------------------------------------------------------------------


class Faiss:
    """A quantizer of faiss with its defaults, behind a rotation where there is one; seed 0 is faiss's own."""

    def __init__(self, quantizer: Any, rotation: Any = None) -> None:
        self.quantizer, self.rotation = quantizer, rotation
        if rotation is not None:  # what it would make for itself, but for the warnings
            self.inner = faiss.ProductQuantizer(rotation.d_in, rotation.M, 8)
            self.inner.cp.min_points_per_centroid = 1
            rotation.pq = self.inner

    def fit(self, x: np.ndarray, seed: int) -> None:
        """See :class:`Coder`."""
        for one in (self.quantizer, *(self.quantizer.subquantizer(i) for i in range(getattr(self.quantizer, "nsplits", 0)))):
            if hasattr(one, "cp"):
                one.cp.seed += seed
                one.cp.min_points_per_centroid = 1  # faiss only warns of fewer than 39, thousands of times
            if hasattr(one, "random_seed"):
                one.random_seed += seed
        if self.rotation is not None:
            self.rotation.train(x)
            x = self.rotation.apply(x)
        self.quantizer.train(x)
        self.codes = self.quantizer.compute_codes(x)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """See :class:`Coder`."""
        found = self.quantizer.decode(self.codes[ids])
        return np.asarray(found if self.rotation is None else self.rotation.reverse_transform(found))


def _most_blocks(dim: int, most: int) -> int:
    """The most blocks of equal width, at most so many; 0 where there is none."""
    return max((blocks for blocks in range(1, min(most, dim) + 1) if dim % blocks == 0), default=0)


def _blocks(rows: int, dim: int, budget: int, *, method: str) -> Iterator[Try]:
    """Product quantizers, behind a rotation or not; of those with as many blocks the one with the most bits."""
    rotated = method == "opq"
    side = _FLOAT * dim * dim if rotated else 0
    seen = set()
    for bits in reversed(BITS[method]):
        books = _FLOAT * dim << bits
        blocks = _most_blocks(dim, int(8 * (budget - side - books) / (rows * bits)))
        payload = rows * ((blocks * bits + 7) // 8) + side + books
        if blocks and blocks not in seen and payload <= budget and 1 << bits <= rows:
            seen.add(blocks)

            def make(blocks: int = blocks, bits: int = bits) -> Coder:
                rotation = faiss.OPQMatrix(dim, blocks) if rotated else None
                return Faiss(faiss.ProductQuantizer(dim, blocks, bits), rotation)

            yield Try(f"{blocks} x {1 << bits}", payload, make)


def _additive(rows: int, dim: int, budget: int, *, method: str) -> Iterator[Try]:
    """Residual, local-search and product-residual quantizers; the last has two halves, and codebooks of half the width."""
    kinds: dict[str, Callable[[int, int], Any]] = {
        "rq": lambda books, bits: faiss.ResidualQuantizer(dim, books, bits),
        "lsq": lambda books, bits: faiss.LocalSearchQuantizer(dim, books, bits),
        "prq": lambda books, bits: faiss.ProductResidualQuantizer(dim, 2, books // 2, bits),
    }
    halves = 2 if method == "prq" else 1
    if dim % halves:
        return
    for bits in BITS[method]:
        book = _FLOAT * (dim // halves) << bits
        books = min(MOST_BOOKS[method], int(budget / (rows * bits / 8 + book)))
        while books >= 1 and (books % halves or rows * ((books * bits + 7) // 8) + books * book > budget):
            books -= 1
        affordable = method != "lsq" or books**2 * (1 << bits) * rows <= MOST_LSQ_WORK
        if books >= 1 and 1 << bits <= rows and affordable:
            payload = rows * ((books * bits + 7) // 8) + books * book

            def make(books: int = books, bits: int = bits) -> Coder:
                return Faiss(kinds[method](books, bits))

            yield Try(f"{books} x {1 << bits}", payload, make)


def _scalar(rows: int, dim: int, _: None, *, bits: int) -> Iterator[Try]:
    """A step of its own for every column: its least value and its width are stored."""
    payload = rows * ((dim * bits + 7) // 8) + 2 * _FLOAT * dim
    yield Try(f"{bits} bits", payload, lambda: Faiss(faiss.ScalarQuantizer(dim, SCALARS[bits])))


# Product quantizers by SciPy -----------------------------------------------------------------------------------------


class Blocks:
    """k-means by SciPy in each block of columns.

    As nanopq 0.2.2, ``nanopq/pq.py`` (20 iterations from seed 123; codebooks equal bit for bit), and compress-fasttext
    0.1.5, ``compress_fasttext/pq_encoder_light.py`` and ``quantization.py`` (5 iterations).
    """

    def __init__(self, blocks: int, codewords: int, iterations: int) -> None:
        self.blocks, self.codewords, self.iterations = blocks, codewords, iterations

    def fit(self, x: np.ndarray, seed: int) -> None:
        """See :class:`Coder`."""
        random = np.random.RandomState(123 + seed)
        parts = np.split(x, self.blocks, axis=1)
        made = [kmeans2(part, self.codewords, iter=self.iterations, minit="points", seed=random)[0] for part in parts]
        self.books = np.stack(made).astype(np.float32)
        self.codes = np.stack([vq(part, book)[0] for part, book in zip(parts, self.books, strict=True)], axis=1)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """See :class:`Coder`."""
        return np.asarray(self.books[np.arange(self.blocks), self.codes[ids]].reshape(len(ids), -1))


def _scipy_blocks(
    rows: int, dim: int, budget: int | None, *, sizes: tuple[int, ...], iterations: int, blocks: int | None = None
) -> Iterator[Try]:
    """Product quantizers by SciPy; ``blocks`` of them where their number is fixed."""
    for size in sizes:
        books, bits = _FLOAT * dim * size, (size - 1).bit_length()
        count = blocks or _most_blocks(dim, int(8 * ((budget or 0) - books) / (rows * bits)))
        payload = rows * ((count * bits + 7) // 8) + books
        if count and dim % count == 0 and size < rows and (budget is None or payload <= budget):
            yield Try(f"{count} x {size}", payload, functools.partial(Blocks, count, size, iterations))


# model2vec -----------------------------------------------------------------------------------------------------------


def _number_format(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.float32]:
    """Numbers in float16 or int8, and what they are multiplied by: model2vec 0.10.0, ``model2vec/quantization.py``.

    model2vec throws the factor of int8 away, since a cosine does not need it; an error does: here it is kept and counted.
    """
    if kind == "float16":
        return x.astype(np.float16), np.float32(1)
    scale = np.max(np.abs(x)) / np.float32(127)
    steps = x.astype(np.float16)
    np.divide(steps, scale, out=steps)  # rounded to float16 before it is rounded to a whole number
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), np.float32(scale)


class Numbers:
    """The table in int8, or its principal components in float16 or int8: model2vec 0.10.0, ``distill/inference.py``."""

    def __init__(self, kind: str, columns: int | None = None) -> None:
        self.kind, self.columns = kind, columns

    def fit(self, x: np.ndarray, seed: int) -> None:
        """See :class:`Coder`."""
        self.axes = None
        if self.columns is not None:
            self.mean = x.mean(axis=0)
            centred = x - self.mean
            _, axes = np.linalg.eigh(centred.T @ centred / (len(x) - 1))
            self.axes = np.ascontiguousarray(axes[:, ::-1][:, : self.columns].T)
            x = centred @ self.axes.T
        self.stored, self.scale = _number_format(x, self.kind)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """See :class:`Coder`."""
        found = self.stored[ids].astype(np.float32) * self.scale
        return np.asarray(found if self.axes is None else found @ self.axes + self.mean)


class Clusters:
    """A cluster of directions and a norm for each row: model2vec 0.10.0, ``model2vec/vocabulary_quantization.py``."""

    def __init__(self, count: int) -> None:
        self.count = count

    def fit(self, x: np.ndarray, seed: int) -> None:
        """See :class:`Coder`."""
        self.norms = np.linalg.norm(x, axis=1) + np.float32(1e-32)
        found = KMeans(n_clusters=self.count, random_state=42 + seed, init="random").fit(x / self.norms[:, None])
        self.centres = found.cluster_centers_.astype(np.float16)
        self.clusters = found.labels_

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """See :class:`Coder`."""
        return np.asarray(self.centres[self.clusters[ids]].astype(np.float32) * self.norms[ids, None])


def _int8(rows: int, dim: int, _: None) -> Iterator[Try]:
    yield Try("int8", rows * dim + _FLOAT, lambda: Numbers("int8"))


def _components(rows: int, dim: int, budget: int) -> Iterator[Try]:
    """As many principal components as fit, with their axes and the mean."""
    for kind, width, side in (("float16", 2, 0), ("int8", 1, _FLOAT)):
        side += _FLOAT * dim
        columns = min(dim, (budget - side) // (rows * width + _FLOAT * dim))
        if columns >= 1:
            payload = columns * (rows * width + _FLOAT * dim) + side
            yield Try(f"{columns} components, {kind}", payload, functools.partial(Numbers, kind, columns))


def _clusters(rows: int, dim: int, budget: int) -> Iterator[Try]:
    """As many clusters as fit: float16 centres, and for each row a number of 32 bits and a float32 norm, as in its file."""
    count = min(MOST_CLUSTERS, rows - 1, (budget - 8 * rows) // (2 * dim))
    if count >= 2:
        yield Try(f"{count} clusters", 8 * rows + 2 * dim * count, functools.partial(Clusters, count))


# All of them ---------------------------------------------------------------------------------------------------------


def _all() -> Iterator[Peer]:
    scipy = f"scipy {importlib.metadata.version('scipy')}"
    learn = f"scikit-learn {importlib.metadata.version('scikit-learn')}"
    own = str(faiss.__version__)
    for method in BITS:
        kind = _blocks if method in ("pq", "opq") else _additive
        yield Peer("faiss", method, own, functools.partial(kind, method=method))
    for bits in SCALARS:
        yield Peer("faiss", f"sq{bits}", own, functools.partial(_scalar, bits=bits), fixed=True, seeded=False)
    by_scipy = functools.partial(_scipy_blocks, iterations=20)
    yield Peer("nanopq", "pq", f"0.2.2 by {scipy}", functools.partial(by_scipy, sizes=(16, 256)))
    # staticvectors 0.2.0, converter/base.py: nanopq with its defaults; 10 is what its published GloVe has.
    ten = functools.partial(by_scipy, sizes=(256,), blocks=10)
    yield Peer("staticvectors", "pq", f"0.2.0 by {scipy}", ten, fixed=True, seeded=False)
    light = functools.partial(_scipy_blocks, sizes=(255,), iterations=5)
    yield Peer("compress-fasttext", "pq", f"0.1.5 by {scipy}", light)
    yield Peer("model2vec", "int8", "0.10.0", _int8, fixed=True, seeded=False)
    yield Peer("model2vec", "pca", "0.10.0", _components, seeded=False)
    yield Peer("model2vec", "clusters", f"0.10.0 by {learn}", _clusters)


PEERS = {peer.name: peer for peer in _all()}
