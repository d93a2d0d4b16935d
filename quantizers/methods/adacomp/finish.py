"""The end of an AdaComp fit that the paper does not have: codes that are searched for, and decoders by least squares.

A file holds the bits of each row and the decoders, and not the encoder that found the bits. Nothing ties a bit to the sign
of a projection once training is over: with the code-books' decoders as additive codebooks of two words each, local search
finds bits that rebuild a row better, and least squares the decoders that suit them
(:mod:`quantizers.fitting.local_search`). Where a size is given, rows are then given code-books anew by what each has for
them, and all of it is done again.

Shapes: N rows, D columns, C code-books, n_k bits of code-book k, T = sum of all n_k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantizers.fitting.local_search import icm_encode, refine, squared_errors
from quantizers.methods.adacomp.selection import allocate

_PASSES = 3
_ROUNDS = 4
_SWEEPS = 2


def finish(
    vectors: Tensor,
    books: Tensor,
    codes: Tensor,
    code_lengths: Sequence[int],
    *,
    weights: Tensor | None,
    max_bits: int | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Search for codes and solve for decoders, from what training left.

    Args:
        vectors: (N, D) divided by the table's unit.
        books: (N,) int64 code-book of each row.
        codes: (N, T) bool, bits of every row in every code-book.
        code_lengths: n_k.
        weights: (N,) of mean 1, or None.
        max_bits: of all rows together; None keeps the rows in the code-books they are in.
        generator: a CPU generator.

    Returns:
        books (N,), codes (N, T) bool, decoder (T, D) and bias (C, D), for codes of 0 and 1.
    """
    bounds = [0, *torch.tensor(code_lengths).cumsum(0).tolist()]
    parts = [slice(first, last) for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
    codes = codes.clone()
    decoder = vectors.new_zeros(bounds[-1], vectors.shape[1])
    bias = vectors.new_zeros(len(parts), vectors.shape[1])
    passes = 1 if max_bits is None or len(parts) == 1 else _PASSES
    for done in range(passes):
        costs = vectors.new_full((len(vectors), len(parts)), float("inf"))
        for book, part in enumerate(parts):
            members = (books == book).nonzero()[:, 0]
            if not len(members):
                continue
            own = None if weights is None else weights[members]
            if own is not None:
                own = own / own.mean() if float(own.mean()) > 0 else None
            start = codes[members, part].to(torch.uint8)
            for found in refine(vectors[members], start, 2, rounds=_ROUNDS, generator=generator, weights=own):
                best = found
            codes[members, part] = best.codes.bool()
            decoder[part] = best.codebooks[:, 1] - best.codebooks[:, 0]
            bias[book] = best.codebooks[:, 0].sum(dim=0)
            if done + 1 < passes:
                everywhere = icm_encode(vectors, codes[:, part].to(torch.uint8), best.codebooks, sweeps=_SWEEPS)
                codes[:, part] = everywhere.bool()
                costs[:, book] = squared_errors(vectors, everywhere, best.codebooks)
        if done + 1 < passes and max_bits is not None:
            costs = costs.nan_to_num(posinf=2 * float(costs[costs.isfinite()].max()) + 1.0)  # a code-book of no rows
            books = allocate(costs if weights is None else costs * weights[:, None], code_lengths, max_bits)
    return books, codes, decoder, bias
