"""Finishing of additive codes without gradients: least squares for the codebooks, local and beam search for the codes.

Papers: Babenko & Lempitsky 2014 (additive quantization, least squares and beam search); Martinez et al. 2016 and 2018 (LSQ
and LSQ++: iterated conditional modes within iterated local search). Both steps minimize

    sum_n w_n |x_n - sum_m C_m[code_nm]|^2,

one over C with the codes given (normal equations, solved for all M codebooks at once), the other over the codes with C
given.

Rows are a tensor or :class:`quantizers.fitting.chunks.ShiftedRows`, and are read some at a time: always the same ones, as
sums in another order would round to other codebooks.

Shapes: N rows, D columns, B batch, M num_codebooks, K codebook_size. Codes are integers of any type: uint8 saves
memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from quantizers.additive import sum_codewords
from quantizers.fitting.beam import beam_encode
from quantizers.fitting.chunks import BLOCK_ROWS, ShiftedRows
from quantizers.fitting.kmeans import cluster_sums

_CHUNK_CPU = 1 << 18  # values of a chunk's residuals: a megabyte stays in the cache
_CHUNK_CUDA = 1 << 25
_ROWS = 1 << 20  # values of rebuilt rows held at once
_KEYS = 1 << 21  # pairs of codes counted at once
_DENSE_WORDS = 6144  # codewords up to which the normal equations are written out (300 MB)
_BLOCK = 256  # rows of the equations that are solved at once
_CG_STEPS = 20
_TABLE_SIZE = 256  # words of a codebook up to which all their inner products are made at once
SWEEPS = 3
PERTURBED = 3  # codes of a row that a trial changes at random

Rows = Tensor | ShiftedRows


def squared_errors(vectors: Rows, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Squared error of every row: (N, D), (N, M), (M, K, D) -> (N,) float32."""
    out = torch.empty(len(vectors), device=vectors.device)
    for part in _parts(vectors, _ROWS):
        out[part] = (vectors[part] - sum_codewords(codes[part], codebooks)).square().sum(dim=1)
    return out


def half_mse(vectors: Rows, codes: Tensor, codebooks: Tensor, weights: Tensor | None = None) -> float:
    """Half the mean squared error of a row; ``weights`` (N,) have mean 1."""
    errors = squared_errors(vectors, codes, codebooks)
    if weights is not None:
        errors = errors * weights
    return 0.5 * float(errors.mean(dtype=torch.float64))


