"""How codewords are stored: float32, float16, or int8 with a float16 factor for each codeword.

A tensor called ``codebooks`` (any name will do) is of the type that the configuration's ``codebook_dtype`` says. In int8 it
has its factors beside it as ``codebooks_scale``, and a codeword is its whole numbers times its factor, exact in float32.
A row of a tensor may hold several codewords side by side, as in product quantization: it has that many factors.

Bytes of a codeword of d values: 4 d, 2 d, or d + 2. Rounding a codeword to float16 costs nothing that can be measured
(relative 2**-11); rounding it to int8 adds about 3e-5 of the codewords' variance to the squared error.

Shapes: D columns of a tensor, M codewords side by side in a row of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from quantizers.coding.dtypes import DTYPES, codebook_dtype_for
from quantizers.coding.int8 import from_int8, to_int8
from quantizers.errors import InputError
from quantizers.table import TableStats

CodebookDtype = Literal["float32", "float16", "int8"]
INT8_NOISE = 3e-5  # of the codewords' variance, measured on codebooks of 50 to 100 columns
_FACTOR = torch.float16


def stored_bytes(rows: int, columns: int, dtype: CodebookDtype, *, side_by_side: int = 1) -> int:
    """Bytes of ``rows`` rows of ``columns`` values, each row holding so many codewords side by side; exact."""
    if dtype == "int8":
        return rows * (columns + side_by_side * _FACTOR.itemsize)
    return rows * columns * DTYPES[dtype].itemsize


def stored(name: str, vectors: Tensor, dtype: CodebookDtype, *, side_by_side: int | None = None) -> dict[str, Tensor]:
    """Codewords as tensors of a state; values are cut off at the largest that the type has.

    Args:
        name: of the tensor.
        vectors: (.., D), floating-point.
        dtype: what they are stored in.
        side_by_side: M, where rows hold several codewords.

    Returns:
        ``name``, and in int8 ``name_scale``: (..), or (.., M) where ``side_by_side`` is given.
    """
    if dtype == "int8":
        whole, factors = to_int8(vectors, factor_dtype=_FACTOR, blocks=side_by_side)
        return {name: whole, f"{name}_scale": factors}
    largest = torch.finfo(DTYPES[dtype]).max
    return {name: vectors.clamp(-largest, largest).to(DTYPES[dtype])}


def codewords(state: Mapping[str, Tensor], name: str) -> Tensor:
    """What :func:`stored` holds, as float32 of the same shape. A tensor that is being trained is its values already."""
    tensor = state[name]
    if tensor.is_floating_point():
        return tensor.to(torch.float32)
    return from_int8(tensor, state[f"{name}_scale"])


def rounded(vectors: Tensor, dtype: CodebookDtype, *, side_by_side: int | None = None) -> Tensor:
    """Codewords as they will be read back, float32."""
    return codewords(stored("codewords", vectors, dtype, side_by_side=side_by_side), "codewords")


def check_stored(state: Mapping[str, Tensor], name: str, dtype: CodebookDtype, *, side_by_side: int | None = None) -> None:
    """Refuse tensors of a file that :func:`stored` would not have written.

    Raises:
        InputError: a type or a shape is another.
    """
    tensor, scale = state[name], state.get(f"{name}_scale")
    if dtype != "int8":
        if scale is not None or tensor.dtype != DTYPES[dtype]:
            raise InputError(f"{name} is {tensor.dtype}{'' if scale is None else ' with factors'}, codebook_dtype {dtype}")
        return
    if scale is None or tensor.dtype != torch.int8 or scale.dtype != _FACTOR:
        found = None if scale is None else scale.dtype
        raise InputError(f"{name} is {tensor.dtype}, its factors {found}; expected torch.int8 and {_FACTOR}")
    expected = (*tensor.shape[:-1], *(() if side_by_side is None else (side_by_side,)))
    if tuple(scale.shape) != expected:
        raise InputError(f"{name}_scale has the shape {tuple(scale.shape)}, expected {expected}")


def codebook_dtypes_for(stats: TableStats) -> tuple[CodebookDtype, ...]:
    """What codewords of a table may be stored in without a visible loss, the most exact first.

    Where two take as much, or leave room for as many codes, the first is better.
    """
    dtype = codebook_dtype_for(stats)
    return (dtype,) if dtype == "float32" else (dtype, "int8")


class KeptCodewords:
    """Codewords in float32, worked out once and kept until their tensors change: look-ups need them at every call.

    Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tensor, Tensor | None, tuple[int, ...], Tensor]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptCodewords, ()

    def of(self, state: Mapping[str, Tensor], name: str) -> Tensor:
        """:func:`codewords` of ``name``. Differentiable where the tensors are; not to be changed."""
        tensor, scale = state[name], state.get(f"{name}_scale")
        trained = tensor.requires_grad or (scale is not None and scale.requires_grad)
        if tensor.dtype == torch.float32 or trained or torch.compiler.is_compiling():
            return codewords(state, name)
        versions = tuple(0 if one.is_inference() else one._version for one in (tensor, scale) if one is not None)
        kept = self._kept.get(name)
        if kept is None or kept[0] is not tensor or kept[1] is not scale or kept[2] != versions:
            # What is made in inference mode could not take part in a training later.
            with torch.inference_mode(False), torch.no_grad():
                kept = tensor, scale, versions, codewords(state, name)
            self._kept[name] = kept
        return kept[3]
