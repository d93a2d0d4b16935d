"""From packed bits back to numbers (little-endian bit order), and from small floating-point types to float32.

Shapes: N rows, M codes a row, L bytes a row, B batch, T positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def bits_for(values: int) -> int:
    """Bits that one code of so many values takes: ceil(log2), and 1 at least."""
    return max(1, (values - 1).bit_length())


def unpack(packed: Bytes, num_codes: int, bits: int) -> Ints:
    """Codes of one width, every row beginning on a byte: (B, L) -> (B, M)."""
    if bits == 8:
        return packed.astype(np.int64)
    return unpack_widths(packed, np.full(num_codes, bits, dtype=np.int64))


def unpack_widths(packed: Bytes, widths: Ints) -> Ints:
    """Codes of ``widths`` (M,) bits each, 0 to 16, one after another within a row: (B, L) -> (B, M)."""
    start = np.cumsum(widths) - widths
    first, shift = start >> 3, start & 7
    padded = np.pad(packed, ((0, 0), (0, 3))).astype(np.int32)
    value = padded[:, first] | padded[:, first + 1] << 8 | padded[:, first + 2] << 16
    return (value >> shift & (1 << widths) - 1).astype(np.int64)


def read_stream(packed: Bytes, positions: Ints, bits: int) -> Ints:
    """Single codes of a stream without gaps: positions of any shape -> the same shape."""
    bit = positions * bits
    first, last = bit >> 3, max(0, len(packed) - 1)
    value = np.zeros(positions.shape, dtype=np.int64)
    for byte in range((bits + 14) // 8):
        value |= packed[np.minimum(first + byte, last)].astype(np.int64) << 8 * byte
    return value >> (bit & 7) & (1 << bits) - 1


def from_bfloat16(values: NDArray[np.uint16]) -> Floats:
    """The upper half of a float32."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def from_float8_e5m2(values: Bytes) -> Floats:
    """The upper half of a float16."""
    return (values.astype(np.uint16) << 8).view(np.float16).astype(np.float32)


def from_float8_e4m3(values: Bytes) -> Floats:
    """OCP's E4M3: 4 bits of exponent, 3 of fraction, no infinities, NaN where all of them are set."""
    octets = np.arange(256)
    exponent, fraction = octets >> 3 & 15, octets & 7
    size = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    table = np.where(octets & 127 == 127, np.nan, np.where(octets < 128, size, -size)).astype(np.float32)
    return table[values]
