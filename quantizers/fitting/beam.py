"""Beam search for additive codes: book after book, the best few sums of codewords are kept for every row.

Papers: Babenko & Lempitsky 2014; Liu et al. 2015 (multi-path encoding). With a beam of 1 it is the greedy residual search,
with one of K**M exhaustive.

A hypothesis e (a choice of codewords so far, with sum s_e) is followed by codeword k at the error
|x - s_e - c_k|^2 = |x - s_e|^2 - 2 (x . c_k - s_e . c_k - |c_k|^2 / 2). Within a block of books s_e . c_k is a sum of inner
products of codewords, read from tables; from one block to the next, residuals are computed anew, so that rounding errors do
not pile up over many books.

Shapes: N rows, D columns, M books, K codewords a book, B hypotheses a row, T books a block.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

_TABLE_VALUES = 1 << 24  # inner products of codewords held at once: 64 MB
_MAX_BLOCK = 64
_SCORES_CPU = 1 << 19  # 2 MB stay in the cache
_SCORES_CUDA = 1 << 26


@dataclasses.dataclass(frozen=True)
class Books:
    """Codebooks made ready for a search, one block of them.

    Attributes:
        directions: T tensors (D, K), the codewords as columns.
        offsets: T tensors (K,), -|c|^2 / 2.
        products: T tensors (t * K, K): inner products of the codewords of books 0 .. t-1 with those of book t.
        flat: (T * K, D), the codewords of all books.
    """

    directions: list[Tensor]
    offsets: list[Tensor]
    products: list[Tensor]
    flat: Tensor

    @classmethod
    def of(cls, books: Tensor) -> Books:
        """Prepare ``books`` (T, K, D)."""
        flat = books.reshape(-1, books.shape[2])
        directions = [book.T.contiguous() for book in books]
        offsets = [-0.5 * book.square().sum(dim=1) for book in books]
        products = [flat[: number * books.shape[1]] @ columns for number, columns in enumerate(directions)]
        return cls(directions, offsets, products, flat)


def blocks(books: Tensor) -> list[Books]:
    """Cut ``books`` (M, K, D) into blocks whose tables of inner products take a bounded amount of memory."""
    num_books, num_codewords, _ = books.shape
    affordable = 2 * _TABLE_VALUES // (num_books * num_codewords**2)
    return [Books.of(part) for part in torch.split(books, max(1, min(_MAX_BLOCK, affordable)))]


def rows_at_once(books: Tensor, beam_size: int, device: torch.device) -> int:
    """Rows of a chunk of the search, such that its scores stay in the cache."""
    held = _SCORES_CPU if device.type == "cpu" else _SCORES_CUDA
    return max(16, held // (beam_size * max(books.shape[1], books.shape[2])))


def beam_encode(x: Tensor, books: Tensor, beam_size: int, scale: float = 1.0) -> Tensor:
    """Codes of every row, by beam search over ``books`` in their order.

    Args:
        x: (N, D) float32.
        books: (M, K, D) float32, on the same device. Values should be near 1, that squares neither overflow nor vanish.
        beam_size: hypotheses kept after each book.
        scale: what the rows are divided by to match ``books``.

    Returns:
        (N, M) int32.
    """
    return BeamSearch(books, beam_size)(x, scale)


class BeamSearch:
    """:func:`beam_encode` with the same books for many calls: what follows from the books alone is made once."""

    def __init__(self, books: Tensor, beam_size: int) -> None:
        self._prepared, self._shape, self._beam_size = blocks(books), books.shape, beam_size
        self._step = rows_at_once(books, beam_size, books.device)

    def __call__(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Codes of every row: (N, D) -> (N, M) int32."""
        num_books, num_codewords, _ = self._shape
        codes = torch.empty((len(x), num_books), dtype=torch.int32, device=x.device)
        for start in range(0, len(x), self._step):
            part = x[start : start + self._step] / scale
            codes[start : start + self._step] = _encode_chunk(part, self._prepared, num_codewords, self._beam_size)
        return codes


def _encode_chunk(x: Tensor, prepared: list[Books], num_codewords: int, beam_size: int) -> Tensor:
    num_rows = len(x)
    roots = x  # residuals that the hypotheses of a block start from, (N * B, D)
    kept = torch.empty((num_rows, 0), dtype=torch.int32, device=x.device)  # codes of the blocks before
    error = torch.zeros(num_rows, 0)
    for number, block in enumerate(prepared):
        root = torch.arange(len(roots), device=x.device)
        error = roots.square().sum(dim=1)
        chosen = torch.empty((len(roots), 0), dtype=torch.int32, device=x.device)  # rows of ``flat``
        for book, products in enumerate(block.products):
            scores = torch.addmm(block.offsets[book], roots, block.directions[book])
            if book:
                scores = scores[root].sub_(torch.nn.functional.embedding_bag(chosen, products, mode="sum"))
            scores = scores.sub_(0.5 * error[:, None]).reshape(num_rows, -1, num_codewords)
            parent, code, best = top_scores(scores, beam_size)
            came_from = (parent + scores.shape[1] * torch.arange(num_rows, device=x.device)[:, None]).reshape(-1)
            root = root[came_from]
            follower = (code + book * num_codewords).to(torch.int32).reshape(-1, 1)
            chosen = torch.cat([chosen[came_from], follower], dim=1)
            error = -2 * best.reshape(-1)
        kept = torch.cat([kept[root], chosen % num_codewords], dim=1)
        if number + 1 < len(prepared):
            roots = roots[root] - torch.nn.functional.embedding_bag(chosen, block.flat, mode="sum")
    winner = error.reshape(num_rows, -1).argmin(dim=1)
    return kept.reshape(num_rows, -1, kept.shape[1])[torch.arange(num_rows, device=x.device), winner]


def top_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` best followers of each row's hypotheses (all of them, where there are fewer).

    Args:
        scores: (N, B, K) float32; overwritten.
        count: how many to find.

    Returns:
        For each row hypothesis (N, C) int64, codeword (N, C) int64 and score (N, C), the best first.
    """
    num_rows, num_hypotheses, num_codewords = scores.shape
    count = min(count, num_hypotheses * num_codewords)
    if scores.device.type != "cpu":
        best, index = scores.reshape(num_rows, -1).topk(count, dim=1)
        return index // num_codewords, index % num_codewords, best
    # torch's topk is several times slower on the CPU than NumPy's argmax, which is vectorized, once for each.
    values = scores.numpy().reshape(num_rows, -1)
    flat, first = values.reshape(-1), np.arange(num_rows) * values.shape[1]
    found, found_scores = np.empty((num_rows, count), np.int64), np.empty((num_rows, count), np.float32)
    for place in range(count):
        found[:, place] = values.argmax(axis=1)
        position = first + found[:, place]
        found_scores[:, place] = flat.take(position)
        flat[position] = -np.inf
    index = torch.from_numpy(found)
    return index // num_codewords, index % num_codewords, torch.from_numpy(found_scores)
