"""The softmax of a compressed output table whose rows are no sums of codewords: they are rebuilt some at a time.

Shapes: B positions, D columns of hidden states and table, N rows (words).

The backward pass rebuilds them once more, so that neither pass holds more of the table than those rows. A module that draws
noise while it is trained draws the same noise both times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from quantizers.embedding import CompressedEmbedding
from quantizers.learned import LearnedEmbedding

_ROWS = 2048  # at a time


def rebuilt_logits(embedding: CompressedEmbedding, hidden: Tensor) -> Tensor:
    """Logits (N, B) of hidden states (B, D), differentiable in these and in what the table trains."""
    return _logits(_Blocks(embedding), hidden, *_trained(embedding))


def rebuilt_losses(embedding: CompressedEmbedding, hidden: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Cross-entropy (B,) of hidden states (B, D) and targets (B,), a bias (N,) added to the logits."""
    return _losses(_Blocks(embedding), hidden, bias, targets, *_trained(embedding))


def softmax_in_place(logits: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy (B,) of logits (N, B), which become ``exp(logit - largest)``, and the sums (B,) of those."""
    if bias is not None:
        logits += bias[:, None]
    wanted = logits.gather(0, targets[None])[0]
    largest = logits.amax(dim=0)
    sums = logits.sub_(largest).exp_().sum(dim=0)
    return largest + sums.log() - wanted, sums


def _trained(embedding: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in embedding.parameters() if parameter.requires_grad]


class _Blocks:
    """A table's rows, some at a time; who reads them again reads the same."""

    def __init__(self, embedding: CompressedEmbedding) -> None:
        self._embedding = embedding
        self._noisy = [module for module in embedding.modules() if isinstance(module, LearnedEmbedding)]
        self._draws = [module.draws for module in self._noisy]

    def _read(self, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
        """Places in the table, and the rows there."""
        now = [module.draws for module in self._noisy]
        for module, draws in zip(self._noisy, self._draws, strict=True):
            module.draws = draws
        count = self._embedding.num_embeddings
        for start in range(0, count, _ROWS):
            part = slice(start, min(start + _ROWS, count))
            yield part, self._embedding(torch.arange(part.start, part.stop, device=device)).float()
        for module, draws in zip(self._noisy, now, strict=True):
            module.draws = max(draws, module.draws)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, B), without a gradient."""
        out = hidden.new_empty(self._embedding.num_embeddings, len(hidden))
        turned = hidden.T.contiguous()
        for part, rows in self._read(hidden.device):
            torch.mm(rows, turned, out=out[part])
        return out

    def gradients(self, hidden: Tensor, of_logits: Callable[[slice], Tensor]) -> tuple[Tensor | None, ...]:
        """Of the hidden states (B, D), and of each parameter that the table trains.

        Args:
            hidden: (B, D).
            of_logits: gives the gradient (rows, B) of the logits at some places.
        """
        trained = _trained(self._embedding)
        of_hidden = torch.zeros_like(hidden)
        of_trained: list[Tensor | None] = [None] * len(trained)
        with torch.set_grad_enabled(bool(trained)):
            for part, rows in self._read(hidden.device):
                gradient = of_logits(part)
                with torch.no_grad():
                    of_hidden.addmm_(gradient.T, rows)
                if rows.requires_grad:
                    own = torch.autograd.grad(rows, trained, gradient @ hidden, allow_unused=True)
                    of_trained = [
                        old if new is None else new if old is None else old + new
                        for old, new in zip(of_trained, own, strict=True)
                    ]
        return of_hidden, *of_trained


class _RebuiltLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blocks: _Blocks, hidden: Tensor, *trained: Tensor) -> Tensor:
        ctx.blocks = blocks
        ctx.save_for_backward(hidden)
        return blocks.logits(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (hidden,) = ctx.saved_tensors
        return None, *ctx.blocks.gradients(hidden, lambda part: gradients[0][part])


class _RebuiltSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blocks: _Blocks, hidden: Tensor, bias: Tensor | None, targets: Tensor, *trained: Tensor) -> Tensor:
        scores = blocks.logits(hidden)
        losses, sums = softmax_in_place(scores, bias, targets)
        ctx.blocks = blocks
        ctx.save_for_backward(hidden, targets, scores, sums)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, scores, sums = ctx.saved_tensors
        (own,) = gradients
        scale = own / sums
        bias = (scores @ scale).index_add_(0, targets, -own) if ctx.needs_input_grad[2] else None

        def of_logits(part: slice) -> Tensor:
            gradient: Tensor = scores[part] * scale
            here = ((targets >= part.start) & (targets < part.stop)).nonzero()[:, 0]
            gradient[targets[here] - part.start, here] -= own[here]
            return gradient

        of_hidden, *of_trained = ctx.blocks.gradients(hidden, of_logits)
        return None, of_hidden, bias, None, *of_trained


_logits = cast(Callable[..., Tensor], _RebuiltLogits.apply)
_losses = cast(Callable[..., Tensor], _RebuiltSoftmax.apply)
