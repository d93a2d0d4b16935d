import pytest
import torch

from quantizers.coding.bits import bits_for, pack, row_bytes, unpack

# Bit i of a row is bit i % 8 of byte i // 8; code m begins at bit m * bits. Every row was written out by hand.
BY_HAND = [
    pytest.param(1, [1, 0, 1, 1, 0, 0, 0, 0, 1], [0b0000_1101, 0b0000_0001], id="1 bit"),
    pytest.param(2, [3, 0, 1, 2, 1], [0b10_01_00_11, 0b01], id="2 bits"),
    pytest.param(3, [5, 2, 7], [0b11_010_101, 0b1], id="3 bits: the third code lies across two bytes"),
    pytest.param(4, [0x1, 0xF, 0xA], [0xF1, 0x0A], id="4 bits: two codes a byte, the low half first"),
    pytest.param(8, [0, 255, 18], [0, 255, 18], id="8 bits"),
    pytest.param(9, [0x1FF, 0x001, 0x155], [0xFF, 0b0000001_1, 0b010101_00, 0b101], id="9 bits"),
    pytest.param(12, [0xABC, 0x123, 0xF0F], [0xBC, 0x3A, 0x12, 0x0F, 0x0F], id="12 bits: two codes in three bytes"),
    pytest.param(15, [0x7FFF, 0x0001], [0xFF, 0b1_1111111, 0b0000000, 0b0], id="15 bits"),
    pytest.param(16, [0xABCD, 0x0102], [0xCD, 0xAB, 0x02, 0x01], id="16 bits: the low byte first"),
]


@pytest.mark.parametrize(("bits", "codes", "expected"), BY_HAND)
def test_bytes_written_out_by_hand(bits, codes, expected):
    rows = torch.tensor([codes, codes[::-1], codes])
    packed = pack(rows, bits)
    assert packed.dtype == torch.uint8
    assert packed[0].tolist() == expected == packed[2].tolist()
    assert torch.equal(unpack(packed, len(codes), bits), rows)
    assert unpack(packed, len(codes), bits).dtype == torch.int64


def test_a_row_of_another_length_does_not_share_a_byte():
    packed = pack(torch.tensor([[7], [7]]), 3)
    assert packed.tolist() == [[7], [7]]


@pytest.mark.parametrize(
    ("size", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (16, 4), (17, 5), (256, 8), (400, 9), (65_536, 16)]
)
def test_bits_for(size, bits):
    assert bits_for(size) == bits


@pytest.mark.parametrize(
    ("num_codes", "bits", "length"),
    [(0, 5, 0), (1, 1, 1), (8, 1, 1), (9, 1, 2), (8, 9, 9), (3, 9, 4), (16, 4, 8), (5, 16, 10)],
)
def test_row_bytes(num_codes, bits, length):
    assert row_bytes(num_codes, bits) == length
    assert pack(torch.zeros((2, num_codes), dtype=torch.int64), bits).shape == (2, length)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_any_integer_type(dtype):
    assert pack(torch.tensor([[1, 0, 1]], dtype=dtype), 1).tolist() == [[0b101]]


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        (torch.tensor([[8]]), 3, r"\[0, 8\).*found 8 to 8"),
        (torch.tensor([[256, 0]]), 8, r"\[0, 256\)"),
        (torch.tensor([[65_536]]), 16, r"\[0, 65536\)"),
        (torch.tensor([[0, -1]]), 4, "found -1 to 0"),
        (torch.tensor([[1]]), 0, "between 1 and 16"),
        (torch.tensor([[1]]), 17, "between 1 and 16"),
        (torch.tensor([1, 2]), 4, r"\(N, M\) integers"),
        (torch.tensor([[1.0]]), 4, "integers, not"),
    ],
)
def test_pack_refuses(codes, bits, message):
    with pytest.raises(ValueError, match=message):
        pack(codes, bits)


@pytest.mark.parametrize(
    ("packed", "num_codes", "bits"),
    [
        (torch.zeros((2, 3), dtype=torch.uint8), 4, 4),  # 4 codes of 4 bits take 2 bytes
        (torch.zeros((2, 1), dtype=torch.uint8), 4, 4),
        (torch.zeros(2, dtype=torch.uint8), 4, 4),
        (torch.zeros((2, 2), dtype=torch.int64), 4, 4),
        (torch.zeros((2, 2), dtype=torch.uint8), 1, 17),
    ],
)
def test_unpack_refuses(packed, num_codes, bits):
    with pytest.raises(ValueError, match="must be"):
        unpack(packed, num_codes, bits)


def test_codebook_size_below_one():
    with pytest.raises(ValueError, match="at least 1"):
        bits_for(0)
