"""Fixed-width codes of 1 to 16 bits, packed row by row into bytes (little-endian bit order).

Every row starts on a byte, so that one row can be read alone: M codes of b bits take ceil(M * b / 8) bytes. Code m of
a row occupies the bits m*b .. (m+1)*b - 1, bit i of the row being bit (i mod 8) of byte i // 8.

Shapes: N rows, M codes a row, L bytes a row.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

MAX_BITS = 16
_CHUNK_CODES = 1 << 22  # bounds the int32 temporaries to some tens of MB


def bits_for(codebook_size: int) -> int:
    """Bits that one code of ``codebook_size`` values takes: ceil(log2 K), and 1 at least."""
    if codebook_size < 1:
        raise ValueError(f"codebook_size must be at least 1, not {codebook_size}")
    return max(1, (codebook_size - 1).bit_length())


def row_bytes(num_codes: int, bits: int) -> int:
    """Bytes L that one row of ``num_codes`` codes takes."""
    return (num_codes * bits + 7) // 8


def _check(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits must be between 1 and {MAX_BITS}, not {bits}")


@functools.lru_cache(maxsize=256)
def _layout(num_codes: int, bits: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each code its first byte and its shift within it: two int64/int32 tensors of (M,)."""
    start = torch.arange(num_codes, dtype=torch.int64) * bits
    return (start // 8).to(device), (start % 8).to(torch.int32).to(device)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack integer codes.

    Args:
        codes: (N, M) integers, each in [0, 2**bits).
        bits: bits a code, 1 to 16.

    Returns:
        (N, L) uint8 on the device of ``codes``.

    Raises:
        ValueError: a code is negative or needs more than ``bits`` bits.
    """
    _check(bits)
    if codes.ndim != 2:
        raise ValueError(f"codes must be (N, M), not {tuple(codes.shape)}")
    num_rows, num_codes = codes.shape
    out = torch.empty((num_rows, row_bytes(num_codes, bits)), dtype=torch.uint8, device=codes.device)
    if codes.numel() == 0:
        return out
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= 1 << bits:
        raise ValueError(f"codes must be in [0, {1 << bits}) to take {bits} bits; found {low} to {high}")
    if bits == 8:
        return out.copy_(codes)
    first, shift = _layout(num_codes, bits, codes.device)
    step = max(1, _CHUNK_CODES // num_codes)
    for begin in range(0, num_rows, step):
        part = codes[begin : begin + step].to(torch.int32) << shift
        # The bits of different codes are disjoint, so that adding them is or-ing them. A code of at most 16 bits,
        # shifted by at most 7, touches at most three bytes.
        total = torch.zeros((len(part), out.shape[1] + 2), dtype=torch.int32, device=codes.device)
        for byte in range((bits + 7 + 7) // 8):
            total.index_add_(1, first + byte, (part >> (8 * byte)) & 0xFF)
        out[begin : begin + step] = total[:, : out.shape[1]].to(torch.uint8)
    return out


def unpack(packed: Tensor, num_codes: int, bits: int) -> Tensor:
    """Undo :func:`pack`.

    Args:
        packed: (N, L) uint8.
        num_codes: M.
        bits: bits a code, 1 to 16.

    Returns:
        (N, M) int64 codes (the type that torch indexes with).

    Raises:
        ValueError: L is not what M codes of ``bits`` bits take.
    """
    _check(bits)
    length = row_bytes(num_codes, bits)
    if packed.ndim != 2 or packed.shape[1] != length or packed.dtype != torch.uint8:
        raise ValueError(f"packed codes must be (N, {length}) uint8, not {tuple(packed.shape)} {packed.dtype}")
    if bits == 8:
        return packed.to(torch.int64)
    first, shift = _layout(num_codes, bits, packed.device)
    num_rows = len(packed)
    out = torch.empty((num_rows, num_codes), dtype=torch.int64, device=packed.device)
    step = max(1, _CHUNK_CODES // max(1, num_codes))
    for begin in range(0, num_rows, step):
        part = packed[begin : begin + step]
        padded = torch.nn.functional.pad(part, (0, 2)).to(torch.int32)
        value = padded[:, first]
        for byte in range(1, (bits + 7 + 7) // 8):
            value |= padded[:, first + byte] << (8 * byte)
        out[begin : begin + step] = (value >> shift) & ((1 << bits) - 1)
    return out