def cooccurrences(codes: Tensor, codebook_size: int, weights: Tensor | None = None) -> Tensor:
    """How much weight the rows have in which two codewords meet.

    Args:
        codes: (N, M).
        codebook_size: K.
        weights: (N,), or None for 1 each.

    Returns:
        (M*K, M*K) float64; only the upper triangle is filled in.
    """
    num_rows, num_codebooks = codes.shape
    words = num_codebooks * codebook_size
    out = torch.zeros((num_codebooks, codebook_size, words), dtype=torch.float64, device=codes.device)
    offsets = torch.arange(num_codebooks, dtype=torch.int32, device=codes.device) * codebook_size
    step = max(1, _KEYS // num_codebooks)
    for start in range(0, num_rows, step):
        part = codes[start : start + step].to(torch.int32)
        for book in range(num_codebooks):
            # One key for (word of this book, word of this or a later book): counting them beats sparse products.
            later = num_codebooks - book
            key = part[:, book : book + 1] * (later * codebook_size) + (part[:, book:] + offsets[:later])
            heavy = None
            if weights is not None:
                heavy = weights[start : start + step, None].to(torch.float64).expand_as(key).reshape(-1)
            count = torch.bincount(key.reshape(-1), heavy, minlength=later * codebook_size**2)
            out[book, :, book * codebook_size :] += count.view(codebook_size, -1)
    return out.view(words, words)


def least_squares_codebooks(
    vectors: Rows,
    codes: Tensor,
    codebook_size: int,
    *,
    weights: Tensor | None = None,
    ridge: float = 1e-5,
    start: Tensor | None = None,
) -> Tensor:
    """The codebooks that rebuild ``vectors`` best from ``codes``.

    The normal equations are solved by Cholesky, or, of more than 6,144 codewords, by preconditioned conjugate gradients.

    Args:
        vectors: (N, D) float32.
        codes: (N, M) integers in [0, K).
        codebook_size: K.
        weights: (N,) how much each row's error counts, or None.
        ridge: penalty on the codewords' squared lengths, relative to the mean weight of a codeword. It makes the solution
            unique (codebooks can trade a constant among them); words without rows become zero.
        start: (M, K, D) codebooks near the solution, where conjugate gradients begin; zero where there are none.

    Returns:
        (M, K, D) float32.
    """
    words = codes.shape[1] * codebook_size
    total = float(len(codes) if weights is None else weights.sum()) * codes.shape[1]
    penalty = ridge * total / words
    right = _sums(vectors, codes, codebook_size, weights)
    if words > _DENSE_WORDS:
        solution = _conjugate_gradients(right, codes, codebook_size, weights, penalty, start)
    else:
        gram = cooccurrences(codes, codebook_size, weights)
        gram.diagonal().add_(penalty)
        solution = _cholesky_solve(gram, right.to(torch.float64)).to(torch.float32)
    return solution.view(codes.shape[1], codebook_size, -1)


def _sums(rows: Rows, codes: Tensor, codebook_size: int, weights: Tensor | None) -> Tensor:
    """For every codeword the weighted sum of the rows that have it: (N, D), (N, M) -> (M*K, D)."""
    out = torch.zeros((codes.shape[1], codebook_size, rows.shape[1]), device=rows.device)
    for part in _blocks(len(codes)):
        x, weight = rows[part], None if weights is None else weights[part]
        for book, total in enumerate(out):
            total += cluster_sums(x, codes[part, book].to(torch.int64), codebook_size, weight)[0]
    return out.flatten(0, 1)


def _cholesky_solve(gram: Tensor, right: Tensor) -> Tensor:
    """Solve ``gram @ x = right``, both overwritten: torch's own functions hold three copies of the matrix.

    Args:
        gram: (n, n), symmetric positive definite, of which the upper triangle is read. Becomes U, gram = U^T U.
        right: (n, d). Becomes x.
    """
    starts = range(0, len(gram), _BLOCK)
    for start in starts:
        own, later = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        head = torch.linalg.cholesky(gram[own, own], upper=True)
        gram[own, own] = head
        gram[own, later] = torch.linalg.solve_triangular(head.T, gram[own, later], upper=False)
        right[own] = torch.linalg.solve_triangular(head.T, right[own], upper=False)
        right[later] -= gram[own, later].T @ right[own]
        for row in starts:
            if row > start:
                gram[row : row + _BLOCK, row:] -= gram[own, row : row + _BLOCK].T @ gram[own, row:]
    for start in reversed(starts):
        own, later = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        right[own] -= gram[own, later] @ right[later]
        right[own] = torch.linalg.solve_triangular(gram[own, own], right[own], upper=True)
    return right


def _conjugate_gradients(
    right: Tensor, codes: Tensor, codebook_size: int, weights: Tensor | None, penalty: float, start: Tensor | None
) -> Tensor:
    """The same equations without their matrix; every column of ``right`` (M*K, D) has a search of its own."""
    shape = (codes.shape[1], codebook_size, right.shape[1])

    def image_of(direction: Tensor) -> Tensor:
        out = direction * penalty
        for part in _blocks(len(codes)):
            rebuilt = sum_codewords(codes[part], direction.view(shape))
            out += _sums(rebuilt, codes[part], codebook_size, None if weights is None else weights[part])
        return out

    ones = torch.ones((len(codes), 1), device=right.device)
    diagonal = _sums(ones, codes, codebook_size, weights).add_(penalty)  # how much weight each codeword has: Jacobi's
    solution = torch.zeros_like(right) if start is None else start.reshape(right.shape).clone()
    left = right.clone() if start is None else right - image_of(solution)
    ready = left / diagonal
    direction, norm = ready.clone(), (left * ready).sum(dim=0)
    for _ in range(_CG_STEPS):
        image = image_of(direction)
        step = norm / (direction * image).sum(dim=0).clamp_min(1e-30)
        solution += step * direction
        left -= step * image
        ready = left / diagonal
        old, norm = norm, (left * ready).sum(dim=0)
        direction = ready + norm / old.clamp_min(1e-30) * direction
    return solution


def icm_encode(vectors: Rows, codes: Tensor, codebooks: Tensor, *, sweeps: int = 1) -> Tensor:
    """Iterated conditional modes: each code in turn becomes the best one given the others. No row's error grows.

    Args:
        vectors: (N, D) float32.
        codes: (N, M) where to start.
        codebooks: (M, K, D) float32.
        sweeps: how often all M codes are gone through.

    Returns:
        (N, M) of the type of ``codes``.
    """
    num_codebooks, size, dim = codebooks.shape
    # With the residual r of the codes as they stand, the best code k of a book whose code is j is the argmax over k of
    # (r + c_j) . c_k - |c_k|^2 / 2: one product for r, the rest from a K x K table, made once unless that is too large.
    transposed = codebooks.transpose(1, 2).contiguous()
    offsets = -0.5 * codebooks.square().sum(dim=2)
    tables = torch.baddbmm(offsets[:, None], codebooks, transposed) if size <= _TABLE_SIZE else None
    out = torch.empty_like(codes)
    held = _CHUNK_CPU if vectors.device.type == "cpu" else _CHUNK_CUDA
    for part in _parts(vectors, held * dim // max(dim, size)):
        current = codes[part].T.to(torch.int32).contiguous()
        residual = vectors[part] - sum_codewords(codes[part], codebooks)
        for book in list(range(num_codebooks)) * sweeps:
            old = current[book]
            if tables is not None:
                scores = tables[book].index_select(0, old).addmm_(residual, transposed[book])
            else:
                own = residual + codebooks[book].index_select(0, old)
                scores = torch.addmm(offsets[book], own, transposed[book])
            new = _argmax(scores).to(torch.int32)
            moved = torch.nonzero(new != old).flatten()
            if len(moved):
                words = codebooks[book]
                step = words.index_select(0, old[moved]) - words.index_select(0, new[moved])
                residual.index_add_(0, moved, step)
                current[book] = new
        out[part] = current.T
    return out


def search_encode(vectors: Tensor, codebooks: Tensor, *, beam: int = 4, trials: int = 16) -> Tensor:
    """Codes of vectors that have none yet: beam search, then :func:`perturbed_encode`.

    Args:
        vectors: (N, D) float32.
        codebooks: (M, K, D) float32.
        beam: see :func:`quantizers.fitting.beam.beam_encode`.
        trials: how often every row tries to leave its local minimum.

    Returns:
        (N, M) int32; the codes of a row do not depend on the rows it comes with.
    """
    # The beam takes the codebooks that move a row most first, and sees each without its mean, which comes in any case.
    means = codebooks.mean(dim=1, keepdim=True)
    order = (codebooks - means).square().sum(dim=(1, 2)).argsort(descending=True, stable=True)
    first = beam_encode(vectors - means.sum(dim=(0, 1)), (codebooks - means)[order], beam)
    codes = icm_encode(vectors, first[:, order.argsort()], codebooks, sweeps=SWEEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(trials):
        codes = perturbed_encode(vectors, codes, codebooks, generator=generator)
    return codes


def perturbed_encode(
    vectors: Rows, codes: Tensor, codebooks: Tensor, *, generator: torch.Generator, sweeps: int = SWEEPS
) -> Tensor:
    """One trial of iterated local search: some codes at random, then ICM; a row keeps the result if it is better.

    Args:
        vectors: (N, D) float32.
        codes: (N, M) where to start.
        codebooks: (M, K, D) float32.
        generator: a CPU generator.
        sweeps: of :func:`icm_encode`.

    Returns:
        (N, M) of the type of ``codes``.
    """
    num_codebooks, size, _ = codebooks.shape
    # The same books and steps for all rows: a row's codes then do not depend on the rows it comes with.
    books = torch.randperm(num_codebooks, generator=generator)[: max(1, min(PERTURBED, num_codebooks // 2))]
    steps = torch.randint(1, size, books.shape, generator=generator, dtype=torch.int32)
    out = codes.clone()
    for part in _blocks(len(codes)):
        x, own = vectors[part], out[part]
        start = own.clone()
        start[:, books] = ((start[:, books].to(torch.int32) + steps.to(codes.device)) % size).to(codes.dtype)
        trial = icm_encode(x, start, codebooks, sweeps=sweeps)
        better = squared_errors(x, trial, codebooks) < squared_errors(x, own, codebooks)
        out[part] = torch.where(better[:, None], trial, own)
    return out


@dataclasses.dataclass(frozen=True)
class Refined:
    """A round of :func:`refine`: codes (N, M), codebooks (M, K, D), and their half squared error."""

    codes: Tensor
    codebooks: Tensor
    half_mse: float


def refine(
    vectors: Rows,
    codes: Tensor,
    codebook_size: int,
    *,
    rounds: int,
    generator: torch.Generator,
    sweeps: int = SWEEPS,
    weights: Tensor | None = None,
    plain: int = 2,
) -> Iterator[Refined]:
    """Alternate least squares for the codebooks and local search for the codes.

    Args:
        vectors: (N, D) float32; their squares must neither overflow nor vanish.
        codes: (N, M) where to start.
        codebook_size: K.
        rounds: how often the rows are encoded anew.
        generator: a CPU generator.
        sweeps: of :func:`icm_encode`, a round.
        weights: (N,) of mean 1, or None.
        plain: rounds without random changes, which the first ones do not need to fall.

    Yields:
        rounds + 1 results, the first with the codes as they were given; the error never grows.
    """
    codebooks = None
    for done in range(rounds + 1):
        codebooks = least_squares_codebooks(vectors, codes, codebook_size, weights=weights, start=codebooks)
        yield Refined(codes, codebooks, half_mse(vectors, codes, codebooks, weights))
        if done < min(rounds, plain):
            codes = icm_encode(vectors, codes, codebooks, sweeps=sweeps)
        elif done < rounds:
            codes = perturbed_encode(vectors, codes, codebooks, generator=generator, sweeps=sweeps)


def _argmax(scores: Tensor) -> Tensor:
    if scores.device.type == "cpu" and scores.shape[1] >= 64:
        return torch.from_numpy(scores.numpy().argmax(axis=1))  # several times faster than torch's for long rows
    return scores.max(dim=1).indices  # and this for short ones


def _blocks(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, BLOCK_ROWS):
        yield slice(start, start + BLOCK_ROWS)


def _parts(vectors: Rows, held: int) -> Iterator[slice]:
    """Consecutive rows that hold about ``held`` values."""
    step = max(64, held // vectors.shape[1])
    for start in range(0, len(vectors), step):
        yield slice(start, start + step)
