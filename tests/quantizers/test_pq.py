"""Product quantization on tables worked out by hand."""

import pytest
import torch

from quantizers import create, get, make_config


def test_two_blocks_by_hand() -> None:
    """Two distinct halves a block: the codebooks are those halves, and nothing is lost."""
    table = torch.tensor([[0.0, 0, 5, 5], [1, 1, 5, 5], [0, 0, 7, 7], [1, 1, 7, 7]])
    q = create("pq", num_codebooks=2, codebook_size=2).fit(table)
    assert torch.equal(q.to_dense(), table)
    assert sorted(q.codebooks[:, :2].tolist()) == [[0, 0], [1, 1]]
    assert sorted(q.codebooks[:, 2:].tolist()) == [[5, 5], [7, 7]]
    codes = q.codes()
    assert codes[0, 0] == codes[2, 0] != codes[1, 0] and codes[0, 1] == codes[1, 1] != codes[2, 1]
    assert q.state()["codes"].flatten().tolist() == [int(a) + 2 * int(b) for a, b in codes]


@pytest.mark.parametrize(
    ("config", "shape", "payload"),
    [
        ({"num_codebooks": 8, "codebook_size": 400}, (10_000, 200), 10_000 * 9 + 400 * 200 * 4),  # 72 bits
        ({"num_codebooks": 3, "codebook_size": 256}, (100, 10), 100 * 3 + 256 * 10 * 4),
        ({"num_codebooks": 3, "codebook_size": 8, "codebook_dtype": "float16"}, (100, 10), 100 * 2 + 8 * 10 * 2),
        ({"num_codebooks": 1, "codebook_size": 65_536}, (100, 2), 100 * 2 + 65_536 * 2 * 4),
    ],
)
def test_payload_by_hand(config: dict[str, object], shape: tuple[int, int], payload: int) -> None:
    assert get("pq").storage(make_config("pq", config), shape).payload_bytes == payload


def test_blocks_of_unequal_width_cover_every_column() -> None:
    table = torch.randn(60, 10, generator=torch.Generator().manual_seed(0))
    q = create("pq", num_codebooks=4, codebook_size=60).fit(table)  # as many codewords as rows: lossless
    torch.testing.assert_close(q.to_dense(), table)
    assert q.codebooks.shape == (60, 10)


def test_codes_are_the_nearest_codewords() -> None:
    table = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    q = create("pq", num_codebooks=3, codebook_size=16).fit(table)
    for block in range(3):
        columns = slice(2 * block, 2 * block + 2)
        distances = torch.cdist(table[:, columns], q.codebooks[:, columns])
        chosen = distances.gather(1, q.codes()[:, block : block + 1]).flatten()
        torch.testing.assert_close(chosen, distances.amin(dim=1), rtol=1e-4, atol=1e-5)
    assert torch.equal(q.encode(table), q.state()["codes"])


def test_random_basis_is_rows_of_the_table_and_worse() -> None:
    table = torch.randn(500, 8, generator=torch.Generator().manual_seed(2))
    learned = create("pq", num_codebooks=2, codebook_size=16).fit(table)
    random = create("pq", num_codebooks=2, codebook_size=16, basis="random").fit(table)
    left = random.codebooks[:, :4]
    assert all((table[:, :4] == row).all(dim=1).any() for row in left)
    assert (random.to_dense() - table).square().mean() > 1.05 * (learned.to_dense() - table).square().mean()


def test_more_blocks_than_columns_is_skipped_and_large_codebooks_too() -> None:
    assert "columns" in get("pq").check(make_config("pq", {"num_codebooks": 9, "codebook_size": 4}), (100, 8)).reason
    assert "100 rows" in get("pq").check(make_config("pq", {"num_codebooks": 2, "codebook_size": 128}), (100, 8)).reason
    assert get("pq").check(make_config("pq", {"num_codebooks": 8, "codebook_size": 100}), (100, 8)) is None
