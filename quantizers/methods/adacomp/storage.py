"""What AdaComp is asked for, and what it stores: parameters, bytes, bits without gaps.

Shapes: N rows, D columns, C code-books, T bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from quantizers.coding.bits import bits_for, row_bytes
from quantizers.coding.codebooks import CodebookDtype, check_stored, stored_bytes
from quantizers.coding.streams import pack_flat
from quantizers.errors import InputError
from quantizers.values import QuantizerConfig, Skip, StorageCost

_MEAN_LENGTH = 0.8  # of the longest code-book's length, at a budget
_MAX_BITS_A_COLUMN = 16


class AdaCompConfig(QuantizerConfig):
    """Parameters of AdaComp.

    Attributes:
        code_lengths: bits of each code-book, 1 to 16 code-books.
        tau, final_tau: temperature of the Gumbel-softmax at the start and at the end of a training.
        balance: weight of the load term, see :mod:`quantizers.methods.adacomp.selection`; 0 is the paper's loss.
        epochs: passes over the table in pretraining; None for 200 to 3,000 steps by the size of table and codes.
        batch_size: rows a step (the paper's is 64).
        learning_rate: of Adam, for the table divided by its unit; the autoencoders' is in proportion to their weights.
        orthogonality: lambda of equation 7.
        code_values: codes are 0 and 1, or -1 and 1 (footnote 2).
        codebook_dtype: what the decoders are stored in, int8 with a float16 factor for each bit; b' is float32 always.
        max_payload_bytes: what the result may take; None leaves the size to the selector.
        limit: what a size is kept by. ``error``: rows are given code-books by their errors. ``selector``: a rate term in
            every loss teaches the selector to keep it.
        train_input: whether a training with a task also trains the vectors that codes are made of. They are not stored.
        finish: end with a search for better bits, and least squares: not the paper's, see
            :mod:`quantizers.methods.adacomp.finish`.
    """

    code_lengths: tuple[int, ...] = (128, 64, 32, 16)
    tau: float = Field(default=1.0, gt=0)
    final_tau: float = Field(default=0.1, gt=0)
    balance: float = Field(default=0.6, ge=0)
    epochs: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    orthogonality: float = Field(default=0.01, ge=0)
    code_values: Literal["01", "pm1"] = "01"
    codebook_dtype: CodebookDtype = "float32"
    max_payload_bytes: int | None = Field(default=None, ge=1)
    limit: Literal["error", "selector"] = "error"
    train_input: bool = True
    finish: bool = False

    @field_validator("code_lengths")
    @classmethod
    def _lengths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not 1 <= len(value) <= 16 or not all(1 <= bits <= 8192 for bits in value):
            raise ValueError("code_lengths must be 1 to 16 numbers of bits, each 1 to 8192")
        return value


def decoder_bytes(config: Any, embedding_dim: int) -> int:
    """Decoders W_k and biases b'_k of all code-books."""
    weights = stored_bytes(sum(config.code_lengths), embedding_dim, config.codebook_dtype)
    return weights + 4 * embedding_dim * len(config.code_lengths)


def selector_bytes(config: Any, num_embeddings: int) -> int:
    """The code-book of every row; nothing where there is only one."""
    count = len(config.code_lengths)
    return row_bytes(num_embeddings, bits_for(count)) if count > 1 else 0


def fixed_bytes(config: Any, shape: tuple[int, int]) -> int:
    """All but the codes."""
    return decoder_bytes(config, shape[1]) + selector_bytes(config, shape[0])


def most_bytes(config: Any, shape: tuple[int, int]) -> StorageCost:
    """An upper bound: every row in the longest code-book, or ``max_payload_bytes``."""
    codebook, side = decoder_bytes(config, shape[1]), selector_bytes(config, shape[0])
    codes = row_bytes(shape[0] * max(config.code_lengths), 1)
    if config.max_payload_bytes is not None:
        least = row_bytes(shape[0] * min(config.code_lengths), 1)
        codes = max(least, min(codes, config.max_payload_bytes - codebook - side))
    return StorageCost(codes, codebook, side, exact=False)


def too_few_bytes(config: Any, shape: tuple[int, int]) -> Skip | None:
    """Why ``max_payload_bytes`` holds not even every row in the shortest code-book, or None where it does."""
    least = row_bytes(shape[0] * min(config.code_lengths), 1) + fixed_bytes(config, shape)
    if config.max_payload_bytes is not None and config.max_payload_bytes < least:
        return Skip(f"max_payload_bytes {config.max_payload_bytes} is less than the {least} of the shortest codes")
    return None


def largest(count: int, dtypes: Sequence[CodebookDtype], payload_bytes: int, shape: tuple[int, int]) -> AdaCompConfig | None:
    """``count`` code-books, each half as long as the one before, as long as rows of 0.8 of the longest fit on average.

    Of ``dtypes`` that which leaves room for the longest; of equals the first.
    """

    def make(longest: int, dtype: CodebookDtype) -> AdaCompConfig:
        lengths = tuple(longest >> book for book in range(count))
        return AdaCompConfig(code_lengths=lengths, code_values="pm1", codebook_dtype=dtype, max_payload_bytes=payload_bytes)

    def fits(config: AdaCompConfig) -> bool:
        mean = math.ceil(shape[0] * _MEAN_LENGTH * config.code_lengths[0] / 8)
        return mean + fixed_bytes(config, shape) <= payload_bytes and too_few_bytes(config, shape) is None

    found = []
    for dtype in dtypes:
        low, high = 1 << (count - 1), min(8192, _MAX_BITS_A_COLUMN * shape[1])
        if high < low or not fits(make(low, dtype)):
            continue
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(make(middle, dtype)) else (low, middle - 1)
        found.append(make(low, dtype))
    return max(found, key=lambda config: config.code_lengths[0], default=None)


def stream(books: Tensor, codes: Tensor, code_lengths: Sequence[int]) -> Tensor:
    """The bits of every row in its own code-book, one row after the other, packed.

    Args:
        books: (N,) int64.
        codes: (N, T) bool, every row's in every code-book.
        code_lengths: n_k.
    """
    bits = torch.tensor(code_lengths, device=codes.device)[books]
    offsets = bits.cumsum(0) - bits
    flat = torch.zeros(int(bits.sum()), dtype=torch.bool, device=codes.device)
    for book, code in enumerate(torch.split(codes, list(code_lengths), dim=1)):
        members = (books == book).nonzero()[:, 0]
        flat[offsets[members][:, None] + torch.arange(code_lengths[book], device=codes.device)] = code[members]
    return pack_flat(flat)


def check_state(state: Mapping[str, Tensor], config: AdaCompConfig, num_rows: int) -> None:
    """Refuse tensors of a file that do not belong together.

    Raises:
        InputError: the decoders are of another type, or there are fewer bits than the rows have at the least.
    """
    check_stored(state, "decoder", config.codebook_dtype)
    if 8 * len(state["codes"]) < num_rows * min(config.code_lengths):
        raise InputError(f"codes has fewer bits than {num_rows} rows")
