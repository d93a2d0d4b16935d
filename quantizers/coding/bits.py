"""Fixed-width codes of 1 to 16 bits, packed row by row into bytes (little-endian bit order).

Every row starts on a byte, so that one row can be read alone: M codes of b bits take ceil(M * b / 8) bytes. Code m of
a row occupies the bits m*b .. (m+1)*b - 1, bit i of the row being bit (i mod 8) of byte i // 8.

Shapes: N rows, M codes a row, L bytes a row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_BITS = 16
_CHUNK_CODES = 1 << 18  # keeps the temporaries of one step in the processor's cache
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


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


def _group(bits: int) -> tuple[int, int]:
    """The fewest codes that fill whole bytes, and those bytes: 2 codes of 4 bits fill 1, 8 codes of 9 bits fill 9."""
    codes = 8 // math.gcd(8, bits)
    return codes, codes * bits // 8


def _places(bits: int) -> list[tuple[int, int, int]]:
    """For each code of a group its first byte, its shift within that, and how many bytes it touches (3 at the most)."""
    codes, _ = _group(bits)
    starts = [divmod(code * bits, 8) for code in range(codes)]
    return [(first, shift, row_bytes(1, shift + bits)) for first, shift in starts]


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack integer codes.

    Args:
        codes: (N, M) integers (or booleans), each in [0, 2**bits).
        bits: bits a code, 1 to 16.

    Returns:
        (N, L) uint8 on the device of ``codes``.

    Raises:
        ValueError: the codes are not integers, or one is negative or needs more than ``bits`` bits.
    """
    _check(bits)
    if codes.ndim != 2 or codes.dtype not in _INTEGERS:
        raise ValueError(f"codes must be (N, M) integers, not {tuple(codes.shape)} {codes.dtype}")
    num_rows, num_codes = codes.shape
    out = torch.empty((num_rows, row_bytes(num_codes, bits)), dtype=torch.uint8, device=codes.device)
    if codes.numel() == 0:
        return out
    low, high = (int(value) for value in torch.aminmax(codes))
    if low < 0 or high >= 1 << bits:
        raise ValueError(f"codes must be in [0, {1 << bits}) to take {bits} bits; found {low} to {high}")
    if bits == 8:
        return out.copy_(codes)
    group_codes, group_bytes = _group(bits)
    groups = -(-num_codes // group_codes)
    step = max(1, _CHUNK_CODES // num_codes)
    for begin in range(0, num_rows, step):
        part = codes[begin : begin + step].to(torch.int32)
        part = torch.nn.functional.pad(part, (0, groups * group_codes - num_codes))
        part = part.view(len(part), groups, group_codes)
        total = torch.zeros((len(part), groups, group_bytes), dtype=torch.uint8, device=codes.device)
        for code, (first, shift, touched) in enumerate(_places(bits)):
            value = part[..., code] << shift
            for byte in range(touched):
                total[..., first + byte] |= (value >> (8 * byte) & 0xFF).to(torch.uint8)
        out[begin : begin + step] = total.flatten(1)[:, : out.shape[1]]
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
    num_rows = len(packed)
    group_codes, group_bytes = _group(bits)
    groups = -(-num_codes // group_codes)
    out = torch.empty((num_rows, groups, group_codes), dtype=torch.int64, device=packed.device)
    step = max(1, _CHUNK_CODES // max(1, num_codes))
    for begin in range(0, num_rows, step):
        part = torch.nn.functional.pad(packed[begin : begin + step], (0, groups * group_bytes - length))
        part = part.view(len(part), groups, group_bytes)
        for code, (first, shift, touched) in enumerate(_places(bits)):
            value = part[..., first]
            if touched > 1:
                value = value.to(torch.int32)
                for byte in range(1, touched):
                    value |= part[..., first + byte].to(torch.int32) << (8 * byte)
            out[begin : begin + step, :, code] = (value >> shift) & ((1 << bits) - 1)
    return out.flatten(1)[:, :num_codes].contiguous()
