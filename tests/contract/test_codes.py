"""Methods that give each row M codes: packing, code ranges, encoding of new vectors."""

import torch

from quantizers.coding.bits import bits_for, row_bytes


def test_codes(code_case, fitted, ids_of):
    quantizer = fitted(code_case)
    dim = quantizer.embedding_dim
    num_codes, values = code_case.cls.num_codes(code_case.config, dim), code_case.cls.code_values(code_case.config)
    length = row_bytes(num_codes, bits_for(values))
    assert code_case.cls.code_bytes_per_row(code_case.config, dim) == length
    packed = quantizer.state()["codes"]
    assert packed.dtype == torch.uint8
    assert tuple(packed.shape) == (quantizer.num_embeddings, length)
    codes = quantizer.codes()
    assert tuple(codes.shape) == (quantizer.num_embeddings, num_codes)
    assert int(codes.min()) >= 0 and int(codes.max()) < values
    ids = ids_of(quantizer)
    assert torch.equal(quantizer.codes(ids), codes[ids])
    assert torch.equal(quantizer.decode(packed[ids]), quantizer.reconstruct(ids))


def test_encode(code_case, fitted):
    quantizer, vectors = fitted(code_case), code_case.table("realistic").vectors
    packed = quantizer.encode(vectors)
    assert packed.dtype == torch.uint8
    assert packed.shape == quantizer.state()["codes"].shape
    kept = float((quantizer.to_dense() - vectors).square().mean())
    again = float((quantizer.decode(packed) - vectors).square().mean())
    assert again <= 1.1 * kept + 1e-9, "encoding the table's own rows gives worse codes than it holds"
    one = quantizer.encode(vectors[:1] + 0.01)
    assert tuple(one.shape) == (1, packed.shape[1])
    assert tuple(quantizer.encode(vectors[:0]).shape) == (0, packed.shape[1])
    assert torch.isfinite(quantizer.decode(one)).all()
