"""Vectors in 8 bits."""

import torch

from quantizers.coding.int8 import to_int8


def test_by_hand() -> None:
    whole, scale = to_int8(torch.tensor([[127.0, -63.6, 0.4], [0.0, 0.0, 0.0], [-2.54, 1.2, 0.02]]))
    assert whole.tolist() == [[127, -64, 0], [0, 0, 0], [-127, 60, 1]]
    torch.testing.assert_close(scale, torch.tensor([1.0, 0.0, 0.02]))


def test_no_value_is_off_by_more_than_half_a_factor() -> None:
    vectors = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole, scale = to_int8(vectors)
    assert whole.dtype == torch.int8 and scale.dtype == torch.float32
    off = (whole.double() * scale[:, None] - vectors).abs()
    assert bool((off <= 0.5001 * scale[:, None]).all())
