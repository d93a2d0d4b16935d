"""Bytes: what is predicted, what is counted, what is written, and what is read back are the same."""

import itertools

import numpy as np
import pytest
import safetensors.torch
import torch

from quantizers import Budget, Skip, TableStats, load, read


def stored_tensors(path):
    tensors = safetensors.torch.load_file(path)
    tensors.pop("words", None)
    return tensors


def byte_count(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def close(rebuilt, expected, cls):
    if cls.lookup:
        assert torch.equal(rebuilt, expected)
    else:
        torch.testing.assert_close(rebuilt, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_predicted_counted_and_written_bytes_agree(case, fitted, tmp_path):
    quantizer = fitted(case)
    predicted, measured = case.cls.storage(case.config, quantizer.shape), quantizer.measured_storage()
    if predicted.exact:
        assert measured == predicted
    else:
        assert measured.payload_bytes <= predicted.payload_bytes
    path = tmp_path / "table.safetensors"
    returned = quantizer.save(path)
    artifact = read(path)
    assert byte_count(stored_tensors(path)) == measured.payload_bytes == quantizer.payload_bytes
    assert artifact.storage == measured
    assert artifact.file_bytes == returned == path.stat().st_size
    assert artifact.vocab_bytes == len("\n".join(quantizer.words))
    assert artifact.file_bytes >= measured.payload_bytes + artifact.vocab_bytes


def test_every_state_tensor_has_a_role_and_memory_of_its_own(case, observed):
    table, state = observed(case).table, observed(case).quantizer.state()
    assert set(state) <= set(case.cls.state_roles)
    assert set(case.cls.state_roles.values()) <= {"code", "codebook", "side"}
    table_memory = table.vectors.untyped_storage().data_ptr()
    owners = [tensor.untyped_storage().data_ptr() for tensor in state.values() if tensor.numel()]
    assert len(set(owners)) == len(owners)
    assert table_memory not in owners
    for name, tensor in state.items():
        assert tensor.is_contiguous(), name
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name
        assert not tensor.requires_grad, name


def test_state_round_trip(case, fitted, same_state):
    quantizer = fitted(case)
    again = case.cls.from_state(case.config, quantizer.state(), shape=quantizer.shape)
    same_state(again, quantizer)
    assert torch.equal(again.to_dense(), quantizer.to_dense())


def test_file_round_trip(case, fitted, same_state, tmp_path):
    quantizer = fitted(case)
    quantizer.save(tmp_path / "one.safetensors")
    quantizer.save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    artifact = read(tmp_path / "one.safetensors")
    same_state(artifact.quantizer, quantizer)
    assert artifact.quantizer.config == case.config
    assert list(artifact.quantizer.words) == list(quantizer.words)
    close(artifact.quantizer.to_dense(), quantizer.to_dense().cpu(), case.cls)
    artifact.quantizer.save(tmp_path / "three.safetensors")
    assert (tmp_path / "three.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    module = load(tmp_path / "one.safetensors")
    assert module.payload_bytes == quantizer.payload_bytes
    assert module.method == case.cls.name
    close(module.to_dense(), quantizer.to_dense().cpu(), case.cls)


@pytest.mark.thorough
def test_proposals_are_within_their_budget(method, fitted):
    table = method.table("realistic")
    proposals = method.proposals(table)
    assert proposals, "the method proposes nothing at ratios 1 to 32"
    for budget, case in proposals:
        assert case.check(table) is None, case.config
        predicted = method.cls.storage(case.config, table.shape)
        assert predicted.payload_bytes <= budget.payload_bytes, case.config
        quantizer = fitted(case, budget=budget)
        assert quantizer.payload_bytes <= budget.payload_bytes, case.config
        if predicted.exact:
            assert quantizer.measured_storage() == predicted, case.config


@pytest.mark.parametrize("payload_bytes", [0, 1, 7])
@pytest.mark.parametrize("table", ["realistic", "one_value", "two_rows"])
def test_no_configuration_comes_with_a_reason(method, payload_bytes, table):
    stats = TableStats.of(method.table(table))
    proposed = method.cls.configs_for(Budget(payload_bytes), stats)
    if isinstance(proposed, Skip):
        assert proposed.reason.strip()
    else:
        assert proposed
        for config in proposed:
            assert method.cls.storage(config, stats.shape).payload_bytes <= payload_bytes


@pytest.mark.thorough
def test_more_bytes_never_rebuild_worse(method, fitted):
    table = method.table("realistic")
    zeros = float(table.vectors.square().mean())
    recommended = {}
    for budget, case in method.proposals(table):
        recommended.setdefault(budget.payload_bytes, (budget, case))
    errors = []
    for _, (budget, case) in sorted(recommended.items()):
        rebuilt = fitted(case, budget=budget).to_dense()
        errors.append(float((rebuilt - table.vectors).square().mean()))
    assert all(error < zeros for error in errors), f"worse than a table of zeros ({zeros}): {errors}"
    for smaller, larger in itertools.pairwise(errors):
        assert larger <= 1.01 * smaller + 1e-12, errors


@pytest.mark.parametrize("shape", [(10_000, 50), (100_000, 300), (40, 3), (1, 1)])
@pytest.mark.parametrize("ratio", [1, 3, 100, 250, 1000, 10**6, 10**9])
def test_any_budget_has_configurations_within_it_or_a_reason(method, shape, ratio):
    """Without a fit: a budget so small or odd that no table of this suite has it."""
    stats = TableStats(*shape, np.geomspace(1, 1e-3, shape[1]))
    budget = Budget.from_ratio(ratio, shape)
    proposed = method.cls.configs_for(budget, stats)
    if isinstance(proposed, Skip):
        assert proposed.reason
    else:
        assert proposed
        for config in proposed:
            assert method.cls.storage(config, shape).payload_bytes <= budget.payload_bytes
            assert method.cls.check(config, shape) is None
