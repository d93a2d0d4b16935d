"""Methods that learn on a sample: rows encoded 1,000 at a time come out as those encoded 100,000 at a time."""

import pytest
import torch

import quantizers
from quantizers.base import generator
from quantizers.table import Table

METHODS = {
    "pq": {"num_codebooks": 5, "codebook_size": 20},
    "opq": {"num_codebooks": 4, "codebook_size": 16, "rounds": 2},
    "rq": {"num_codebooks": 3, "codebook_size": 30, "train_rows": 5000, "iterations": 4},
    "lsq": {"num_codebooks": 3, "codebook_size": 16, "train_rows": 5000, "rounds": 2},
    "lowrank": {"rank": 5, "factor_bits": 4},
    "scalar": {"bits": 3},
    "transform": {"row_bits": 30, "rank": 10},
    "transform_entropy": {"row_bits": 40, "rank": 10},
    "trellis": {"row_bits": 24, "rank": 6, "states": 4},
}


def table(num_rows, dim=12):
    random = torch.Generator().manual_seed(3)
    return Table(torch.randn(num_rows, dim, generator=random) * 0.8 ** torch.arange(dim) + 0.2)


def test_all_that_learn_on_a_sample_are_here():
    assert set(METHODS) == {name for name, cls in quantizers.list_methods().items() if cls.learns_on_sample}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_chunks_of_1_000_and_of_100_000_rows_give_the_same_file(method, tmp_path):
    files = []
    for rows in (1_000, 100_000):
        quantizer = quantizers.create(method, **METHODS[method])
        quantizer.chunk_rows = rows
        quantizer.fit(table(120_000)).save(tmp_path / f"{rows}.safetensors")
        files.append((tmp_path / f"{rows}.safetensors").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("method", ["pq", "rq", "lsq"])
def test_a_sample_does_nearly_as_well_as_all_rows(method):
    x = table(6000)
    errors = []
    for rows in (1500, 6000):
        found = quantizers.create(method, **METHODS[method] | {"train_rows": rows}).fit(x)
        assert found.resolved()["train_rows"] == rows
        errors.append(float((found.to_dense() - x.vectors).square().mean()))
    assert errors[1] < errors[0] < 1.05 * errors[1]


def test_local_search_learns_on_all_rows_whatever_its_start_learns_on():
    x = table(6000)
    seen = torch.zeros(6000, dtype=torch.bool)
    seen[torch.randperm(6000, generator=generator(0, 0))[:300]] = True

    def gap(method):
        found = quantizers.create(method, num_codebooks=4, codebook_size=16, train_rows=300).fit(x)
        errors = (found.to_dense() - x.vectors).square().sum(dim=1)
        return float(errors[~seen].mean() / errors[seen].mean())

    assert gap("rq") > 1.8
    assert gap("lsq") < 1.3
