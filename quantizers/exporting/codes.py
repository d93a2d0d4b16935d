"""Codes and codebooks in the formats of the DCCL programs, for other tools and for looking at.

Codes: one line a word, ``word<TAB>c1 c2 ... cM``. Codebook: a NumPy file of (M*K, D) float32, codeword k of book m in row
m*K + k, so that the vector of a word is the sum of the rows m*K + c_m.

Reference: the authors' ``export`` (https://github.com/zomux/neuralcompressor), whose lines have no words.

Shapes: N rows, D columns, M codes a row, K values of a code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from quantizers.base import CHUNK_ROWS, Quantizer
from quantizers.codes import CodeQuantizer
from quantizers.errors import InputError
from quantizers.files import writing

CODEBOOK_SUFFIX = ".codebook.npy"


def write_codes(quantizer: CodeQuantizer, path: str | Path) -> None:
    """Write every row's codes as text, atomically.

    Args:
        quantizer: a fitted quantizer; without words, row numbers stand for them.
        path: the file to write (UTF-8).

    Raises:
        InputError: a word holds a tab or a line break, or the file cannot be written.
    """
    words = quantizer.words

    def lines() -> Iterator[bytes]:
        for start in range(0, quantizer.num_embeddings, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, quantizer.num_embeddings)
            codes = quantizer.codes(torch.arange(start, stop, device=quantizer.device)).cpu().numpy()
            names = [str(row) for row in range(start, stop)] if words is None else words[start:stop]
            text = "".join(f"{name}\t{' '.join(map(str, row))}\n" for name, row in zip(names, codes.tolist(), strict=True))
            if text.count("\t") != len(codes) or text.count("\n") != len(codes):
                raise InputError(f"{path}: a word holds a tab or a line break, which end a word and a line of codes.")
            yield text.encode("utf-8", "surrogateescape")

    _write(path, lambda out: out.writelines(lines()))


def write_codebook(quantizer: CodeQuantizer, path: str | Path) -> None:
    """Write the codebooks as a ``.npy`` file of (M*K, D) float32, atomically.

    The codewords of product quantization stand in their columns, with zeros in all others; those of a rotated table are
    rotated back.

    Args:
        quantizer: a fitted quantizer whose ``codebooks`` are (M, K, D), or (K, D) with M blocks of columns side by side.
        path: the file to write, under the name given.

    Raises:
        InputError: the method has no codewords that add up to a row (:func:`refusal`), or the file cannot be written.
    """
    reason = refusal(quantizer)
    if reason is not None:
        raise InputError(f"{path}: {quantizer.name} has no codebook to write: {reason}.")
    rows = _codewords(quantizer).detach().cpu().numpy()
    _write(path, lambda out: np.save(out, rows))


def shared_codes(quantizer: CodeQuantizer, row: int, rows: Sequence[int] | Tensor) -> Tensor:
    """How many codes other rows have in common with one: related words share most of theirs.

    Args:
        quantizer: a fitted quantizer.
        row: the row to compare with.
        rows: (B,) row numbers.

    Returns:
        (B,) int64, 0 to M.
    """
    ids = torch.as_tensor(rows, dtype=torch.int64, device=quantizer.device)
    own = quantizer.codes(torch.tensor([row], device=quantizer.device))
    return (quantizer.codes(ids) == own).sum(dim=1)


def refusal(quantizer: Quantizer | type[Quantizer]) -> str | None:
    """Why codes and a codebook would not rebuild a row by adding codewords up, or None where they do."""
    if "codes" not in quantizer.state_roles or "codebooks" not in quantizer.state_roles:
        return "its rows are not sums of codewords"
    return None


def _codewords(quantizer: CodeQuantizer) -> Tensor:
    books = quantizer.codewords("codebooks")
    if books.ndim == 3:
        return books.reshape(-1, books.shape[2])
    size, dim = books.shape
    num_codes = quantizer.num_codes(quantizer.config, dim)
    wide = torch.zeros((num_codes, size, dim), device=books.device)
    for book, columns in zip(wide, torch.arange(dim, device=books.device).tensor_split(num_codes), strict=True):
        book[:, columns] = books[:, columns]
    rows = wide.reshape(-1, dim)
    return rows @ quantizer.codewords("rotation").T if "rotation" in quantizer.state() else rows


def _write(path: str | Path, fill: Callable[[BinaryIO], object]) -> None:
    with writing(path) as out:
        fill(out)
