"""The drop-in module: look-ups, moves, copies, training, and what training saves."""

import copy
import math
import pickle

import pytest
import torch

from quantizers import CompressedEmbedding, read


def test_ids_of_any_shape(case, fitted, ids_of):
    quantizer = fitted(case)
    module = quantizer.module()
    ids = ids_of(quantizer)
    dense = module.to_dense()
    assert dense.shape == quantizer.shape and dense.dtype == torch.float32
    for shaped in (ids[0], ids, ids[:4].reshape(2, 2), ids[:0], ids[:0].reshape(0, 3), ids.to(torch.int32)):
        rows = module(shaped)
        assert rows.shape == (*shaped.shape, quantizer.embedding_dim)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, dense[shaped.to(torch.int64)], rtol=1e-6, atol=1e-6)
    assert quantizer.reconstruct(ids[:0]).shape == (0, quantizer.embedding_dim)
    assert f"method={case.cls.name}" in repr(module)
    assert str(quantizer.payload_bytes) in repr(module)


def test_ids_out_of_range(method, fitted):
    quantizer = fitted(method.first)
    module = quantizer.module().to("cpu")
    for wrong in (-1, quantizer.num_embeddings):
        with pytest.raises(IndexError, match="ids"):
            module(torch.tensor([0, wrong]))
    with pytest.raises(TypeError, match="integers"):
        module(torch.tensor([0.0]))


def test_rows_do_not_depend_on_the_batch(case, fitted, ids_of):
    quantizer = fitted(case)
    ids = ids_of(quantizer)
    one_by_one = torch.cat([quantizer.reconstruct(row[None]) for row in ids])
    together = quantizer.reconstruct(ids)
    if case.cls.lookup:
        assert torch.equal(one_by_one, together)
        assert torch.equal(together, quantizer.to_dense()[ids])
    else:
        torch.testing.assert_close(one_by_one, together, rtol=1e-5, atol=1e-5)


def test_copies_are_equal_and_apart(case, fitted, same_state):
    quantizer = fitted(case)
    module = quantizer.module()
    for other in (pickle.loads(pickle.dumps(quantizer)), copy.deepcopy(quantizer)):
        same_state(other, quantizer)
        assert torch.equal(other.to_dense(), quantizer.to_dense())
        assert other.words == quantizer.words and other.config == quantizer.config
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(other.to_dense(), module.to_dense())
        same_state(other.quantizer, quantizer)
        for tensor in other.state_dict().values():
            tensor.zero_()
    assert len(pickle.dumps(quantizer)) < 2 * quantizer.payload_bytes + 100_000


def test_state_dict_round_trip(case, fitted, same_state):
    quantizer = fitted(case)
    blank = copy.deepcopy(quantizer).module()
    for tensor in blank.state_dict().values():
        tensor.zero_()
    blank.load_state_dict(quantizer.module().state_dict())
    same_state(blank.quantizer, quantizer)
    assert torch.equal(blank.to_dense(), quantizer.to_dense())


def test_moves(device_case, fitted, same_state, ids_of):
    quantizer = fitted(device_case)
    ids = ids_of(quantizer)
    moved = quantizer.to("cpu")
    assert {tensor.device.type for tensor in moved.state().values()} == {"cpu"}
    same_state(moved, quantizer)
    assert moved.words == quantizer.words
    module = copy.deepcopy(quantizer).module().to("cpu")
    torch.testing.assert_close(module(ids.cpu()), quantizer.reconstruct(ids).cpu(), rtol=1e-5, atol=1e-5)


def test_half_changes_what_comes_out_and_not_what_is_stored(case, fitted, same_state, ids_of):
    quantizer = fitted(case)
    ids = ids_of(quantizer)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        module = copy.deepcopy(quantizer).module().to(dtype)
        assert module(ids).dtype == dtype
        assert torch.equal(module(ids), quantizer.reconstruct(ids).to(dtype))
        assert module.payload_bytes == quantizer.payload_bytes
        same_state(module.harden(), quantizer)


def test_reconstruct_is_differentiable(case, fitted, ids_of):
    quantizer = fitted(case)
    module = CompressedEmbedding(quantizer, trainable=True)
    state = quantizer.state()
    floating = {name for name, tensor in state.items() if tensor.is_floating_point() and tensor.numel()}
    in_int8 = {name for name, tensor in state.items() if tensor.dtype == torch.int8 and f"{name}_scale" in floating}
    trained = (floating | in_int8) - {f"{name}_scale" for name in in_int8}  # a product of both is trained
    assert trained <= set(dict(module.named_parameters()))
    if not floating:
        pytest.skip("nothing of its state is a floating-point number")
    module(ids_of(quantizer)).square().sum().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    assert any(gradient is not None and bool(gradient.any()) for gradient in gradients)
    assert all(gradient is None or bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_training(case, fitted, tmp_path):
    table = case.table("realistic")
    quantizer = copy.deepcopy(fitted(case))
    before = quantizer.to_dense()
    module = quantizer.training_module(table, seed=1)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad and parameter.numel()]
    has_floats = any(tensor.is_floating_point() and tensor.numel() for tensor in quantizer.state().values())
    assert parameters or not has_floats, "nothing of it can be trained"
    ids = torch.arange(0, table.num_embeddings, 3, device=table.vectors.device)
    target = torch.full((len(ids), table.embedding_dim), 0.25, device=table.vectors.device)
    optimizer = torch.optim.Adam(parameters, lr=1e-2) if parameters else None
    module.train()
    for step in range(4):
        module.set_progress(step / 4)
        regularizer = module.regularizer()
        assert regularizer.shape == () and math.isfinite(float(regularizer.detach()))
        rows = module(ids)
        assert rows.shape == target.shape and rows.dtype == torch.float32
        loss = (rows - target).square().mean()
        if optimizer is None:
            continue
        optimizer.zero_grad()
        (loss + regularizer).backward()
        moved = [p for p in parameters if p.grad is not None and bool(p.grad.any())]
        assert moved, "no gradient reaches a parameter"
        assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in parameters)
        optimizer.step()
    module.set_progress(1.0)
    module.eval()
    hard = module.harden()
    in_int8 = any(tensor.dtype == torch.int8 for tensor in hard.state().values())
    off = 1e-2 if in_int8 else 2e-3  # codebooks are rounded
    torch.testing.assert_close(module(ids), hard.reconstruct(ids), rtol=2e-3, atol=off)
    if parameters:
        assert not torch.equal(hard.to_dense(), before), "training changed nothing"
    torch.testing.assert_close(quantizer.to_dense(), before, rtol=0, atol=0)  # the fit itself stays as it was
    predicted = case.cls.storage(hard.config, hard.shape)
    hard.save(tmp_path / "trained.safetensors")
    artifact = read(tmp_path / "trained.safetensors")
    assert artifact.storage.payload_bytes <= predicted.payload_bytes
    if predicted.exact:
        assert artifact.storage == predicted
    assert list(artifact.quantizer.words) == list(table.words)
    torch.testing.assert_close(artifact.quantizer.to_dense(), hard.to_dense().cpu(), rtol=1e-6, atol=1e-6)


def test_training_module_can_be_copied(method, fitted):
    quantizer = fitted(method.first)
    module = copy.deepcopy(quantizer).training_module(method.table("realistic"), seed=1).eval()
    ids = torch.arange(10, device=method.device)
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(other(ids), module(ids))
    again = copy.deepcopy(quantizer).training_module(method.table("realistic"), seed=2).eval()
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(ids), module(ids))
