import torch
from hypothesis import given
from hypothesis import strategies as st

from quantizers.coding import bits as packing


def pack_slowly(row, bits):
    """One row by a string of bits, the least significant first."""
    text = "".join(format(code, f"0{bits}b")[::-1] for code in row)
    text += "0" * (-len(text) % 8)
    return [int(text[start : start + 8][::-1], 2) for start in range(0, len(text), 8)]


@st.composite
def code_rows(draw):
    bits = draw(st.integers(1, 16))
    num_codes = draw(st.integers(1, 40))
    row = st.lists(st.integers(0, 2**bits - 1), min_size=num_codes, max_size=num_codes)
    return bits, draw(st.lists(row, min_size=1, max_size=6))


@given(code_rows())
def test_same_bytes_as_a_string_of_bits(case):
    bits, rows = case
    packed = packing.pack(torch.tensor(rows), bits)
    assert packed.tolist() == [pack_slowly(row, bits) for row in rows]
    assert torch.equal(packing.unpack(packed, len(rows[0]), bits), torch.tensor(rows))


@given(code_rows(), st.integers(1, 64))
def test_chunks_do_not_show(case, chunk_codes):
    bits, rows = case
    codes = torch.tensor(rows * 3)
    whole = packing.pack(codes, bits)
    usual = packing._CHUNK_CODES
    packing._CHUNK_CODES = chunk_codes
    try:
        assert torch.equal(packing.pack(codes, bits), whole)
        assert torch.equal(packing.unpack(whole, codes.shape[1], bits), codes)
    finally:
        packing._CHUNK_CODES = usual


@given(code_rows(), st.randoms(use_true_random=False))
def test_rows_are_read_alone_and_from_views(case, random):
    bits, rows = case
    codes = torch.tensor(rows)
    packed = packing.pack(codes, bits)
    row = random.randrange(len(rows))
    assert torch.equal(packing.unpack(packed[row : row + 1], codes.shape[1], bits), codes[row : row + 1])
    wide = torch.full((len(rows), 2 * packed.shape[1]), 255, dtype=torch.uint8)
    wide[:, ::2] = packed
    assert torch.equal(packing.unpack(wide[:, ::2], codes.shape[1], bits), codes)
    assert torch.equal(packing.pack(codes.T.contiguous().T, bits), packed)


@given(st.integers(1, 70_000))
def test_bits_for_is_the_smallest_that_holds(size):
    bits = packing.bits_for(size)
    assert size <= 2**bits
    assert bits == 1 or size > 2 ** (bits - 1)
