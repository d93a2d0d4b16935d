"""The JavaScript reader, run by Node, over a file of every method: the rows are those that torch gives."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.process


def agree(found, expected, cls, *, of_largest=False):
    """Bit for bit where a row is only looked up, else within 1e-6 of the row's length, or of the largest row's."""
    assert found.shape == expected.shape
    if cls.lookup:
        assert np.array_equal(found, expected)
        return
    error, length = (np.linalg.norm(rows.astype(np.float64), axis=1) for rows in (found - expected, expected))
    assert (error <= 1e-6 * (length.max() if of_largest else length) + 1e-30).all(), float((error / length).max())


def test_rows_words_and_bytes_are_those_of_torch(case, fitted, javascript, tmp_path):
    quantizer = fitted(case)
    path = tmp_path / "table.safetensors"
    size = quantizer.save(path)
    answer = javascript(path, word="word7")
    agree(answer["rows"], quantizer.to_dense().numpy(), case.cls)
    assert (answer["method"], answer["words"]) == (quantizer.name, quantizer.words)
    assert (answer["payloadBytes"], answer["fileBytes"]) == (quantizer.payload_bytes, size)
    # Its neighbours are those of the rebuilt rows.
    rows = torch.nn.functional.normalize(quantizer.to_dense().to(torch.float64), dim=1)
    cosines = rows @ rows[7]
    cosines[7] = -2
    told = answer["found"]["neighbours"]
    assert np.allclose([one["cosine"] for one in told], cosines.topk(10).values, atol=1e-6)
    assert [one["word"] for one in told] == [f"word{one['id']}" for one in told]


def test_tables_at_the_edges(method, edge, fitted, javascript, tmp_path):
    case = method.first
    table = case.table(edge)
    if case.check(table) is not None:
        return
    quantizer = fitted(case, edge)
    quantizer.save(tmp_path / "table.safetensors")
    answer = javascript(tmp_path / "table.safetensors")
    # Where values of a million cancel, it is torch's sums in float32 that are off.
    agree(answer["rows"], quantizer.to_dense().numpy(), case.cls, of_largest=True)
    assert answer["words"] is None
