"""Codes packed without gaps, one after another over all rows, or in rows of codes of different widths (little-endian).

Unlike :mod:`quantizers.coding.bits`, neither a row of a stream nor a code of a row need start on a byte.

Shapes: T codes of a stream, N rows, r codes a row, L bytes a row, B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.coding.bits import pack, row_bytes, unpack


def pack_stream(codes: Tensor, bits: int) -> Tensor:
    """Codes (T,) without gaps: ceil(T * bits / 8) bytes, code t in the bits t * bits .. of the stream."""
    groups = torch.nn.functional.pad(codes, (0, -len(codes) % 8)).reshape(-1, 8)  # 8 codes fill whole bytes
    return pack(groups, bits).reshape(-1)[: row_bytes(len(codes), bits)].clone()


def unpack_stream(packed: Tensor, num_codes: int, bits: int) -> Tensor:
    """Undo :func:`pack_stream`: (T,) int64."""
    padded = torch.nn.functional.pad(packed, (0, -len(packed) % bits)).reshape(-1, bits)
    return unpack(padded, 8, bits).reshape(-1)[:num_codes]


def read_stream(packed: Tensor, positions: Tensor, bits: int) -> Tensor:
    """Single codes of a packed stream: positions (T,) -> (T,) int64."""
    bit = positions * bits
    first, last = bit >> 3, len(packed) - 1
    value = packed[first].to(torch.int64)
    for byte in range(1, (bits + 7 + 7) // 8):
        value |= packed[(first + byte).clamp_max(last)].to(torch.int64) << (8 * byte)
    return (value >> (bit & 7)) & ((1 << bits) - 1)


def pack_flat(bits: Tensor) -> Tensor:
    """(T,) booleans as ceil(T / 8) bytes, without gaps."""
    lines = torch.nn.functional.pad(bits, (0, -len(bits) % 4096)).view(-1, 4096)  # so that packing goes piece by piece
    return pack(lines, 1).reshape(-1)[: row_bytes(len(bits), 1)]


def _places(bits: Tensor) -> tuple[Tensor, Tensor]:
    """First byte and shift within it of each code of a row: (r,) int64, (r,) int32."""
    start = bits.cumsum(0) - bits
    return start >> 3, (start & 7).to(torch.int32)


def pack_widths(codes: Tensor, bits: Tensor) -> Tensor:
    """Codes (N, r) int32 of ``bits`` (r,) int64 bits each, 0 to 8, one after another: (N, L) uint8, little-endian."""
    first, shift = _places(bits)
    length = row_bytes(int(bits.sum()), 1)
    total = torch.zeros((len(codes), length + 2), dtype=torch.int32, device=codes.device)
    shifted = codes << shift
    # The bits of different codes are disjoint: adding them is or-ing them.
    total.index_add_(1, first, shifted & 0xFF).index_add_(1, first + 1, shifted >> 8)
    return total[:, :length].to(torch.uint8)


def unpack_widths(packed: Tensor, bits: Tensor) -> Tensor:
    """Undo :func:`pack_widths`: (N, L) uint8 -> (N, r) int64."""
    first, shift = _places(bits)
    padded = torch.nn.functional.pad(packed, (0, 2)).to(torch.int32)
    value = (padded[:, first] | padded[:, first + 1] << 8) >> shift
    return (value & ((1 << bits) - 1).to(torch.int32)).to(torch.int64)


def unpack_bits(packed: Tensor, num_bits: int) -> Tensor:
    """Bits as numbers to multiply with: (B, L) uint8 -> (B, n) float32 of 0 and 1."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = (packed[:, :, None] >> shifts) & 1
    return bits.flatten(1)[:, :num_bits].to(torch.float32)
