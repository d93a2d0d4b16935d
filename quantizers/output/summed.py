"""The softmax of a table whose rows are sums of codewords, by sums of products with codewords.

Shapes: B positions, N rows (words), M codes a row, K codewords a codebook, R rows of the table of products.

What makes it fast: the products stand in a table (R, B), of which a word's logits are the sum of M rows. Small codebooks are
joined first, so that fewer rows are added. Positions are taken some at a time, so that their products stay in the
processor's cache. The softmax keeps ``exp(logit - largest)``; its gradient then needs only sums of those over the words that
share a codeword, the same operation with the words sorted by codeword, and no pass over (N, B) of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from quantizers.output.rebuilt import softmax_in_place

_TILE = 128  # positions at a time
_JOINED = 1024  # codewords of joined codebooks, at the most


@runtime_checkable
class SumOfCodewords(Protocol):
    """A quantizer whose rows are sums of codewords, one of each codebook."""

    def codeword_products(self, hidden: Tensor) -> Tensor:
        """Inner products of hidden (B, D) float32 with every codeword.

        Returns:
            (M, K, B) float32: the inner product with row n is the sum over m of ``[m, codes[n, m]]``. Differentiable in
            ``hidden`` and the codewords.
        """


def joined(num_codebooks: int, codebook_size: int, num_embeddings: int) -> int:
    """How many codebooks are made one: as many as leave the joined one small beside the table."""
    count, most = 1, min(_JOINED, num_embeddings // 4)
    while count < num_codebooks and codebook_size ** (count + 1) <= most:
        count += 1
    return count


def _groups(num_codebooks: int, together: int) -> list[tuple[int, int, int]]:
    """First codebook, number and codebooks of the joined codebooks: of those that are whole, and of what is left."""
    whole = num_codebooks // together
    left = num_codebooks - whole * together
    return [(0, whole, together), *([(whole * together, 1, left)] if left else [])]


def join(products: Tensor, together: int) -> Tensor:
    """Products (M, K, B) as the table (R, B) of the joined codebooks: sums of one product of each."""
    parts = []
    for first, groups, size in _groups(len(products), together):
        books = products[first : first + groups * size].reshape(groups, size, *products.shape[1:])
        table = books[:, 0]
        for place in range(1, size):
            table = (table[:, :, None] + books[:, place, None]).flatten(1, 2)
        parts.append(table.flatten(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Which rows of the table of products make which word, and back.

    Attributes:
        rows: (N, M') int32, the rows that a word's logit is the sum of.
        words: (N * M',) int32, the words that read a row, row by row.
        starts: (R,) int32, where each row's words begin.
    """

    rows: Tensor
    words: Tensor
    starts: Tensor

    @classmethod
    def of(cls, codes: Tensor, codebook_size: int, together: int) -> Layout:
        """Of codes (N, M), so many codebooks joined."""
        columns, offset = [], 0
        for first, groups, size in _groups(codes.shape[1], together):
            books = codes[:, first : first + groups * size].reshape(len(codes), groups, size)
            number = books[:, :, 0]
            for place in range(1, size):
                number = number * codebook_size + books[:, :, place]
            each = codebook_size**size
            columns.append(number + torch.arange(groups, device=codes.device) * each + offset)
            offset += groups * each
        rows = torch.cat(columns, dim=1)
        order = torch.argsort(rows.flatten(), stable=True)
        counts = torch.bincount(rows.flatten(), minlength=offset)
        starts = counts.cumsum(0) - counts
        return cls(rows.int(), (order // rows.shape[1]).int(), starts.int())

    def sum_rows(self, table: Tensor) -> Tensor:
        """(R, B) -> (N, B): every word's sum of its rows."""
        return functional.embedding_bag(self.rows, table, mode="sum")

    def sum_words(self, values: Tensor) -> Tensor:
        """(N, B) -> (R, B): every row's sum over the words that read it."""
        return functional.embedding_bag(self.words, values, self.starts, mode="sum")


class _SummedLogits(torch.autograd.Function):
    """Logits (N, B) of a table of products (R, B)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return layout.sum_rows(table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.layout.sum_words(gradients[0].contiguous()), None


class _SummedSoftmax(torch.autograd.Function):
    """Cross-entropy (B,) of a table of products (R, B), a bias (N,) and targets (B,)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, layout: Layout, bias: Tensor | None, targets: Tensor) -> Tensor:
        losses, kept = [], []
        for part, wanted in zip(torch.split(table, _TILE, dim=1), torch.split(targets, _TILE), strict=True):
            scores = layout.sum_rows(part.contiguous())
            found, sums = softmax_in_place(scores, bias, wanted)
            losses.append(found)
            kept += [scores, sums]
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
            ctx.layout, ctx.num_rows = layout, len(table)
            ctx.save_for_backward(targets, *kept)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
        targets, *kept = ctx.saved_tensors
        gradient, layout = gradients[0], ctx.layout
        parts, bias = [], None
        if ctx.needs_input_grad[2]:
            bias = torch.zeros(len(layout.rows), device=gradient.device).index_add_(0, targets, -gradient)
        for scores, sums, wanted, own in zip(
            kept[::2], kept[1::2], torch.split(targets, _TILE), torch.split(gradient, _TILE), strict=True
        ):
            scale = own / sums
            part = layout.sum_words(scores).mul_(scale)
            here = torch.arange(len(own), device=own.device)[:, None]
            rows = layout.rows[wanted].long()
            parts.append(part.index_put_((rows, here), -own[:, None].expand_as(rows), accumulate=True))
            if bias is not None:
                bias.addmv_(scores, scale)
        return torch.cat(parts, dim=1), None, bias, None


summed_logits = cast(Callable[..., Tensor], _SummedLogits.apply)
summed_losses = cast(Callable[..., Tensor], _SummedSoftmax.apply)
